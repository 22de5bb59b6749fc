"""Face detection on faces whose place and tilt are known: YuNet beside the cascade that OpenCV 4 has."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpafer_jax.cli.runner import command, number, path
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.faces.detect import Box, Detector, overlap
from mpafer_jax.runtime import files, progress
from tests.bench import ferplus
from tests.faces.scenes import Scene, located, noise, pasted

cv2: Any = importlib.import_module("cv2")  # whose annotations leave out some of it
_TILTS = (20, 30, 45, 90)  # degrees


@dataclasses.dataclass(frozen=True)
class Found:
    """What a finder makes of one face; `tilt` is None where it has none."""

    box: Box
    tilt: float | None


Finder = Callable[[Image.Image], list[Found]]


def cascade() -> Finder:
    """The cascade as it is commonly called: frontal faces, 1.1 between scales, 5 neighbours, equalised if need be."""
    classifier = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")

    def find(image: Image.Image) -> list[Found]:
        scale = min(1.0, 800 / max(image.size))
        size = (round(image.width * scale), round(image.height * scale))
        grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR))
        least = max(20, min(size) // 16)
        for pixels in (grey, cv2.equalizeHist(grey)):
            boxes = classifier.detectMultiScale(pixels, 1.1, 5, minSize=(least, least))
            if len(boxes):
                return [Found((x / scale, y / scale, w / scale, h / scale), None) for x, y, w, h in boxes.tolist()]
        return []

    return find


def yunet() -> Finder:
    """The package's detector."""
    detector = Detector()

    def find(image: Image.Image) -> list[Found]:
        return [Found((f.left, f.top, f.width, f.height), f.tilt) for f in detector(image)]

    return find


@dataclasses.dataclass(frozen=True)
class Result:
    """Counts over scenes, of each scene's largest face; `milliseconds` is the median of a scene."""

    scenes: int
    any: int
    located: int
    overlapping: int
    milliseconds: float


def count(finder: Finder, scenes: Iterable[Scene]) -> Result:
    """Runs a finder on scenes."""
    seconds: list[float] = []
    faces: list[tuple[Scene, Found]] = []
    for scene in scenes:
        started = time.perf_counter()
        found = finder(scene.image)
        seconds.append(time.perf_counter() - started)
        if found:
            faces.append((scene, max(found, key=lambda face: face.box[2] * face.box[3])))
    with_truth = [(scene.box, face.box) for scene, face in faces if scene.box is not None]
    return Result(
        len(seconds),
        len(faces),
        sum(located(face, truth) for truth, face in with_truth),
        sum(overlap(face, truth) >= 0.5 for truth, face in with_truth),
        1000 * statistics.median(seconds),
    )


def tilt_errors(finder: Finder, images: Sequence[Image.Image]) -> list[float]:
    """Differences in degrees between the tilt of a turned face, minus that of the face unturned, and the turn."""
    errors: list[float] = []
    for seed, image in enumerate(images):
        straight = finder(pasted(image, seed).image)
        for tilt in (10, 20, 30):
            turned = finder(pasted(image, seed, tilt=tilt).image)
            if straight and turned and straight[0].tilt is not None and turned[0].tilt is not None:
                errors.append((turned[0].tilt - straight[0].tilt - tilt + 180) % 360 - 180)
    return errors


def protocols(photographs: Sequence[Image.Image]) -> Iterator[tuple[str, list[Scene]]]:
    """Names and scenes: of photographs of faces, of drawn faces in each style, of noise."""
    some = photographs[:100]
    if photographs:
        yield "photographs, 90 to 200 pixels", [pasted(face, seed) for seed, face in enumerate(photographs)]
        for tilt in _TILTS:
            yield f"tilted by {tilt} degrees", [pasted(face, seed, tilt=tilt) for seed, face in enumerate(some)]
        tight = (face.resize((224, 224), Image.Resampling.BICUBIC) for face in some)
        yield "tight crops of 224 pixels", [Scene(face, (0, 0, 224, 224)) for face in tight]
        yield "600 pixels", [pasted(face, seed, 600, size=(800, 700)) for seed, face in enumerate(photographs[:40])]
    for style in STYLES:
        yield f"drawn, {style}", [pasted(drawn(style, seed), seed) for seed in range(50)]
    yield "noise", [noise(seed) for seed in range(100)]


def drawn(style: str, seed: int) -> Image.Image:
    """A drawn face of 224 pixels."""
    return Image.fromarray(generate.face_of(seed, "photos", 0, STYLES[style]).job.pixels(224))


def photographs_of(folder: Path, number: int) -> list[Image.Image]:
    """Faces of FERPlus' PublicTest, drawn by a fixed seed, enlarged from 48 pixels."""
    faces, _ = ferplus.public_test(folder)
    chosen = np.random.default_rng(0).choice(len(faces), number, replace=False)
    return [Image.fromarray(faces[row]).convert("RGB") for row in chosen]


def render(results: dict[str, dict[str, Result]]) -> str:
    """A Markdown table: a row for each protocol."""
    names = list(next(iter(results.values())))
    lines = [
        "| scenes | " + " | ".join(f"{name}: located / IoU 0.5 / any, ms" for name in names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for title, found in results.items():
        cells = [f"{r.located} / {r.overlapping} / {r.any}, {r.milliseconds:.0f}" for r in found.values()]
        lines.append(f"| {title} ({next(iter(found.values())).scenes}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@command(
    "face_finders",
    path("--ferplus", help="folder with FERPlus; without it faces are drawn ones only"),
    number("--photographs", 1, default=400, help="how many of its faces"),
    path("--out", required=True, help="folder for face_finders.md and face_finders.json"),
    called="python -m tests.bench.face_finders",
)
def face_finders(arguments: argparse.Namespace) -> None:
    """Counts the faces that are found where it is known where they are, and times the detectors in turn.

        python -m tests.bench.face_finders --ferplus=FERPLUS --out=face_finders

    Every scene is an image of 640x480 with one face on grey, unless its name says otherwise. One thread.
    """
    cv2.setNumThreads(1)
    finders = {"YuNet": yunet()}
    if hasattr(cv2, "CascadeClassifier"):
        finders["cascade"] = cascade()
    photographs = photographs_of(arguments.ferplus, arguments.photographs) if arguments.ferplus else []
    results: dict[str, dict[str, Result]] = {}
    for title, scenes in protocols(photographs):
        with progress.task(title):
            results[title] = {name: count(finder, scenes) for name, finder in finders.items()}
    # Drawn faces have the resolution that landmarks need; photographs of 48 pixels do not.
    errors = np.abs(tilt_errors(finders["YuNet"], [drawn(style, s) for style in ("colour", "grey") for s in range(25)]))
    tilts = (
        f"Tilts of 10, 20 and 30 degrees of drawn faces (colour, grey): {np.mean(errors <= 5):.1%} of {len(errors)} "
        f"within 5 degrees, median error {np.median(errors):.1f}, largest {errors.max():.1f}."
    )
    text = f"{render(results)}\n{tilts}\n\nOpenCV {cv2.__version__}.\n"
    files.write_text(arguments.out / "face_finders.md", text)
    numbers = {title: {name: dataclasses.asdict(r) for name, r in found.items()} for title, found in results.items()}
    files.write_json(arguments.out / "face_finders.json", {"scenes": numbers, "tilt_errors": errors.tolist()})
    print(text)


if __name__ == "__main__":
    face_finders.start()
