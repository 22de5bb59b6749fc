"""Measures the input pipeline: each stage, the decoders that are installed, and images a second.

    python -m tests.bench.benchmark_input --config=configs/rafdb.py --config.data.dir=unused --out=benchmark_input

Nothing is read: faces are drawn, and stored as RAF-DB and FERPlus store theirs. The augmentation is the
configuration's. Prints Markdown tables, and writes them and the numbers to --out.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import dataclasses
import itertools
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from mpafer_jax.cli import runner
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime import files
from mpafer_jax.runtime import workers as workers_lib
from mpafer_jax.runtime.errors import ConfigError
from tests.bench import input as input_lib
from tests.bench.timing import Spread

_CONFIG = define_config()
_KINDS = flags.DEFINE_multi_enum("kind", list(input_lib.KINDS), list(input_lib.KINDS), "Which images.")
_IMAGES = flags.DEFINE_integer("images", 512, "How many faces are drawn.", 8)
_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images that the CLIP reads, in pixels.", 8)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", 1)
_WORKERS = flags.DEFINE_list("workers", ["0"], "Values of data.num_workers, with commas between them.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Times that every stage is measured.", 1)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long each way to run the whole pipeline is measured.", 0)
_OUT = flags.DEFINE_string("out", None, "Folder for input.md and input.json.")


def measure(data: DataSection, kind: input_lib.Kind, folder: pathlib.Path) -> dict[str, Any]:
    """Everything of one kind of images, in a scratch folder, with the augmentation of `data`."""
    input_lib.write_faces(folder, kind, _IMAGES.value)
    place: dict[str, Any] = {"dataset": "folder", "dir": str(folder), "prepared_dir": "", "label_rule": "owner"}
    splits: dict[str, Any] = {"train_splits": ("train",), "validation_split": "", "test_split": "", "class_names": ()}
    data = data.model_copy(update={**place, **splits, "validation_fraction": 0.0, "train_per_class": 0})
    split = load_dataset(data).train
    ways = [
        input_lib.Pipeline(int(workers), cached)
        for workers, cached in itertools.product(_WORKERS.value or [], (False, True))
    ]
    return {
        "stages": input_lib.stages(data, _SIZE.value, _BATCH.value, _REPEATS.value),
        "decoders": input_lib.decoders([split.source[index] for index in range(len(split))], _REPEATS.value),
        "resizers": input_lib.resizers(split, _SIZE.value, _REPEATS.value),
        "pipeline": [
            {
                **dataclasses.asdict(way),
                "images_per_second": input_lib.rate(data, way, _SIZE.value, _BATCH.value, _SECONDS.value),
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


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out")
        config = Config.from_config_dict(_CONFIG.value)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(_KINDS.value):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(config.data, input_lib.KINDS[kind], pathlib.Path(folder))
    text = render(found)
    files.write_text(out / "input.md", text)
    files.write_json(out / "input.json", json.loads(json.dumps(found, default=dataclasses.asdict)))
    print(text)


if __name__ == "__main__":
    runner.start(main, required=["config", "out"])
