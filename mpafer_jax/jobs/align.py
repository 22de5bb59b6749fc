"""Aligned copies of datasets: the face of every image is found, turned upright and cut out. Formats: `data.aligned`.

While a copy is made, `alignment.part.jsonl` holds a line for each finished image. The next start of the command reads
it and does the rest.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent import futures
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import cv2
from absl import logging
from PIL import Image

from mpafer_jax import __version__
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import aligned, preprocess, records
from mpafer_jax.data.aligned import AlignedCopy, Original
from mpafer_jax.data.records import Clip, Counts, ImageCrop, ImageFile, ImageSource, Record, SourceIndex
from mpafer_jax.data.registry import read_whole
from mpafer_jax.faces import alignment, finder
from mpafer_jax.faces.detect import YUNET, Box, Detector, Face
from mpafer_jax.inference.media import LeftOut
from mpafer_jax.runtime import files, locks, progress, signals, workers
from mpafer_jax.runtime.errors import InputError

_JOURNAL = "alignment.part.jsonl"
_AHEAD = 4  # images in work or waiting, for each thread
_AROUND = 1.0  # of a face box's size: how far around it the face is looked for
_NO_FACE, _UNREADABLE = "no face found", "cannot be read"  # why an example is not copied
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\ud800-\udfff]')  # in names, on one system or another
_LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
OnMissing = Literal["keep", "drop"]
Status = Literal["aligned", "not_found_kept", "not_found_dropped", "unreadable"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How faces are aligned.

    Attributes:
      size: side of the crops in pixels.
      margin: around the face, see `alignment.align`.
      on_missing: what becomes of images without a face: keep (resized, as a model would see them), or drop.
      face_model: see `Detector`.
    """

    size: int = alignment.SIZE
    margin: float = 0.0
    on_missing: OnMissing = "keep"
    face_model: Path = YUNET


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    """An image to align: its name in the log, and its file relative to the copy."""

    name: str
    image: ImageSource
    file: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of an image: a line of alignment.csv.

    Attributes:
      image: its name: split and name in the dataset, of a frame also its file; or its path in the folder of images.
      stamp: of the original, see `ImageSource`.
      status: "unreadable" images have an `error`.
      faces: that were found.
      chosen: which of them was taken, from the left, from 1; 0 for none.
      overlap: of its box with the owner's face box, or the image: intersection over union.
      face: the face, in pixels of the image as it is read, or as stored where the dataset has face boxes.
    """

    image: str
    stamp: str
    status: Status
    faces: int = 0
    chosen: int = 0
    overlap: float = 0.0
    face: Face | None = None
    error: str = ""

    @property
    def is_copied(self) -> bool:
        """Whether the copy holds it."""
        return self.status in ("aligned", "not_found_kept")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict` and JSON."""
        face: dict[str, Any] | None = values.pop("face")
        return cls(**values, face=None if face is None else Face.from_dict(face))

    def cells(self, file: str) -> dict[str, object]:
        """Column -> value, `file` being the image in the copy."""
        face = self.face
        place = {name: "" if face is None else getattr(face, name) for name in ("left", "top", "width", "height")}
        points = dict.fromkeys((f"{name}_{axis}" for name in _LANDMARKS for axis in "xy"), "")
        if face is not None:
            points = dict(zip(points, (number for point in face.landmarks for number in point), strict=True))
        return {
            "image": self.image,
            "file": file if self.is_copied else "",
            "status": self.status,
            "faces": self.faces,
            "chosen": self.chosen or "",
            "overlap": round(self.overlap, 3) if self.chosen else "",
            **place,
            "score": "" if face is None else face.score,
            "tilt": "" if face is None else round(face.tilt, 1),
            **points,
            "error": self.error,
        }


