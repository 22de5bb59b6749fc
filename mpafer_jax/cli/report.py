"""`mpafer-jax report`: a run's page, or one that compares runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpafer_jax.cli.parser import UsageError
from mpafer_jax.cli.runner import argument, command, path
from mpafer_jax.runtime import files


@command(
    "report",
    argument("workdirs", nargs="+", metavar="workdir", help="of runs that have ended"),
    path("--out", help="file of a comparison (default comparison.html)"),
    argument(
        "--noimages", action="store_true", help="leave the dataset's images out of one run's report, to pass it on"
    ),
)
def report(arguments: argparse.Namespace) -> None:
    """Makes a run's report anew, or a page that compares runs, from the files in their workdirs.

        mpafer-jax report runs/rafdb
        mpafer-jax report runs/rafdb runs/rafdb_no_prototypes --out=comparison.html

    One workdir: `report.html` in it, as training and evaluation leave it. Several: one page with their results, the
    fields in which their configurations differ, and their curves over each other. Needs neither the data nor the CLIP.
    """
    from mpafer_jax.evaluation.report import pages
    from mpafer_jax.runtime import console

    workdirs = [files.any_path(name, "workdir") for name in arguments.workdirs]
    if len(workdirs) == 1 and arguments.out:
        raise UsageError("--out is a comparison's; one run's report is report.html in its workdir")
    if len(workdirs) > 1 and arguments.noimages:
        raise UsageError("--noimages is of one run's report; a comparison shows no images of the dataset")
    if len(workdirs) == 1:
        out = pages.write_report(workdirs[0], with_images=not arguments.noimages)
    else:
        out = arguments.out or Path("comparison.html")
        pages.write_comparison(workdirs, out)
    console.line(str(out))
