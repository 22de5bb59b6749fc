"""`mpafer-jax`: starts the command that the first words name, or lists what there is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mpafer_jax.cli.parser import refuse, version
from mpafer_jax.cli.runner import COMMANDS, Command
from mpafer_jax.runtime.errors import did_you_mean

_ABOUT = "Prompt tuning of a frozen CLIP for facial expression recognition: train, evaluate, predict, explain, export."
_MODULES = (
    "train",
    "predict",
    "export",
    "report",
    "demo",
    "data",
    "prompts",
    "study",
    "clip",
    "config",
)  # in the list's order
for _module in _MODULES:
    importlib.import_module(f"mpafer_jax.cli.{_module}")


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command in a process of its own."""
    words = list(sys.argv[1:] if words is None else words)
    found, rest = find(words)
    if isinstance(found, Command):
        found.start(rest)
    elif words[:1] == ["--version"]:
        print(version())
        sys.exit(0)
    elif found and (not rest or rest[0] in ("-h", "--help")):
        print(listing(found, " ".join(words[: len(words) - len(rest)])))
        sys.exit(0)
    refuse(_unknown(words))


def find(words: Sequence[str]) -> tuple[Command | list[Command], list[str]]:
    """The command that the first words name, or all that begin with them; and the words behind."""
    for length in (2, 1, 0):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return COMMANDS[name], list(words[length:])
        begin = [command for command in COMMANDS.values() if command.name.startswith(f"{name} ".lstrip())]
        if begin and length < 2:
            return begin, list(words[length:])
    return [], list(words)


def listing(commands: Sequence[Command], group: str) -> str:
    """The commands of a group, or all, with a line each."""
    lines = [f"usage: mpafer-jax {f'{group} ' if group else ''}COMMAND [flags]", "", _ABOUT, "", "commands:"]
    lines += [f"  {command.name:<20}  {command.summary}" for command in commands]
    return "\n".join([*lines, "", "mpafer-jax COMMAND --help shows the flags of a command"])


def _unknown(words: Sequence[str]) -> str:
    """What is wrong with words that name no command."""
    named = [word for word in words if not word.startswith("-")][:2]
    groups = {name.split()[0] for name in COMMANDS}
    if named and named[0] in groups:
        within = [name for name in COMMANDS if name.startswith(f"{named[0]} ")]
        return f"{named[0]} has no command {' '.join(named[1:])!r}{did_you_mean(' '.join(named), within)}"
    given = " ".join(named) or " ".join(words)
    return f"there is no command {given!r}{did_you_mean(given, COMMANDS) or did_you_mean(given.split()[0], groups)}"
