"""Time and memory of a training step by one size at a time, as a table and as plots.

Every point runs in a separate process, to measure its peak memory. Weights, images and labels are random.
"""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from mpafer_jax.backbones.clip.model import ClipConfig
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.runtime import files, workers
from tests.bench import shapes
from tests.bench.sizes import SIZES
from tests.bench.timing import Spread, peak_memory_bytes, time_block

_COLUMNS = 3  # of panels
_NAMES = {
    "batch_size": "images in a batch",
    "num_prompts": "visual prompts a layer",
    "top_k": "patches of the local score",
    "image_size": "side of the images, pixels",
    "classes": "classes",
    "remat": "clip.remat",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """Sizes of a measurement; series vary one and keep the defaults of the others.

    Attributes:
      clip: one of `CLIPS`.
      image_size: in pixels.
      num_prompts: visual prompts per layer.
      top_k: patches of the local score.
      remat: `clip.remat`.
      text_chunk: `train.text_chunk`.
    """

    clip: str = "vit_s16"
    image_size: int = 224
    batch_size: int = 8
    num_prompts: int = 8
    top_k: int = 16
    classes: int = 7
    remat: str = "dots"
    text_chunk: int = 0


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of a point.

    Attributes:
      seconds: of a step.
      temporaries: bytes of the compiled step's temporaries, by the compiler's analysis.
      peak_memory: the process's peak resident memory in bytes, libraries and weights included.
    """

    point: Point
    seconds: Spread
    compile_seconds: float
    temporaries: int
    peak_memory: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measured:
        rest = {name: value for name, value in values.items() if name not in ("point", "seconds")}
        return cls(point=Point(**values["point"]), seconds=Spread(**values["seconds"]), **rest)


CLIPS = ("vit_s16", "vit_b16", "tiny")  # of `sizes.SIZES`
SERIES: dict[str, Sequence[Point]] = {
    "batch_size": [Point(batch_size=n) for n in (1, 2, 4, 8, 16, 32)],
    "num_prompts": [Point(num_prompts=n) for n in (0, 4, 8, 16, 32, 64)],
    "top_k": [Point(top_k=n) for n in (1, 16, 64, 196)],
    "image_size": [Point(image_size=n) for n in (96, 160, 224, 288, 384)],
    "classes": [Point(classes=n) for n in (7, 32, 100, 316, 1000)],
    "classes, text_chunk 32": [Point(classes=n, text_chunk=32) for n in (7, 32, 100, 316, 1000)],
    "remat": [Point(remat=name, batch_size=16) for name in ("none", "dots", "full")],
}


def varied(name: str) -> str:
    return name.partition(",")[0]


def clip_config(point: Point) -> ClipConfig:
    """The CLIP of a point, with 1,000 tokens, as the size of the token table does not affect a step."""
    config = SIZES[point.clip]
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, image_size=point.image_size),
        text=dataclasses.replace(config.text, vocab_size=1000, eos_token_id=999),
    )


def configured(config: Config, point: Point) -> Config:
    changes = {
        "train": {"batch_size": point.batch_size, "text_chunk": point.text_chunk, "accumulate": 1},
        "visual_prompts": {"num_prompts": point.num_prompts},
        "head": {"top_k": point.top_k},
        "clip": {"remat": point.remat},
    }
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    return config.model_copy(update=sections)


def measure_here(config: Config, point: Point, repeats: int) -> Measured:
    step = shapes.train_step(
        configured(config, point), clip_config(point), point.classes, cast(Any, jax).local_devices()[:1]
    )
    rng = np.random.default_rng(0)
    fill: Any = functools.partial(_random, rng=rng, classes=point.classes)
    state, frozen, batch = cast(tuple[Any, Any, Any], jax.tree.map(fill, step.arguments))
    batch = {**batch, "mask": np.ones(batch["mask"].shape, np.float32)}
    start = time.perf_counter()
    compiled = step.function.lower(state, frozen, batch).compile()
    compile_seconds = time.perf_counter() - start

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, frozen, batch)
        jax.block_until_ready(metrics)

    call()
    seconds = Spread.of([time_block(call) for _ in range(repeats)])
    temporaries = int(compiled.memory_analysis().temp_size_in_bytes)
    return Measured(point, seconds, compile_seconds, temporaries, peak_memory_bytes())


def _random(leaf: Any, rng: np.random.Generator, classes: int) -> jax.Array:
    """Random array with the shape and type of `leaf`: small floats, bytes, or valid labels or positions."""
    if leaf.dtype == jnp.bool_:
        return jnp.ones(leaf.shape, jnp.bool_)
    if leaf.dtype == jnp.uint8:
        return jnp.asarray(rng.integers(0, 256, leaf.shape), jnp.uint8)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.asarray(rng.integers(0, min(classes, 7), leaf.shape), leaf.dtype)
    return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)


def measure(config: Config, point: Point, repeats: int) -> Measured:
    """`measure_here` in a separate process, for its peak memory."""
    with workers.pool(1) as pool:
        return pool.submit(measure_here, config, point, repeats).result()


def write(path: Path, found: Mapping[str, Sequence[Measured]]) -> None:
    files.write_json(path, {name: [dataclasses.asdict(point) for point in points] for name, points in found.items()})


def read(path: Path) -> dict[str, list[Measured]]:
    stored = cast(dict[str, list[dict[str, Any]]], json.loads(path.read_text(encoding="utf-8")))
    return {name: [Measured.from_json(point) for point in points] for name, points in stored.items()}


def table(found: Mapping[str, Sequence[Measured]]) -> str:
    parts: list[str] = []
    for name, points in found.items():
        field, _, condition = name.partition(", ")
        header = [
            _NAMES[field] + (f" ({condition})" if condition else ""),
            "seconds a step (least to greatest)",
            "temporaries, MB",
            "peak memory of the process, MB",
            "compilation, s",
        ]
        rows = [
            [
                str(getattr(m.point, field)),
                f"{m.seconds.median:.3g} ({m.seconds.low:.3g} to {m.seconds.high:.3g})",
                f"{m.temporaries / 1e6:.0f}",
                f"{m.peak_memory / 1e6:.0f}",
                f"{m.compile_seconds:.1f}",
            ]
            for m in points
        ]
        parts.append(markdown(header, rows))
    return "\n".join(parts)


def plot(found: Mapping[str, Sequence[Measured]], path: Path) -> None:
    """Writes a PNG with two panels for each size: seconds above, memory below."""
    fields = list(dict.fromkeys(varied(name) for name in found))
    columns = min(_COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(3.4 * columns, 4.8 * rows), layout="constrained")
    panels: Any = figure.subplots(2 * rows, columns, squeeze=False)
    for at, field in enumerate(fields):
        pair = panels[2 * (at // columns) : 2 * (at // columns) + 2, at % columns]
        for name, points in found.items():
            if varied(name) == field:
                _draw(pair, points, field, name.partition(", ")[2])
        pair[0].set_ylabel("seconds a step")
        pair[1].set_ylabel("temporaries, GB")
        pair[1].set_xlabel(_NAMES[field])
        for panel in pair:
            panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
            panel.grid(alpha=0.3)
    for panel in panels.flat:
        panel.set_visible(panel.has_data())
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw(pair: Any, points: Sequence[Measured], field: str, condition: str) -> None:
    x = [getattr(m.point, field) for m in points]
    style: dict[str, Any] = {"marker": "o", "label": condition or "all at once"}
    if condition:
        style["linestyle"] = "--"
    if isinstance(x[0], str):
        style["linestyle"] = "none"
        pair[0].margins(x=0.2)
        pair[1].margins(x=0.2)
    pair[0].plot(x, [m.seconds.median for m in points], **style)
    pair[1].plot(x, [m.temporaries / 1e9 for m in points], **style)
    if condition:
        pair[1].legend(fontsize="small")


@command(
    "growth",
    path("--out", required=True, help="folder for growth.json, growth.md and growth.png"),
    argument("--series", choices=tuple(SERIES), action="append", help="which; may be repeated (default: all)"),
    argument("--clip", choices=CLIPS, default="vit_s16", help="shape of the CLIP"),
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
    found = read(path) if path.is_file() else {}
    for name in dict.fromkeys(arguments.series or SERIES):
        points: list[Measured] = []
        for point in SERIES[name]:
            try:
                sized = dataclasses.replace(point, clip=arguments.clip)
                points.append(measure(config, sized, arguments.repeats))
            except (ValueError, BrokenProcessPool) as error:
                logging.error("%s", error)
                return 1
            logging.info("%s: %s", name, points[-1])
        found[name] = points
        ordered = {known: found[known] for known in SERIES if known in found}
        write(path, ordered)
        files.write_text(out / "growth.md", table(ordered))
        plot(ordered, out / "growth.png")
    print(table(found))
    return 0


if __name__ == "__main__":
    benchmark_growth.start()
