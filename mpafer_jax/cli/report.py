"""Makes a run's report anew, or compares several runs, from the files in their workdirs.

    python -m mpafer_jax.cli.report runs/rafdb
    python -m mpafer_jax.cli.report runs/rafdb runs/rafdb_no_prototypes --out=comparison.html

One workdir: `report.html` in it, as training and evaluation leave it. Several: one page with their results, the fields
in which their configurations differ, and their curves over each other. Needs neither the data nor the CLIP. Exit status
2: nothing was written, the message says why.
"""

# argparse, and not absl's flags: workdirs are arguments here.

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from mpafer_jax.cli import usage
from mpafer_jax.evaluation.report import pages
from mpafer_jax.runtime import console, files, preemption
from mpafer_jax.runtime.errors import ReportError


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page and prints where it is; returns the exit status."""
    parser = usage.Parser(prog="python -m mpafer_jax.cli.report", description=__doc__ or "")
    parser.add_argument("workdirs", nargs="+", metavar="workdir", help="of runs that have ended")
    parser.add_argument(
        "--out", type=files.path_argument("--out"), help="file of a comparison (default comparison.html)"
    )
    parser.add_argument(
        "--noimages", action="store_true", help="leave the dataset's images out of one run's report, to pass it on"
    )
    arguments = parser.parse_args(argv)
    try:
        workdirs = [files.any_path(name, "workdir") for name in arguments.workdirs]
    except ValueError as error:
        parser.error(str(error))
    if len(workdirs) == 1 and arguments.out:
        parser.error("--out is a comparison's; one run's report is report.html in its workdir")
    if len(workdirs) > 1 and arguments.noimages:
        parser.error("--noimages is of one run's report; a comparison shows no images of the dataset")
    with parser.console(arguments):
        try:
            if len(workdirs) == 1:
                out = pages.write_report(workdirs[0], with_images=not arguments.noimages)
            else:
                out = arguments.out or Path("comparison.html")
                pages.write_comparison(workdirs, out)
        except ReportError as error:
            logging.error("ReportError: %s", error)
            return usage.MISTAKE
    console.line(str(out))
    return 0


if __name__ == "__main__":
    with preemption.ending():
        sys.exit(main())
