"""Time of a training step of each method beside MPA-FER's, with one configuration's data and CLIP."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from configs.common import METHODS
from mpafer_jax.cli.runner import argument, command, number
from mpafer_jax.config.flags import read_config
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.jobs import train
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests.bench.timing import Spread, alternate, ratios, time_block

_OURS = "mpa"
_CALLS = 5  # steps in a row, of which a turn takes the mean


def timed_step(config: Config, workdir: Path) -> Callable[[], float]:
    """Seconds of a training step as a run compiles it, without the work on images beside it; it is compiled here."""
    run = train.prepare(config, workdir)
    update, constants = train.compiled(run.step), run.constants
    batch = devices.shard_batch(next(train.training_batches(run, 0)))
    params = run.fresh_prompts
    state = devices.replicate(TrainState(jnp.zeros((), jnp.int32), params, run.tx.init(params)))

    def step() -> None:
        nonlocal state
        state, metrics = update(state, constants, batch)
        jax.block_until_ready((state, metrics))

    step()
    return lambda: time_block(step, _CALLS)


def render(found: Mapping[str, Sequence[float]]) -> str:
    """A row for each method: milliseconds of a step, median (least to greatest), and of the ratios within each turn."""

    def shown(spread: Spread, form: str) -> str:
        return f"{spread.median:{form}} ({spread.low:{form}} to {spread.high:{form}})"

    rows = [
        [
            name,
            shown(Spread.of([1000 * value for value in seconds]), ".0f"),
            shown(ratios(seconds, found[_OURS]), ".2f"),
        ]
        for name, seconds in found.items()
    ]
    return markdown(["", "ms an update", "of MPA-FER's"], rows)


@command(
    "methods",
    argument("--base", default="quickstart", help="name of a file of configs/, with its arguments"),
    argument("--field", action="append", default=[], help="NAME=VALUE: a field for all methods, as data.dir=FOLDER"),
    number("--repeats", 1, default=20, help="turns, each of a few steps of every method"),
    called="python -m tests.bench.methods",
)
def methods(arguments: argparse.Namespace) -> None:
    """Measures a training step of each method in turns; nothing else should run on the machine.

    python -m tests.bench.methods
    """
    blocks: dict[str, Callable[[], float]] = {}
    for name in (_OURS, *METHODS):
        file, _, words = arguments.base.partition(",")
        given = ",".join(word for word in (words, "" if name == _OURS else name) if word)
        values = read_config([f"configs/{file}.py{':' * bool(given)}{given}", *arguments.field])
        with tempfile.TemporaryDirectory() as folder:
            blocks[name] = timed_step(Config.from_config_dict(values), Path(folder))
    print(render(alternate(blocks, arguments.repeats)))


if __name__ == "__main__":
    methods.start()
