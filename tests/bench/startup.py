"""From start to answer: processor time of whole commands, of this checkout and of another one."""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from mpafer_jax.cli.runner import command, number, path
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.evaluation.table import markdown
from tests.bench.timing import Spread, alternate, ratios
from tests.faces.scenes import pasted

_HERE = Path(__file__).resolve().parents[2]
_PREDICT = ("-m", "mpafer_jax.predict")


def processor_seconds(words: Sequence[str], checkout: Path, environment: Mapping[str, str]) -> float:
    """Seconds that a Python process with these words takes on all cores, user's and system's."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(
        [sys.executable, *words],
        check=True,
        env={**environment, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return spent() - before


def render(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A row for each command: median (least to greatest) of both checkouts, and of the ratios within each turn."""

    def shown(spread: Spread) -> str:
        return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"

    rows: list[list[str]] = []
    for name, seconds in found.items():
        row = [name, *(shown(Spread.of(values)) for values in seconds.values())]
        rows.append([*row, shown(ratios(seconds["now"], seconds["before"]))] if "before" in seconds else row)
    header = ["processor seconds", *next(iter(found.values()))]
    return markdown([*header, "now / before"] if len(header) > 2 else header, rows)


@command(
    "startup",
    path("--checkpoint", help="a workdir or exported prompts (default: the prompts that ship)"),
    path("--before", help="another checkout of this repository, to compare with"),
    number("--repeats", 1, default=3, help="turns, each of one measurement of everything"),
    called="python -m tests.bench.startup",
)
def startup(arguments: argparse.Namespace) -> None:
    """Measures --help and the prediction on one image, from start to end, in turns with another checkout.

        python -m tests.bench.startup --before=../before

    Files are in the system's cache, and compiled functions in JAX's where the checkout keeps them: nothing of the first
    run of each counts.
    """
    checkpoint = [f"--checkpoint={arguments.checkpoint.resolve()}"] if arguments.checkpoint else []
    checkouts = {**({"before": arguments.before.resolve()} if arguments.before else {}), "now": _HERE}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "face.png")
        face = Image.fromarray(generate.face_of(0, "photos", 0, STYLES["poster"]).job.pixels(224))
        pasted(face, seed=0).image.save(image)
        commands = {
            "python -c pass": ("-c", "pass"),
            "mpafer-jax --help": ("-m", "mpafer_jax.cli", "--help"),
            "mpafer-predict --help": (*_PREDICT, "--help"),
            "mpafer-predict, one image": (*_PREDICT, str(image), *checkpoint),
        }
        given = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
        given["PYTHONPYCACHEPREFIX"] = str(Path(folder, "bytecode"))

        def measure(which: str, words: Sequence[str]) -> float:
            return processor_seconds(words, checkouts[which], {**given, "XDG_CACHE_HOME": str(Path(folder, which))})

        found: dict[str, dict[str, list[float]]] = {}
        for name, words in commands.items():
            blocks = {which: functools.partial(measure, which, words) for which in checkouts}
            for first in blocks.values():
                first()
            found[name] = alternate(blocks, arguments.repeats)
    print(render(found))


if __name__ == "__main__":
    startup.start()
