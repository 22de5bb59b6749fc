"""Time per image of each stage of the input pipeline, and its throughput.

Images are synthetic faces in the sizes and formats of RAF-DB (aligned, 100 x 100 JPEG) and FERPlus (48 x 48 grey PNG).
"""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import importlib
import importlib.util
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from mpafer_jax.cli.parser import at_least, whole_numbers
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Config
from mpafer_jax.data import pipeline, preprocess
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.runtime import devices, files
from mpafer_jax.runtime import workers as workers_lib
from tests.bench.timing import Spread, time_block

cv2: Any = importlib.import_module("cv2")  # whose annotations leave out some of it
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """Format of stored images: side in pixels, Pillow's mode, file format, and encoder arguments."""

    title: str
    size: int
    mode: str
    format: str
    encoder: Mapping[str, Any]


KINDS = {
    "rafdb": Kind("100 x 100 JPEG", 100, "RGB", "JPEG", {"quality": 90}),
    "ferplus": Kind("48 x 48 grey PNG", 48, "L", "PNG", {}),
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Settings of the pipeline: `data.num_workers` and `data.cache_decoded`."""

    num_workers: int
    cache_decoded: bool


def write_faces(folder: Path, kind: Kind, number: int) -> None:
    """Writes synthetic faces as `<folder>/train/<expression>/NNN.<format>`, as `data.dataset = "folder"` reads them."""
    faces = [generate.face_of(_SEED, "train", index, STYLES["colour"]) for index in range(number)]
    drawn = generate.render_all([face.job for face in faces], kind.size)
    for index, (face, pixels) in enumerate(zip(faces, drawn, strict=True)):
        path = folder / "train" / face.expression / f"{index:05d}.{kind.format.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            Image.fromarray(pixels).convert(kind.mode).save(temporary, kind.format, **kind.encoder)


def stages(data: DataSection, image_size: int, batch_size: int, repeats: int) -> dict[str, Spread]:
    """Seconds per image of each stage of the training pipeline, in one thread; `repeats` passes of every stage."""
    split = load_dataset(data.model_copy(update={"cache_decoded": False})).train
    kept = load_dataset(data.model_copy(update={"cache_decoded": True})).train
    numbers = range(len(split))
    rng, augment = np.random.default_rng(_SEED), data.augment
    encoded = [split.source[index] for index in numbers]
    decoded = [preprocess.decode(value) for value in encoded]
    cropped = [
        preprocess.random_resized_crop(image, rng, image_size, augment.crop_scale, augment.crop_ratio)
        for image in decoded
    ]
    arrays = [preprocess.to_pixels(image) for image in cropped]
    batch = np.stack((arrays * batch_size)[:batch_size])
    color = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    found: dict[str, Callable[[], object]] = {
        "read the record": _over(numbers, split.source.__getitem__),
        "decode": _over(encoded, preprocess.decode),
        "read decoded (data.cache_decoded), instead of both": _over(numbers, kept.source.image),
        "generator": _over(numbers, lambda index: np.random.default_rng((pipeline.AUGMENT, _SEED, index))),
        "crop and resize": _over(
            decoded,
            lambda image: preprocess.random_resized_crop(
                image, rng, image_size, augment.crop_scale, augment.crop_ratio
            ),
        ),
        "flip": _over(cropped, lambda image: preprocess.flip(image, rng, augment.flip)),
        "colour": _over(cropped, lambda image: preprocess.color_jitter(image, rng, *color)),
        "to an array": _over(cropped, preprocess.to_pixels),
        "erase": _over(
            arrays, lambda pixels: preprocess.random_erase(pixels, rng, augment.erase, augment.erase_scale, (0, 0, 0))
        ),
    }
    timed = {name: _spread(call, len(split), repeats) for name, call in found.items()}
    timed["batch"] = _spread(lambda: np.stack(list(batch)), batch_size, repeats)
    timed["to the device"] = _spread(lambda: _move(batch), batch_size, repeats)
    return timed


def _over(items: Iterable[Any], function: Callable[[Any], object]) -> Callable[[], object]:
    return lambda: [function(item) for item in items]


def _move(batch: np.ndarray[Any, Any]) -> None:
    (moved,) = devices.prefetch([{"image": batch}])
    jax.block_until_ready(moved)


def _spread(call: Callable[[], object], images: int, repeats: int) -> Spread:
    call()
    return Spread.of([time_block(call) / images for _ in range(repeats)])


def decoders(encoded: Sequence[bytes], repeats: int) -> dict[str, Spread]:
    """Seconds per image of each installed decoder of the format."""
    known: dict[str, Callable[[bytes], object]] = {
        "Pillow, with our checks": preprocess.decode,
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
    }
    if importlib.util.find_spec("simplejpeg") and encoded[0].startswith(b"\xff\xd8"):
        known["simplejpeg"] = importlib.import_module("simplejpeg").decode_jpeg
    return {name: _spread(_over(encoded, decode), len(encoded), repeats) for name, decode in known.items()}


def resizers(split: Split, image_size: int, repeats: int) -> dict[str, Spread]:
    """Seconds per image of each way to resize it to the CLIP's size."""
    images = [split.source.image(index) for index in range(len(split))]
    known: dict[str, Callable[[Any], object]] = {
        "Pillow, bicubic": lambda image: preprocess.resize(image, image_size),
        "Pillow, bilinear": lambda image: image.resize((image_size, image_size), Image.Resampling.BILINEAR),
    }
    timed = {name: _spread(_over(images, resize), len(images), repeats) for name, resize in known.items()}
    cv2.setNumThreads(1)
    arrays = [np.asarray(image) for image in images]
    resize = _over(arrays, lambda a: cv2.resize(a, (image_size, image_size), interpolation=cv2.INTER_CUBIC))
    timed["OpenCV, cubic (another kernel)"] = _spread(resize, len(arrays), repeats)
    return timed


def rate(data: DataSection, how: Pipeline, image_size: int, batch_size: int, seconds: float) -> float:
    """Images per second of the whole training pipeline with transfer to the devices, after its start."""
    section = data.model_copy(update=dataclasses.asdict(how))
    split = load_dataset(section).train
    batches = pipeline.train_batches(
        split,
        section=section,
        image_size=image_size,
        batch_size=batch_size,
        seed=_SEED,
        start_step=0,
        num_steps=10**9,
    )
    moved = devices.prefetch({"image": batch["image"]} for batch in batches)
    try:
        for _ in range(8):  # prefetched while workers started
            next(moved)
        made, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            jax.block_until_ready(next(moved))
            made += batch_size
        return made / (time.perf_counter() - start)
    finally:
        moved.close()


def measure(arguments: argparse.Namespace, data: DataSection, kind: Kind, folder: Path) -> dict[str, Any]:
    """Measures one kind of images in a scratch folder, with the augmentation of `data`."""
    write_faces(folder, kind, arguments.images)
    place: dict[str, Any] = {"dataset": "folder", "dir": str(folder), "prepared_dir": "", "label_rule": "owner"}
    splits: dict[str, Any] = {"train_splits": ("train",), "validation_split": "", "test_split": "", "class_names": ()}
    data = data.model_copy(update={**place, **splits, "validation_fraction": 0.0, "train_per_class": 0})
    split = load_dataset(data).train
    ways = [Pipeline(workers, cached) for workers, cached in itertools.product(arguments.workers, (False, True))]
    return {
        "stages": stages(data, arguments.image_size, arguments.batch_size, arguments.repeats),
        "decoders": decoders([split.source[index] for index in range(len(split))], arguments.repeats),
        "resizers": resizers(split, arguments.image_size, arguments.repeats),
        "pipeline": [
            {
                **dataclasses.asdict(way),
                "images_per_second": rate(data, way, arguments.image_size, arguments.batch_size, arguments.seconds),
            }
            for way in ways
        ],
    }


def render(found: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    titles = [KINDS[kind].title for kind in found]
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
    argument("--kind", choices=tuple(KINDS), action="append", help="which images (default: all)"),
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
    for kind in dict.fromkeys(arguments.kind or KINDS):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(arguments, config.data, KINDS[kind], Path(folder))
    text = render(found)
    files.write_text(arguments.out / "input.md", text)
    files.write_json(arguments.out / "input.json", json.loads(json.dumps(found, default=dataclasses.asdict)))
    print(text)


if __name__ == "__main__":
    benchmark_input.start()
