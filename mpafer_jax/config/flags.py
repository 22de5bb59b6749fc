"""--config=FILE[:arguments] and --config.field=value: reading them, and what is wrong with them."""

from __future__ import annotations

import difflib
import itertools
import pathlib
import runpy
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
_FIELD = "--config."


def take_config(words: Sequence[str]) -> tuple[Any, dict[str, Any], list[str]]:
    """Reads --config=FILE[:arguments] and --config.field=value out of a command line.

    The files of `configs/` import one another as `configs.common`, so the folder that holds `configs` has to be on the
    import path. It is where the command runs from inside a checkout; this makes it so from any other place.

    Returns:
      The configuration, a ConfigDict; the values that the words give to fields, by name; the other words.

    Raises:
      ConfigError: there is no such file, or no such field, or a value is of another type.
    """
    if _CONFIGS.is_dir() and str(_CONFIGS.parent) not in sys.path:
        sys.path.append(str(_CONFIGS.parent))
    # A shell leaves a tilde behind an equals sign alone.
    words = [f"--config={files.home_expanded(word[9:])}" if word.startswith("--config=~") else word for word in words]
    value, fields = _config_words(words)
    if wrong := config_file(value):
        raise ConfigError(wrong)
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # flags may stand behind arguments
    library = cast(Any, config_flags)
    holder = library.DEFINE_config_file("config", None, "", flag_values=known, sys_argv=["", *words])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how the library imports the file
            rest: list[str] = cast(Any, known)(["", *words], known_only=True)[1:]
            return holder.value, library.get_override_values(known["config"]), rest
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(config_error(value, fields, error)) from error


def read_config(words: Sequence[str]) -> Any:
    """A configuration as --config=FILE[:arguments] and --config.field=value would give it.

    Args:
      words: the file, then `field=value` words.

    Raises:
      ConfigError: as `take_config`.
    """
    return take_config([f"--config={words[0]}", *(f"--config.{word}" for word in words[1:])])[0]


def config_file(value: str) -> str:
    """What is wrong with the file that --config=FILE[:arguments] names; nothing if it is there."""
    path = pathlib.Path(value.partition(":")[0])
    if path.is_file():
        return ""
    if path.is_dir():
        return f"--config={value} is a folder, expected one of its files, as {path / 'rafdb.py'}"
    folder = path.parent if any(path.parent.glob("*.py")) and path.parent != pathlib.Path() else _CONFIGS
    if folder == _CONFIGS and pathlib.Path("configs").is_dir():
        folder = pathlib.Path("configs")
    names = sorted(found.name for found in folder.glob("*.py") if found.stem not in ("__init__", "common"))
    near = difflib.get_close_matches(path.with_suffix(".py").name, names, n=1)
    known = f"did you mean {folder / near[0]}?" if near else f"{folder} has {', '.join(names)}"
    return f"--config={value}: there is no such file; {known}"


def config_error(value: str, fields: Sequence[str], error: Exception) -> str:
    """What is wrong with a configuration that could not be read, in a line or two.

    Args:
      value: FILE[:arguments], a file that is there.
      fields: names that were given a value, as 'loss.beta'.
      error: what reading it raised.
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
    for field in fields:
        if said := _unknown_field(config, field):
            return said
    return str(error).removeprefix("flag ")


def _unknown_field(config: Any, field: str) -> str:
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
    return ""


def _config_words(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """FILE[:arguments] of a command line's --config, or nothing, and the fields that it gives a value to."""
    value, fields = "", list[str]()
    for word, after in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, given = word.partition("=")
        if name in ("--config", "-config"):
            value = given if equals else after
        elif name.startswith(_FIELD):
            fields.append(name.removeprefix(_FIELD))
    return value, fields
