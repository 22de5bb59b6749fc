"""Makes the tables of sweeps from the runs in their folders.

    python -m mpafer_jax.cli.results runs/components --baseline=text_only
    python -m mpafer_jax.cli.results runs/components runs/top_k --format=latex

A sweep's folder is what `launch/sweep.py` leaves; results.md, results.csv, results.tex and results.png in it are
written anew, and one of the first three is printed. docs/experiments.md says how to read them.

Exit status 2: nothing was written, the message says why.
"""

# argparse, and not absl's flags: folders are arguments here.

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from mpafer_jax.cli import usage
from mpafer_jax.jobs.sweeps import report
from mpafer_jax.runtime import console, files, preemption
from mpafer_jax.runtime.errors import ConfigError, ReportError


def main(argv: Sequence[str] | None = None) -> int:
    """Writes and prints tables; returns the exit status."""
    parser = usage.Parser(prog="python -m mpafer_jax.cli.results", description=__doc__ or "")
    parser.add_argument("folders", nargs="+", type=files.path_argument("folder"), metavar="folder", help="of sweeps")
    parser.add_argument("--format", choices=list(report.FORMATS), default="markdown", help="what is printed")
    parser.add_argument("--baseline", default="", help="row that the others are compared with (default: the sweep's)")
    arguments = parser.parse_args(argv)
    with parser.console(arguments):
        return _write(arguments)


def _write(arguments: argparse.Namespace) -> int:
    folders: list[Path] = arguments.folders
    try:
        reports = [report.read(folder, arguments.baseline) for folder in folders]
    except (ConfigError, ReportError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return usage.MISTAKE
    for found in reports:
        found.write()
        show = console.markdown if arguments.format == "markdown" else console.line
        show(found.text(arguments.format))
    return 0


if __name__ == "__main__":
    with preemption.ending():
        sys.exit(main())
