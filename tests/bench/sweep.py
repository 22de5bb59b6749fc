"""Seconds of a sweep of the quickstart's shape by how its runs are made: one by one, in jobs, together."""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mpafer_jax.cli.parser import several
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.evaluation.table import markdown
from tests.bench.timing import Spread, alternate, ratios

_HERE = Path(__file__).resolve().parents[2]
_FIRST = "--jobs=1"


def run(data: Path, runs: int, steps: int, flags: Sequence[str], processor: list[float]) -> float:
    """Seconds of a sweep over seeds in a new folder, with nothing compiled; appends those of all cores' processors."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    fields = {"data.dir": data, "train.num_steps": steps, "train.eval_every": steps, "train.checkpoint_every": steps}
    seeds = ",".join(map(str, range(runs)))
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "mpafer_jax.cli", "study", "sweep", "--sweep=configs/sweeps/seeds.py:quickstart", *flags]
        words += [f"--workdir={folder}/sweep", f"--seeds={seeds}", "--config.optimizer.warmup_steps=0"]
        words += [f"--config.{name}={value}" for name, value in fields.items()]
        before, start = spent(), time.perf_counter()
        given = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "NPROC"))}
        subprocess.run([sys.executable, *words], check=True, cwd=_HERE, env=given, stdout=subprocess.DEVNULL)
        processor.append(spent() - before)
        return time.perf_counter() - start


@command(
    "sweep",
    path("--data", required=True, help="where the quickstart's faces are, or are to be drawn: its data.dir"),
    number("--runs", 2, default=6, help="runs of the sweep, over seeds"),
    number("--steps", 1, default=100, help="updates of a run"),
    argument("--ways", type=several(), default=("--together=3", "--jobs=2", "--jobs=2 --together=3"), help="flags"),
    number("--repeats", 1, default=1, help="turns, each of one sweep of every way"),
    called="python -m tests.bench.sweep",
)
def sweep(arguments: argparse.Namespace) -> None:
    """Measures `study sweep` with other flags beside one run after another, in turns.

    python -m tests.bench.sweep --data=faces
    """
    data: Path = arguments.data.resolve()
    run(data, 1, 1, (), [])  # draws the faces, and computes frozen features
    ways: tuple[str, ...] = (_FIRST, *arguments.ways)
    processor: dict[str, list[float]] = {way: [] for way in ways}
    blocks = {
        way: functools.partial(run, data, arguments.runs, arguments.steps, way.split(), processor[way]) for way in ways
    }
    found = alternate(blocks, arguments.repeats)

    def shown(spread: Spread) -> str:
        return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"

    rows = [
        [
            way,
            *(shown(Spread.of(times[way])) for times in (found, processor)),
            *(shown(ratios(times[way], times[_FIRST])) for times in (found, processor)),
        ]
        for way in ways
    ]
    print(markdown(["", "seconds", "processor seconds", "of the first", "processor's of the first"], rows))


if __name__ == "__main__":
    sweep.start()