def align_dataset(data: DataSection, out: Path, options: Options, command: str) -> AlignedCopy:
    """Makes an aligned copy of a dataset with all that it tells of its images, or finishes it.

    The copy holds every labelled example of the dataset; `data.class_names` and `data.where` select from the copy as
    from the original. Images that cannot be read are logged in the copy, which is complete without them only with
    `data.on_bad_image` "skip".

    Args:
      out: folder of the copy: missing, empty, or one that this function began.
      command: that the user gave, for messages.

    Raises:
      InputError: `out` holds other files, or a copy with other settings, or lies in the dataset's folder.
      DataError, ConfigError: see `read_source`.
      LockedError: another process works on it.
    """
    index = read_whole(data)
    for warning in index.warnings:
        logging.warning("%s", warning)
    if data.dir and not files.in_bucket(data.dir):
        _refuse_inside(out, files.local_path(data.dir, "config.data.dir"))
    examples = list(_examples(index))
    items = [item for _, _, of_example in examples for item in of_example]
    original = Original.of(index, data)
    about = {"dataset": index.dataset, "label_rule": index.label_rule, "crop of the original": index.crop}
    with _Work(out, options, about, items, command) as work:
        if work.before.complete:
            return work.before
        rows = work.run()
        lines: list[str] = []
        dropped: Counts = {}
        for split, record, of_example in examples:
            copied = [item for item in of_example if rows[item.file].is_copied]
            if not copied:
                unreadable = any(rows[item.file].status == "unreadable" for item in of_example)
                records.count(dropped, split, _UNREADABLE if unreadable else _NO_FACE)
                continue
            file = copied[0].file
            frames = [PurePosixPath(item.file).name for item in copied]
            place = str(PurePosixPath(file).parent) if isinstance(record.image, Clip) else file
            lines.append(aligned.metadata_line(record, split, index.class_names, place, frames))
        files.write_text(out / aligned.METADATA, "".join(lines))
        return work.end(rows, original, dropped, skip=data.on_bad_image == "skip")


def align_images(folder: Path, out: Path, options: Options, command: str) -> AlignedCopy:
    """Makes an aligned copy of a folder of images without labels, with the same folders in it; or finishes it.

    Arguments and errors as of `align_dataset`; images that cannot be read are logged and left out.
    """
    if not folder.is_dir():
        raise InputError(f"--images={folder}: there is no such folder")
    _refuse_inside(out, folder)
    taken = set[str]()
    items: list[_Item] = []
    left_out = LeftOut()
    for path in records.files_below(folder):
        if not preprocess.is_image(path.name):
            left_out[path.suffix.lower() or "no suffix"] += 1
            continue
        name = path.relative_to(folder)
        file = _unused([str(name.with_suffix(".jpg").as_posix()), f"{name.as_posix()}.jpg"], taken)
        items.append(_Item(name.as_posix(), ImageFile(path), file))
    if not items:
        raise InputError(f"--images={folder}: it holds no image{f', but {left_out}' if left_out else ''}")
    if left_out:
        logging.warning("left out, no images by their names: %s", left_out)
    with _Work(out, options, {"dataset": "", "label_rule": "", "crop of the original": ""}, items, command) as work:
        return work.before if work.before.complete else work.end(work.run(), None, {}, skip=True)


