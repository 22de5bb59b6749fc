"""Parses --config=FILE[:arguments] and --config.field=value, and explains errors in them."""

from __future__ import annotations

import difflib
import functools
import itertools
import operator
import pathlib
import runpy
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
_FIELD = "--config."
# Type of a field's value -> what reads it, and what it is called.
_NUMBERS: dict[type, tuple[Any, str]] = {
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
}


def take_config(words: Sequence[str]) -> tuple[Any, dict[str, Any], list[str]]:
    """Parses --config=FILE[:arguments] and --config.field=value from a command line.

    The file may import from `configs`, see `make_configs_importable`.

    Returns:
      The configuration (a ConfigDict), the overridden fields with their values, and the remaining words.

    Raises:
      ConfigError: no such file or field, a value has another type, or a whole section is given one.
    """
    # Shells do not expand a tilde after an equals sign.
    words = [f"--config={files.home_expanded(word[9:])}" if word.startswith("--config=~") else word for word in words]
    value, fields = _config_words(words)
    if wrong := config_file(value):
        raise ConfigError(wrong)
    make_configs_importable(pathlib.Path(value.partition(":")[0]))
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # flags may follow arguments
    library = cast(Any, config_flags)
    holder = library.DEFINE_config_file("config", None, "", flag_values=known, sys_argv=["", *words])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from ml_collections importing the file
            rest: list[str] = cast(Any, known)(["", *words], known_only=True)[1:]
            config, overridden = holder.value, library.get_override_values(known["config"])
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(config_error(value, fields, error)) from error
    for field, given in overridden.items():
        if isinstance(given, ConfigDict):
            raise ConfigError(_whole_section(field, given))
    return config, overridden, rest


def make_configs_importable(file: pathlib.Path) -> None:
    """Lets a config or sweep file import from the package that it is in, and from the checkout's `configs`.

    The import path of the installed commands does not begin with the current folder, as that of `python -m` does. What
    is added stands after what is there.
    """
    for folder in (file.resolve().parent, _CONFIGS):
        root = folder
        while (root / "__init__.py").is_file():
            root = root.parent
        if root != folder and str(root) not in sys.path:
            sys.path.append(str(root))


def read_config(words: Sequence[str]) -> Any:
    """The configuration of FILE[:arguments] with `field=value` overrides.

    Args:
      words: the file, then the overrides.

    Raises:
      ConfigError: as `take_config`.
    """
    return take_config([f"--config={words[0]}", *(f"--config.{word}" for word in words[1:])])[0]


def config_file(value: str) -> str:
    """Error message if the file of --config=FILE[:arguments] is missing, else ''."""
    path = pathlib.Path(value.partition(":")[0])
    if path.is_file():
        return ""
    if path.is_dir():
        return f"--config={value} is a folder, expected one of its files, as {path / 'rafdb.py'}"
    folder = path.parent if any(path.parent.glob("*.py")) and path.parent != pathlib.Path() else _CONFIGS
    if folder == _CONFIGS and pathlib.Path("configs").is_dir():
        folder = pathlib.Path("configs")
    names = [found.name for found in own_files(folder)]
    near = difflib.get_close_matches(path.with_suffix(".py").name, names, n=1)
    known = f"did you mean {folder / near[0]}?" if near else f"{folder} has {', '.join(names)}"
    return f"--config={value}: there is no such file; {known}"


def own_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The config or sweep files of a folder, by name; the others are what they share."""
    return (path for path in sorted(folder.glob("*.py")) if path.stem not in ("__init__", "common"))


def config_error(value: str, fields: Mapping[str, str], error: Exception) -> str:
    """Error message for a configuration that could not be read.

    Args:
      value: FILE[:arguments], an existing file.
      fields: overridden fields, as 'loss.beta', with the text that each is given.
      error: raised by reading it.
    """
    path, colon, argument = value.partition(":")
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if colon else []))
    except ValueError as refused:
        return f"--config={value}: {refused}"
    except Exception as broken:
        frames = [frame for frame in traceback.extract_tb(broken.__traceback__) if frame.filename == path]
        place = f" ({path}, line {frames[-1].lineno})" if frames else ""
        return f"--config={value}: {type(broken).__name__}: {broken}{place}"
    for field, given in fields.items():
        if said := _unusable_field(config, field) or _no_number(config, field, given):
            return said
    return str(error).removeprefix("flag ")


def _whole_section(field: str, given: Any) -> str:
    """Error message for an override of a section, with fields of it to give instead."""
    words = " ".join(shlex.quote(f"{_FIELD}{field}.{name}={value}") for name, value in given.items())
    return (
        f"{_FIELD}{field} is a section, and to give it as a whole would reset the fields that are not named; give each "
        f"field alone{', as ' * bool(words)}{words}"
    )


def _unusable_field(config: Any, field: str) -> str:
    found, parts = config, field.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(found, ConfigDict):
            return f"{_FIELD}{field}: {'.'.join(parts[:depth])} is a value and has no fields"
        names: list[str] = list(cast(Any, found).keys())
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1)
            meant = ".".join([*parts[:depth], *near, *parts[depth + 1 :]])
            there = f"{'.'.join(parts[:depth]) or 'a configuration'} has {', '.join(names)}"
            return f"{_FIELD}{field}: there is no such field; " + (f"did you mean {_FIELD}{meant}?" if near else there)
        found = cast(Any, found)[part]
    if isinstance(found, ConfigDict):
        return _whole_section(field, dict(itertools.islice(cast(Any, found).items(), 1)))
    return ""


def _no_number(config: Any, field: str, given: str) -> str:
    """Error message if a field that exists is a number and the text given for it is none, else ''."""
    value: object = functools.reduce(operator.getitem, field.split("."), config)
    parser, expected = _NUMBERS.get(type(value), (None, ""))
    try:
        if parser is not None:
            parser.parse(given)
    except ValueError:
        return f"{_FIELD}{field}: expected {expected}, found {given!r}"
    return ""


def _config_words(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """FILE[:arguments] of --config or '', and the overridden fields with the text that each is given."""
    value, fields = "", dict[str, str]()
    for word, after in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, given = word.partition("=")
        if name in ("--config", "-config"):
            value = given if equals else after
        elif name.startswith(_FIELD):
            fields[name.removeprefix(_FIELD)] = given if equals else after
    return value, fields
