"""Measures how time and memory of a training step grow with batch, prompts, patches, classes and image size."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
from concurrent.futures.process import BrokenProcessPool

from absl import logging

from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.config.schema import Config
from mpafer_jax.runtime import files
from tests.bench import growth


@command(
    "growth",
    path("--out", required=True, help="folder for growth.json, growth.md and growth.png"),
    argument("--series", choices=tuple(growth.SERIES), action="append", help="which; may be repeated (default: all)"),
    argument("--clip", choices=growth.CLIPS, default="vit_s16", help="shape of the CLIP"),
    number("--repeats", 1, default=5, help="steps that are timed at each point"),
    config=True,
    called="python -m tests.bench.benchmark_growth",
)
def benchmark_growth(arguments: argparse.Namespace) -> int:
    """Measures how time and memory of a training step grow with batch, prompts, patches, classes and image size.

        python -m tests.bench.benchmark_growth --config=configs/rafdb.py --config.data.dir=unused --out=growth

    A series varies one size and leaves the others; each point runs in a process of its own, on a CLIP with random
    weights. Writes growth.json, growth.md and growth.png to --out; series that are not asked for stay there as they
    were measured before. Of a machine that others use too, memory can be believed, times cannot.
    """
    out, config = arguments.out, Config.from_config_dict(arguments.config)
    path = out / "growth.json"
    found = growth.read(path) if path.is_file() else {}
    for name in dict.fromkeys(arguments.series or growth.SERIES):
        points: list[growth.Measured] = []
        for point in growth.SERIES[name]:
            try:
                sized = dataclasses.replace(point, clip=arguments.clip)
                points.append(growth.measure(config, sized, arguments.repeats))
            except (ValueError, BrokenProcessPool) as error:
                logging.error("%s", error)
                return 1
            logging.info("%s: %s", name, points[-1])
        found[name] = points
        ordered = {known: found[known] for known in growth.SERIES if known in found}
        growth.write(path, ordered)
        files.write_text(out / "growth.md", growth.table(ordered))
        growth.plot(ordered, out / "growth.png")
    print(growth.table(found))
    return 0


if __name__ == "__main__":
    benchmark_growth.start()
