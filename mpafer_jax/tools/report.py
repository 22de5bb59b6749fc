"""Makes a run's report anew, or compares several runs, from the files in their workdirs.

    python -m mpafer_jax.tools.report runs/rafdb
    python -m mpafer_jax.tools.report runs/rafdb runs/rafdb_no_prototypes --out=comparison.html

One workdir: `report.html` in it, as training and evaluation leave it. Several: one page with their results, the fields
in which their configurations differ, and their curves over each other. Needs neither the data nor the CLIP.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from mpafer_jax.report import pages
from mpafer_jax.report.contents import ReportError

_OUT = flags.DEFINE_string("out", "comparison.html", "File of a comparison; one run's report lies in its workdir.")
_PICTURES = flags.DEFINE_bool(
    "pictures", True, "Whether one run's report shows the dataset's pictures; --nopictures before you pass it on."
)


def main(argv: Sequence[str]) -> None:
    """Writes the page and prints where it is."""
    workdirs = [pathlib.Path(argument) for argument in argv[1:]]
    if not workdirs:
        raise app.UsageError("name one workdir or several")
    try:
        if len(workdirs) == 1:
            out = pages.write_report(workdirs[0], with_pictures=bool(_PICTURES.value))
        else:
            out = pathlib.Path(str(_OUT.value))
            pages.write_comparison(workdirs, out)
    except ReportError as error:
        print(f"ReportError: {error}", file=sys.stderr)
        sys.exit(2)
    print(out)


if __name__ == "__main__":
    app.run(main)
