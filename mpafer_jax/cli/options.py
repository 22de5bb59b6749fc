"""Options that would do nothing beside the others are refused, so that nobody believes that they did something."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def refuse_idle(parser: argparse.ArgumentParser, argv: Sequence[str] | None, needs: Mapping[str, str]) -> None:
    """Ends the command with exit code 2 where an option is given that does nothing.

    Args:
      parser: of the command; what it parses has no side effects.
      argv: the arguments; None for the process's own.
      needs: of each option that does nothing here ("--margin"), what it needs ("--faces=detect").
    """
    unset = object()
    # argparse keeps what it finds in a namespace where the arguments do not say otherwise, defaults included.
    names = {option: option.lstrip("-").replace("-", "_") for option in needs}
    blank: Any = argparse.Namespace(**dict.fromkeys(names.values(), unset))
    parser.parse_known_args(argv, blank)
    if idle := [option for option, name in names.items() if getattr(blank, name) is not unset]:
        parser.error("; ".join(f"{option} does nothing without {needs[option]}" for option in idle))
