"""Time per image of each stage of the input pipeline, and its throughput.

Images are synthetic faces in the sizes and formats of RAF-DB (aligned, 100 x 100 JPEG) and FERPlus (48 x 48 grey PNG).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import pipeline, preprocess
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.runtime import devices, files
from tests.bench.timing import Spread, time_block

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
    """Seconds per image of each stage of the training pipeline, in one thread.

    Args:
      data: a dataset with a training split, and its augmentation.
      image_size: in pixels.
      batch_size: in images.
      repeats: passes of every stage over the images.
    """
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
    }
    if importlib.util.find_spec("cv2"):
        cv2: Any = importlib.import_module("cv2")
        known["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
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
    if importlib.util.find_spec("cv2"):
        cv2: Any = importlib.import_module("cv2")
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
