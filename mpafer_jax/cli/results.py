"""Makes the tables of sweeps from the runs in their folders, or the page of all results.

    python -m mpafer_jax.cli.results runs/components --baseline=text_only
    python -m mpafer_jax.cli.results runs/components runs/top_k --format=latex
    python -m mpafer_jax.cli.results --page=docs/results.md runs/*

A sweep's folder is what `launch/sweep.py` leaves; results.md, results.csv, results.tex and results.png in it are
written anew, and one of the first three is printed. docs/experiments.md says how to read them.

With --page, from the root of a checkout, what has run in the folders is published as a file each in a folder beside the
page, docs/results/, and the page is made of all files there, with the commands of the sweeps that have not run; folders
of `mpafer_jax.cli.cross_dataset` can be among those named. A sweep's file can be named in place of its folder: then
its tables are printed. Exit status 2: nothing was written, the message says why.
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

from mpafer_jax.cli import options, usage
from mpafer_jax.jobs.studies import cross_dataset
from mpafer_jax.jobs.sweeps import page, report
from mpafer_jax.runtime import console, files, preemption
from mpafer_jax.runtime.errors import ConfigError, ReportError


def main(argv: Sequence[str] | None = None) -> int:
    """Writes and prints tables, or writes the page; returns the exit status."""
    parser = usage.Parser(prog="python -m mpafer_jax.cli.results", description=__doc__ or "")
    local = files.path_argument
    parser.add_argument(
        "folders", nargs="*", type=local("folder"), metavar="folder", help="of sweeps, or published files"
    )
    parser.add_argument("--format", choices=list(report.FORMATS), default="markdown", help="what is printed")
    parser.add_argument("--baseline", default="", help="row that the others are compared with (default: the sweep's)")
    parser.add_argument("--page", type=local("--page"), help="publish them instead, and write this page of all")
    arguments = parser.parse_args(argv)
    if arguments.page:
        options.refuse_idle(parser, argv, {"--format": "tables that are printed, and --page writes them"})
    if not arguments.folders and not arguments.page:
        parser.error("name one sweep's folder or several")
    with parser.console(arguments):
        return _write(arguments)


def _write(arguments: argparse.Namespace) -> int:
    folders: list[Path] = arguments.folders
    matrices = [folder for folder in folders if arguments.page and (folder / cross_dataset.MATRIX).is_file()]
    try:
        reports = [report.read(folder, arguments.baseline) for folder in folders if folder not in matrices]
        if arguments.page:
            page.write(arguments.page, reports, matrices)
            console.line(str(arguments.page))
            return 0
    except (ConfigError, ReportError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return usage.MISTAKE
    for found in reports:
        if found.root.is_dir():
            found.write()
        show = console.markdown if arguments.format == "markdown" else console.line
        show(found.text(arguments.format))
    return 0


if __name__ == "__main__":
    with preemption.ending():
        sys.exit(main())
