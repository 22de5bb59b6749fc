"""How commands are called: their --help and --version, which look the same, and what is said of a wrong call.

Two kinds of command share this. Those with a --config have absl's flags, as that of ml_collections is one; those whose
arguments are files and folders have argparse, whose form both kinds of --help take.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from absl import flags

from mpafer_jax import __version__
from mpafer_jax.config.flags import did_you_mean
from mpafer_jax.runtime import console

MISTAKE = 2  # exit code
_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
_WIDEST, _COLUMN = 100, 30
_FIELD = "--config."
_METAVARS = {"config": "FILE[:ARGUMENTS]", "workdir": "FOLDER"}  # of absl's flags; others are named by their type
_HELP = ("-h", "--help", "-help", "--helpfull", "--helpshort")


class Parser(argparse.ArgumentParser):
    """argparse's, with a description whose examples keep their lines, --version, --log and -v, and short errors."""

    def __init__(self, *, prog: str, description: str, own: bool = True) -> None:
        """Makes a parser without arguments of its own.

        Args:
          prog: how it is called.
          description: paragraphs; indented ones stay as they are.
          own: whether to add --help, --version, --log and --verbosity.
        """
        super().__init__(prog=prog, description=description, formatter_class=_Formatter, add_help=False)
        self._positionals.title, self._optionals.title = "arguments", "flags"
        self.shown = self.add_argument_group(SHOWN)
        if own:
            self.shown.add_argument("--log", choices=("auto", "plain"), default="auto", help=LOG)
            # Two options: a number behind -v would be taken from the arguments.
            self.shown.add_argument(
                "-v", dest="verbosity", action="store_const", const=1, default=0, help="as --verbosity=1"
            )
            self.shown.add_argument("--verbosity", type=int, default=0, metavar="N", help=VERBOSITY)
            self.add_help_and_version()

    def add_help_and_version(self) -> None:
        """Adds --help and --version, the last of the options."""
        self.shown.add_argument("-h", "--help", action="help", help="show this and exit")
        self.shown.add_argument("--version", action="version", version=version(), help="show the version and exit")

    def format_help(self) -> str:
        """The whole text, with a first line that names what has to be given."""
        self._action_groups.append(self._action_groups.pop(self._action_groups.index(self.shown)))  # the last
        required = [
            f"{action.option_strings[-1]}={_metavar(action)}"
            for action in self._actions
            if action.required and action.option_strings
        ]
        given: list[str] = []
        for action in self._actions:
            if not action.option_strings:
                name = _metavar(action)
                given.append({"+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name))
        self.usage = " ".join([self.prog, *given, *required, "[flags]"]).replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Ends with the message and exit code 2; names the option that may have been meant."""
        start, _, words = message.partition("unrecognized arguments: ")
        if words and not start:
            known = [option for action in self._actions for option in action.option_strings]
            message = f"unknown arguments: {words}{did_you_mean(words.split()[0].partition('=')[0], known)}"
        refuse(message)

    def console(self, arguments: argparse.Namespace) -> console.Console:
        """What shows the command's work, as --log and -v ask for it."""
        return console.Console(log=arguments.log, verbosity=arguments.verbosity)


SHOWN = "what is shown"  # the last heading of every --help
LOG = "auto: a bar and colours at a terminal; plain: dated lines, as in a log file"
VERBOSITY = "1: details, and libraries' routine lines; 2: what helps to debug; -1: warnings only"


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(_WIDEST, shutil.get_terminal_size().columns - 1)
        super().__init__(prog, max_help_position=min(_COLUMN, width // 3), width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        optional = "[={}]" if action.nargs == "?" else "={}"
        return ", ".join(action.option_strings) + optional.format(_metavar(action))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[str] = []
        for paragraph in textwrap.dedent(text).strip().split("\n\n"):
            indented = paragraph.startswith(" ")
            parts.append(paragraph if indented else "\n".join(textwrap.wrap(paragraph, width, break_on_hyphens=False)))
        return "\n\n".join(parts)


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def version() -> str:
    """The package's, and of what it stands on."""
    jax_version = importlib.metadata.version("jax")
    return f"mpafer-jax {__version__} (JAX {jax_version}, Python {sys.version.split()[0]})"


def refuse(message: str) -> NoReturn:
    """Ends a command that was called wrongly."""
    sys.stderr.write(f"error: {message}\n--help says how this command is called\n")
    sys.exit(MISTAKE)


def answer_help(
    arguments: Sequence[str],
    description: str,
    groups: Mapping[str, Sequence[str]],
    required: Sequence[str],
) -> None:
    """Prints what --help or --version ask for and ends with exit code 0, if one of them is among the arguments.

    Args:
      arguments: the command line, without the program.
      description: of the command.
      groups: its absl flags under headings, in the order in which they are shown.
      required: those of them that have to be given.
    """
    if "--version" in arguments:
        print_and_exit(version())
    if not any(word in _HELP for word in arguments):
        return
    parser = Parser(prog=_called(), description=description, own=False)
    for heading, names in groups.items():
        group = parser.shown if heading == SHOWN else parser.add_argument_group(heading)
        for name in names:
            _add(group, cast(Any, flags.FLAGS)[name], required=name in required)
            if name == "config":
                group.add_argument(
                    f"{_FIELD}FIELD", metavar="VALUE", help="sets any field; mpafer_jax.cli.config lists them"
                )
    parser.add_help_and_version()
    print_and_exit(parser.format_help().rstrip())


def _add(group: Any, flag: Any, *, required: bool) -> None:
    text = VERBOSITY if flag.name == "verbosity" else flag.help
    kind = flag.flag_type()
    options: dict[str, Any] = {"required": required}
    if flag.boolean:
        options["action"] = "store_true"
    elif kind == "string enum":
        text = text.partition(">: ")[2]  # which absl has put the values before
        options["choices"] = flag.parser.enum_values
    else:
        options["metavar"] = _METAVARS.get(flag.name) or (
            "N" if kind in ("int", "float") else flag.name.rpartition("_")[2].upper()
        )
    if flag.default not in (None, "", [], False) and not required and flag.name != "verbosity":
        default = ",".join(cast(list[str], flag.default)) if isinstance(flag.default, list) else flag.default
        text = f"{text.removesuffix('.')} (default: {default})"
    names = [f"--{'no' if flag.boolean and flag.default else ''}{flag.name}"]
    if flag.short_name == "v":
        group.add_argument("-v", action="store_true", help="as --verbosity=1")
    group.add_argument(*names, help=text.replace("%", "%%"), **options)


def print_and_exit(text: str) -> NoReturn:
    """Ends a command that has done what it was asked for."""
    console.line(text)
    sys.exit(0)


def _called() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else pathlib.Path(sys.argv[0]).name