class _Work:
    """A copy in the making, inside the block."""

    def __init__(self, out: Path, options: Options, about: Mapping[str, str], items: Sequence[_Item], command: str):
        self.out, self.options, self.items, self.command = out, options, items, command
        self.detector = Detector(options.face_model)
        names = "".join(f"{item.name}\0{item.file}\n" for item in items)
        self.settings: dict[str, str | int | float] = {
            **about,
            "images": len(items),
            "their names and classes": _digest(names),
            "crop": alignment.describe_crop(options.size, alignment.check_margin(options.margin)),
            "on_missing": options.on_missing,
            "face_model": _digest(options.face_model.read_bytes()),
            "OpenCV": cv2.__version__,
            "JPEG quality": records.CROP_JPEG_QUALITY,
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Work:
        with self._stack:
            self.out.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(signals.orderly())
            self._stack.enter_context(locks.hold(self.out / locks.RUN, self.out))
            self.before = self._begin()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def _begin(self) -> AlignedCopy:
        before = AlignedCopy.open(self.out)
        if before is None:
            others = sorted(path.name for path in self.out.iterdir() if not path.name.startswith(locks.RUN))
            if others:
                raise InputError(
                    f"{self.out} holds other files ({', '.join(others[:3])}); give a new folder for the aligned copy"
                )
            before = AlignedCopy(
                complete=False,
                margin=self.options.margin,
                command=self.command,
                version=__version__,
                settings=self.settings,
            )
            before.write(self.out)
        if differing := [name for name, value in self.settings.items() if before.settings.get(name) != value]:
            listed = "".join(
                f"\n  {name}: there {before.settings.get(name)!r}, here {self.settings[name]!r}" for name in differing
            )
            raise InputError(f"{self.out} holds an aligned copy made otherwise; give another --out{listed}")
        if before.complete and before.images != self._images():
            if (self.out / _JOURNAL).is_file():  # images could not be read then, and may have been mended
                before = dataclasses.replace(before, complete=False, command=self.command)
                before.write(self.out)
                return before
            raise InputError(f"images of the original have changed since {self.out} was made; give another --out")
        return before

    def _images(self) -> str:
        """A digest of the original images' sizes."""
        return _digest("".join(f"{item.image.stamp()}\n" for item in self.items))

    def run(self) -> dict[str, Row]:
        """Aligns what is not yet done; returns what became of each image, by its file in the copy."""
        rows = self._done()
        missing = [item for item in self.items if item.file not in rows]
        for left_over in self.out.rglob("*.tmp"):  # of a process that was killed
            left_over.unlink()
        threads, cores = cv2.getNumThreads(), workers.usable_cores()
        cv2.setNumThreads(1)  # images are worked on side by side
        align = functools.partial(_align, detector=self.detector, options=self.options, out=self.out)
        try:
            with (
                signals.advising("the same command does the rest"),
                progress.task("aligning", len(self.items), done=len(rows)) as shown,
                futures.ThreadPoolExecutor(cores) as pool,
                (self.out / _JOURNAL).open("a", encoding="utf-8") as journal,
                contextlib.closing(workers.map_in_order(pool, align, missing, _AHEAD * cores)) as results,
            ):
                for item, row in zip(missing, results, strict=True):
                    rows[item.file] = row
                    with files.naming(self.out):
                        journal.write(json.dumps([item.file, dataclasses.asdict(row)]) + "\n")
                        journal.flush()
                    shown.advance()
        finally:
            cv2.setNumThreads(threads)
        return {item.file: rows[item.file] for item in self.items}

    def _done(self) -> dict[str, Row]:
        """Finished images of an earlier start, but those that could not be read, or have been replaced since."""
        stamps = {item.file: item.image for item in self.items}
        path = self.out / _JOURNAL
        rows: dict[str, Row] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # without a line that was cut short
        if whole != text:
            files.write_text(path, whole)
        for line in whole.splitlines():
            file, values = json.loads(line)
            rows[file] = Row.from_json(values)
        return {
            file: row
            for file, row in rows.items()
            if row.status != "unreadable"
            and row.stamp == stamps[file].stamp()
            and (not row.is_copied or (self.out / file).is_file())
        }

    def end(self, rows: Mapping[str, Row], original: Original | None, dropped: Counts, *, skip: bool) -> AlignedCopy:
        """Writes log and description; complete unless images cannot be read and are not to be skipped."""
        text = io.StringIO()
        table = csv.DictWriter(text, next(iter(rows.values())).cells("").keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(row.cells(file) for file, row in rows.items())
        files.write_text(self.out / aligned.LOG, text.getvalue())
        counts = collections.Counter[str](row.status for row in rows.values())
        complete = skip or not counts["unreadable"]
        copy = dataclasses.replace(
            self.before,
            complete=complete,
            command="" if complete else self.command,
            images=self._images(),
            crop=_describe(self.settings, counts),
            counts=dict(sorted(counts.items())),
            dropped=dropped,
            original=original,
        )
        copy.write(self.out)
        if complete and not counts["unreadable"]:
            (self.out / _JOURNAL).unlink()
        return copy


def _describe(settings: Mapping[str, str | int | float], counts: Mapping[str, int]) -> str:
    """The copy's `SourceIndex.crop`."""
    found = f"landmarks by YuNet ({str(settings['face_model'])[:16]}, OpenCV {settings['OpenCV']})"
    other = {"not_found_kept": "without a face are whole, resized", "not_found_dropped": "without a face left out"}
    missing = "".join(f", {counts[status]} {what}" for status, what in other.items() if counts[status])
    before = f"; aligned from: {settings['crop of the original']}" if settings["crop of the original"] else ""
    return f"{settings['crop']}; {found} of {counts['aligned']} images{missing}{before}"


def _digest(content: bytes | str) -> str:
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def _refuse_inside(out: Path, original: Path) -> None:
    """InputError if a copy would be written into the folder of the original, which is only read."""
    if out.resolve().is_relative_to(original.resolve()):
        raise InputError(f"--out={out} lies in {original}, which is not written to; give a folder outside of it")


# ---------------------------------------------------------------- files


def _examples(index: SourceIndex) -> Generator[tuple[str, Record, list[_Item]]]:
    """Split, record and images of each example."""
    taken = set[str]()
    classes = set[str]()
    folders = [_unused([_safe(name)], classes) for name in index.class_names]
    for split, found in index.splits.items():
        for record in found:
            # The file's name, and where two images have the same one, with the names of its folders.
            parts = [part for part in PurePosixPath(record.name).parts if part not in ("/", "..")]
            names = ["_".join(map(_safe, parts[-1:])), "_".join(map(_safe, parts))]
            folder = f"{_safe(split)}/{folders[record.label]}"
            if isinstance(record.image, Clip):
                of_clip = _unused([f"{folder}/{name}" for name in names], taken)
                in_clip = set[str]()
                yield (
                    split,
                    record,
                    [
                        _Item(
                            f"{split}/{record.name}/{name}",
                            frame,
                            _unused([f"{of_clip}/{Path(_safe(name)).with_suffix('.jpg')}"], in_clip),
                        )
                        for name, frame in zip(record.image.names, record.frames, strict=True)
                    ],
                )
            else:
                file = _unused([f"{folder}/{Path(name).with_suffix('.jpg')}" for name in names], taken)
                yield split, record, [_Item(f"{split}/{record.name}", record.image, file)]


def _safe(name: str) -> str:
    """A name for a file of any system."""
    return _FORBIDDEN.sub("_", name).strip(" .") or "_"


def _unused(candidates: Iterable[str], taken: set[str]) -> str:
    """The first path that is not taken, else the last with a number; it is taken then. Cases are not told apart."""
    name = ""
    for name in candidates:
        if name.lower() not in taken:
            break
    else:
        path, number = PurePosixPath(name), 2
        while (name := str(path.with_name(f"{path.stem}_{number}{path.suffix}"))).lower() in taken:
            number += 1
    taken.add(name.lower())
    return name


# ---------------------------------------------------------------- images


def _align(item: _Item, *, detector: Detector, options: Options, out: Path) -> Row:
    """Aligns one image and writes it."""
    about: dict[str, Any] = {"image": item.name, "stamp": item.image.stamp()}
    try:
        image, box = _open(item.image)
    except (OSError, ValueError) as error:  # ValueError: see `ImageSource.read`; ImageError is one
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        return Row(**about, status="unreadable", error=f"{item.image.place}: {reason}")
    faces = _find(image, box, detector)
    whole: Box = (0, 0, image.width, image.height)
    chosen = finder.overlapping(faces, box or whole, covers_center=box is not None)
    about["faces"] = len(faces)
    if chosen is not None:
        position, overlap = chosen
        face = faces[position]
        about |= {"chosen": position + 1, "overlap": overlap, "face": face}
        crop = alignment.align(image, face.landmarks, options.size, options.margin)
        status: Status = "aligned"
    elif options.on_missing == "drop":
        return Row(**about, status="not_found_dropped")
    else:
        left, top, width, height = box or whole
        crop = preprocess.resize(image.crop((left, top, left + width, top + height)), options.size)
        status = "not_found_kept"
    with files.replacing(out / item.file) as temporary:
        temporary.write_bytes(records.to_jpeg(crop))
    return Row(**about, status=status)


def _open(image: ImageSource) -> tuple[Image.Image, Box | None]:
    """An image, grey or RGB, and the owner's face box in it: where there is one, the image is the one around it."""
    if not isinstance(image, ImageCrop):
        return preprocess.decode(image.read()), None
    whole, (left, top, right, bottom) = image.whole()
    return whole, (left, top, right - left, bottom - top)


def _find(image: Image.Image, box: Box | None, detector: Detector) -> list[Face]:
    """The faces of an image; with an owner's face box those in its surroundings."""
    if box is None:
        return detector(image.convert("RGB"))
    left, top, width, height = box
    corner = max(0, round(left - _AROUND * width)), max(0, round(top - _AROUND * height))
    far = round(left + (1 + _AROUND) * width), round(top + (1 + _AROUND) * height)
    part = image.crop((*corner, min(image.width, far[0]), min(image.height, far[1])))
    return [_moved(face, *corner) for face in detector(part.convert("RGB"))]


def _moved(face: Face, x: int, y: int) -> Face:
    landmarks = tuple((across + x, down + y) for across, down in face.landmarks)
    return dataclasses.replace(face, left=face.left + x, top=face.top + y, landmarks=landmarks)
