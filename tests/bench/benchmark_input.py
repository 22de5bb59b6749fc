"""Measures the input pipeline: each stage, the decoders that are installed, and images a second."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import itertools
import json
import pathlib
import tempfile
from typing import Any

from mpafer_jax.cli.parser import at_least, whole_numbers
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime import files
from mpafer_jax.runtime import workers as workers_lib
from tests.bench import input as input_lib
from tests.bench.timing import Spread


def measure(
    arguments: argparse.Namespace, data: DataSection, kind: input_lib.Kind, folder: pathlib.Path
) -> dict[str, Any]:
    """Measures one kind of images in a scratch folder, with the augmentation of `data`."""
    input_lib.write_faces(folder, kind, arguments.images)
    place: dict[str, Any] = {"dataset": "folder", "dir": str(folder), "prepared_dir": "", "label_rule": "owner"}
    splits: dict[str, Any] = {"train_splits": ("train",), "validation_split": "", "test_split": "", "class_names": ()}
    data = data.model_copy(update={**place, **splits, "validation_fraction": 0.0, "train_per_class": 0})
    split = load_dataset(data).train
    ways = [
        input_lib.Pipeline(workers, cached) for workers, cached in itertools.product(arguments.workers, (False, True))
    ]
    return {
        "stages": input_lib.stages(data, arguments.image_size, arguments.batch_size, arguments.repeats),
        "decoders": input_lib.decoders([split.source[index] for index in range(len(split))], arguments.repeats),
        "resizers": input_lib.resizers(split, arguments.image_size, arguments.repeats),
        "pipeline": [
            {
                **dataclasses.asdict(way),
                "images_per_second": input_lib.rate(
                    data, way, arguments.image_size, arguments.batch_size, arguments.seconds
                ),
            }
            for way in ways
        ],
    }


def render(found: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    titles = [input_lib.KINDS[kind].title for kind in found]
    for part in ("stages", "decoders", "resizers"):
        lines += [f"| {part}, microseconds an image | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
        names = list(dict.fromkeys(name for results in found.values() for name in results[part]))
        for name in names:
            cells = [_microseconds(results[part].get(name)) for results in found.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"| pipeline, images a second | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for ways in zip(*(results["pipeline"] for results in found.values()), strict=True):
        workers, cached = ways[0]["num_workers"], ways[0]["cache_decoded"]
        how = f"{workers} worker processes" if workers else "threads"
        cells = [f"{way['images_per_second']:,.0f}" for way in ways]
        lines.append(f"| {how}{', decoded before' if cached else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{workers_lib.usable_cores()} cores.\n"


def _microseconds(spread: Spread | None) -> str:
    return "" if spread is None else f"{1e6 * spread.median:.0f} ({1e6 * spread.low:.0f} to {1e6 * spread.high:.0f})"


@command(
    "input",
    path("--out", required=True, help="folder for input.md and input.json"),
    argument("--kind", choices=tuple(input_lib.KINDS), action="append", help="which images (default: all)"),
    number("--images", 8, default=512, help="how many faces are drawn"),
    number("--image_size", 8, default=224, help="side of the images that the CLIP reads, in pixels"),
    number("--batch_size", 1, default=64, help="images in a batch"),
    argument("--workers", type=whole_numbers, default=[0], help="values of data.num_workers, with commas (default 0)"),
    number("--repeats", 1, default=7, help="times that every stage is measured"),
    argument("--seconds", type=at_least(0, float), default=5.0, help="how long each whole pipeline is measured"),
    config=True,
    called="python -m tests.bench.benchmark_input",
)
def benchmark_input(arguments: argparse.Namespace) -> None:
    """Measures the input pipeline: each stage, the decoders that are installed, and images a second.

        python -m tests.bench.benchmark_input --config=configs/rafdb.py --config.data.dir=unused --out=benchmark_input

    Nothing is read: faces are drawn, and stored as RAF-DB and FERPlus store theirs. The augmentation is the
    configuration's. Prints Markdown tables, and writes them and the numbers to --out.
    """
    config = Config.from_config_dict(arguments.config)
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(arguments.kind or input_lib.KINDS):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(arguments, config.data, input_lib.KINDS[kind], pathlib.Path(folder))
    text = render(found)
    files.write_text(arguments.out / "input.md", text)
    files.write_json(arguments.out / "input.json", json.loads(json.dumps(found, default=dataclasses.asdict)))
    print(text)


if __name__ == "__main__":
    benchmark_input.start()
