"""How commands read their command line: one form of --help, short errors that name what may have been meant."""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from mpafer_jax import __version__
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import UserError, did_you_mean

_WIDEST, _COLUMN = 100, 30
_SHOWN = "what is shown"  # the last heading of every --help
_LOG_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--log",),
        {
            "choices": ("auto", "plain"),
            "default": "auto",
            "help": "auto: a bar and colours at a terminal; plain: dated lines, as in a log file",
        },
    ),
    # Two options: a number behind -v would be taken from the arguments.
    (("-v",), {"dest": "verbosity", "action": "store_const", "const": 1, "default": 0, "help": "as --verbosity=1"}),
    (
        ("--verbosity",),
        {
            "type": int,
            "default": 0,
            "metavar": "N",
            "help": "1: details, and libraries' routine lines; 2: what helps to debug; -1: warnings only",
        },
    ),
)


class UsageError(UserError):
    """A command that was called wrongly, as its flags alone show."""


def without_log_flags(words: Sequence[str]) -> list[str]:
    """Words of a command without the flags that decide only what is shown, as a file's record of its command."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names, options in _LOG_FLAGS:
        parser.add_argument(*names, **options)
    return parser.parse_known_args(words)[1]


class Parser(argparse.ArgumentParser):
    """argparse's, with examples that keep their lines, and the flags that every command has."""

    def __init__(self, prog: str, description: str) -> None:
        """Makes a parser with --help, --version, --log and --verbosity.

        Args:
          prog: how the command is called.
          description: paragraphs; indented ones stay as they are.
        """
        self._needed: list[argparse.Action] = []
        super().__init__(
            prog=prog, description=description, formatter_class=_Formatter, add_help=False, allow_abbrev=False
        )
        self._positionals.title, self._optionals.title = "arguments", "flags"
        self._shown = shown = self.add_argument_group(_SHOWN)
        for names, options in _LOG_FLAGS:
            shown.add_argument(*names, **options)
        shown.add_argument("-h", "--help", action="help", help="show this and exit")
        shown.add_argument("--version", action="version", version=version(), help="show the version and exit")

    def add(self, *names: str, required: bool = False, **options: Any) -> None:
        """`add_argument`; of what is required and missing is spoken after what is misspelt."""
        action = self.add_argument(*names, **options)
        if required:
            self._needed.append(action)

    def format_help(self) -> str:
        """The whole text, with a first line that names what has to be given."""
        self._action_groups.append(self._action_groups.pop(self._action_groups.index(self._shown)))  # the last
        given: list[str] = []
        for action in self._actions:
            name = _metavar(action)
            if not action.option_strings:
                given.append({"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name))
            elif action in self._needed:
                given.append(f"{action.option_strings[-1]}={name}")
        self.usage = " ".join([self.prog, *given, "[flags]"]).replace("%", "%%")
        return super().format_help()

    def options_given(self, words: Sequence[str]) -> set[str]:
        """The options among the words, as '--out'; defaults are not."""
        options = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        # argparse keeps what it finds in a namespace where the words do not say otherwise, defaults included.
        blank = argparse.Namespace(**dict.fromkeys(options))
        self.parse_known_args(words, blank)
        return {option for dest, option in options.items() if getattr(blank, dest) is not None}

    def error(self, message: str) -> NoReturn:
        """Ends with the message and exit code 2."""
        refuse(message)

    def check(self, given: set[str], unknown: Sequence[str]) -> None:
        """Ends with exit code 2 where words are none of the command's, or an option is missing.

        Args:
          given: the options, see `options_given`.
          unknown: the words that are left.
        """
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            refuse(f"unknown arguments: {' '.join(unknown)}{did_you_mean(unknown[0].partition('=')[0], known)}")
        for action in self._needed:
            if action.option_strings[-1] not in given:
                refuse(f"{action.option_strings[-1]} is missing: {action.help}")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(_WIDEST, shutil.get_terminal_size().columns - 1)
        super().__init__(prog, max_help_position=min(_COLUMN, width // 3), width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return ", ".join(action.option_strings) + f"={_metavar(action)}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text, value = action.help or "", action.default
        if not action.option_strings or action.nargs == 0 or not value or value == argparse.SUPPRESS:
            return text
        shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)  # pyright: ignore
        return text if "default" in text else f"{text} (default: {shown})".replace("%", "%%")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fill(text, width)


def fill(text: str, width: int = _WIDEST) -> str:
    """Paragraphs of a width, in which indented ones keep their lines."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        part if part.startswith(" ") else "\n".join(textwrap.wrap(part, width, break_on_hyphens=False))
        for part in parts
    )


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def version() -> str:
    """The package's, and of what it stands on."""
    return f"mpafer-jax {__version__} (JAX {importlib.metadata.version('jax')}, Python {sys.version.split()[0]})"


def refuse(message: str) -> NoReturn:
    """Ends a command that was called wrongly, with exit code 2."""
    sys.stderr.write(f"error: {message}\n--help says how this command is called\n")
    sys.exit(UserError.exit_code)


def several(known: Iterable[str] = ()) -> Any:
    """An argument's type: names with commas between them, of those known, if any are."""
    choices = tuple(known)

    def names(text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(",") if name.strip())
        if unknown := [name for name in given if choices and name not in choices]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)!r} is none of {', '.join(choices)}")
        if choices and not given:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(choices)}, found none")
        return given

    return names


def checked(check: Callable[[str], object]) -> Callable[[str], object]:
    """An argument's type whose ValueErrors are messages."""

    def parse(text: str) -> object:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def path_argument(flag: str, find: Callable[[str, str], object] = files.local_path) -> Callable[[str], object]:
    """An argument's type: a path as `files.local_path`, or another function, reads it; `flag` is named in errors."""
    return checked(lambda text: find(text, flag))


def at_least(smallest: float, kind: type[int] | type[float] = int) -> Any:
    """An argument's type: a number from `smallest` on."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= smallest:
            raise argparse.ArgumentTypeError(f"expected a number from {smallest:g} on, found {text!r}")
        return value

    return number


def whole_numbers(text: str) -> list[int]:
    """An argument's type: whole numbers from 0 with commas between them."""
    values = text.split(",")
    if not all(value.strip().isdecimal() for value in values):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0 with commas between them, found {text!r}")
    return [int(value) for value in values]
