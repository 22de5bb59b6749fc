"""Measures how time and memory of a training step grow with batch, prompts, patches, classes and image size.

    python -m tests.bench.benchmark_growth --config=configs/rafdb.py --config.data.dir=unused --out=growth

A series varies one size and leaves the others; each point runs in a process of its own, on a CLIP with random weights.
Writes growth.json, growth.md and growth.png to --out; series that are not asked for stay there as they were measured
before. Of a machine that others use too, memory can be believed, times cannot.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags, logging

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError
from tests.bench import growth, growth_plot

_CONFIG = define_config()
_SERIES = flags.DEFINE_multi_enum("series", list(growth.SERIES), list(growth.SERIES), "Which series; may be repeated.")
_CLIP = flags.DEFINE_enum("clip", "vit_s16", list(growth.TOWERS), "Shape of the CLIP.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Steps that are timed at each point.", 1)
_OUT = flags.DEFINE_string("out", None, "Folder for growth.json, growth.md and growth.png.")


def main(argv: Sequence[str]) -> None:
    """Measures and writes."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out")
        config = Config.from_config_dict(_CONFIG.value)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    path = out / "growth.json"
    found = growth.read(path) if path.is_file() else {}
    for name in dict.fromkeys(_SERIES.value or []):
        points: list[growth.Measured] = []
        for point in growth.SERIES[name]:
            try:
                points.append(growth.measure(config, dataclasses.replace(point, clip=_CLIP.value), _REPEATS.value))
            except growth.GrowthError as error:
                print(error, file=sys.stderr)
                sys.exit(1)
            logging.info("%s: %s", name, points[-1])
        found[name] = points
        ordered = {known: found[known] for known in growth.SERIES if known in found}
        growth.write(path, ordered)
        files.write_text(out / "growth.md", growth_plot.table(ordered))
        growth_plot.plot(ordered, out / "growth.png")
    print(growth_plot.table(found))


if __name__ == "__main__":
    runner.start(main, required=["config", "out"])
