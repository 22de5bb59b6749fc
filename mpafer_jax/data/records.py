"""Index of a dataset (images and labels), as readers return it, and helpers for readers.

A `SourceIndex` is built from label files and folder listings alone, without opening an image.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mpafer_jax.config.expressions import CANONICAL_NAMES, canonical_name, check_class_names
from mpafer_jax.data.preprocess import decode, decode_rgb, is_image, read_image_file
from mpafer_jax.faces import alignment
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError

# Cropped faces are encoded again; at 95 the loss is below that of a resize to 224.
CROP_JPEG_QUALITY = 95


class LayoutError(DataError):
    """A file or folder that a reader expects is missing; `reader` adds the expected layout and the download source."""


class ImageSource(Protocol):
    """One encoded image, read on demand."""

    @property
    def place(self) -> str:
        """The file, or row of a file, for error messages."""
        ...

    def read(self) -> bytes:
        """The encoded image. Raises OSError or ValueError if it cannot be read."""
        ...

    def stamp(self) -> str:
        """A string that changes with the image, computed without reading it: file size, or digest of a row."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file; a string suffices for its path, and takes less time where there are hundreds of thousands."""

    path: Path | str

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def read(self) -> bytes:
        """The file's bytes."""
        return read_image_file(self.path)

    def stamp(self) -> str:
        """The file's size; a modification time would change with every copy of the dataset."""
        try:
            return str(os.stat(self.path).st_size)  # noqa: PTH116 - for strings
        except OSError:
            return "missing"


@dataclasses.dataclass(frozen=True, slots=True)
class ImageCrop:
    """A rectangle of a larger image.

    Attributes:
      box: (left, top, width, height) in pixels.
      upright: whether of the image with its EXIF orientation, as people see it; else of the file as stored, as programs
        of the time of the owners' boxes count them.
    """

    path: Path
    box: tuple[float, float, float, float]
    upright: bool = False

    @property
    def place(self) -> str:
        """The file and the rectangle."""
        return f"{self.path} (face box left, top, width, height = {self.box})"

    def read(self) -> bytes:
        """The crop as JPEG, clipped to the image; ValueError if it is outside the image."""
        image, corners = self.whole()
        return to_jpeg(image.crop(corners).convert("RGB"))

    def whole(self) -> tuple[Image.Image, tuple[int, int, int, int]]:
        """The image around it, grey or RGB, and the rectangle clipped to that: left, top, right, bottom; see `read`."""
        image = decode(read_image_file(self.path), upright=self.upright)
        left, top, width, height = self.box
        corners = (
            max(0, round(left)),
            max(0, round(top)),
            min(image.width, round(left + width)),
            min(image.height, round(top + height)),
        )
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise ValueError(f"the face box lies outside the image of {image.width}x{image.height} pixels")
        return image, corners

    def stamp(self) -> str:
        """The file's size and the rectangle."""
        return f"{ImageFile(self.path).stamp()} {self.box}{' upright' if self.upright else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class AlignedFace:
    """A larger image's face, cropped by `alignment.align`: five landmarks, x and y in pixels of the file as stored."""

    path: Path
    points: tuple[tuple[float, float], ...]

    @property
    def place(self) -> str:
        """The file and the landmarks."""
        return f"{self.path} (landmarks {self.points})"

    def read(self) -> bytes:
        """The aligned crop as JPEG; ValueError if all landmarks are equal."""
        # No EXIF rotation: as for the face boxes of owners.
        return to_jpeg(alignment.align(decode_rgb(read_image_file(self.path), upright=False), self.points))

    def stamp(self) -> str:
        """The file's size, the landmarks, and the crop."""
        return f"{ImageFile(self.path).stamp()} {self.points} {alignment.describe_crop()}"


def to_jpeg(face: Image.Image) -> bytes:
    """A cropped face as JPEG of quality `CROP_JPEG_QUALITY`."""
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=CROP_JPEG_QUALITY)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True, slots=True)
class PixelRow:
    """A square grey image as decimal numbers in a csv (fer2013.csv): bytes `start` to `stop` of the file."""

    path: Path
    line: int
    start: int
    stop: int
    side: int
    digest: str

    @property
    def place(self) -> str:
        """The file and its line."""
        return f"{self.path} line {self.line}"

    def read(self) -> bytes:
        """The image as PNG; ValueError unless the row has side * side numbers from 0 to 255."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            values = [int(value) for value in file.read(self.stop - self.start).split()]
        if len(values) != self.side**2 or min(values) < 0 or max(values) > 255:
            raise ValueError(f"expected {self.side**2} grey values from 0 to 255, found {len(values)} values")
        buffer = io.BytesIO()
        Image.fromarray(np.array(values, np.uint8).reshape(self.side, self.side)).save(buffer, "PNG")
        return buffer.getvalue()

    def stamp(self) -> str:
        """The digest of the row's text."""
        return self.digest


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """A video clip as image files in one folder, at least one; `names` are in the order of time."""

    folder: Path
    names: tuple[str, ...]

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def frames(self) -> tuple[ImageFile, ...]:
        """The images."""
        return tuple(ImageFile(os.path.join(self.folder, name)) for name in self.names)  # noqa: PTH118

    def stamp(self) -> str:
        """Names and sizes of the files."""
        return " ".join(f"{name}:{frame.stamp()}" for name, frame in zip(self.names, self.frames, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One labelled example: an image, or a video clip.

    Attributes:
      name: name of the image or clip in the dataset's files; unique in its split if `person` is given.
      label: index into the class names; -1 in `SourceIndex.left_out`.
      label_distribution: one weight per class, summing to 1; None is one-hot at `label`.
      person: subject id, empty if unknown. Splitting keeps all images of a person on one side.
      attributes: what else the dataset tells of the image, by name: {"gender": "female"}; names of images are unique
        in a split that has some.
    """

    name: str
    image: ImageSource | Clip
    label: int
    label_distribution: tuple[float, ...] | None = None
    person: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    @property
    def frames(self) -> Sequence[ImageSource]:
        """The image, or the images of the clip."""
        return self.image.frames if isinstance(self.image, Clip) else (self.image,)


PREPARED_FOLDER = "mpafer_tfds"  # inside the dataset's folder, unless config.data.prepared_dir is set
_NO_DATA = (PREPARED_FOLDER, "__MACOSX")  # the second is in archives made on a Mac
Counts = dict[str, dict[str, int]]  # split -> reason -> dropped examples
_READ = 32  # files of a split, evenly spaced, of which the fingerprint has the content
MAX_GROUPS = 20  # an attribute with more values is a measurement or a name, and makes no groups
CROPPED = "faces cropped: "  # start of the note on `SourceIndex.crop` in a dataset's description
_NESTED, _BESIDE = "image in a folder inside a class folder", "image beside the class folders, in none of them"
_NO_CLASS = "image in a folder that is no class"
_NO_IMAGE = "no image"
_FILE_MANAGERS = (f"{_NO_IMAGE} (.db)", f"{_NO_IMAGE} (.ini)")  # Thumbs.db, desktop.ini


@dataclasses.dataclass(frozen=True)
class SourceIndex:
    """Index of a dataset: records by split, class names, what was dropped.

    Attributes:
      class_names: in the order of the labels.
      splits: records by split, in the order of the dataset's files; all of them images, or all of them clips.
      absent: split -> what was looked for. Readers may list every split; `reader` keeps the empty ones and removes
        these from `splits`.
      source_labels: label of each class in the dataset's files (number, column or folder); () is 0 to C - 1.
      reader_names: what the reader calls each class, where config.data.class_names may rename it; () is class_names.
      label_rule: how labels were made, e.g. "owner" or "majority_labelcsv".
      crop: how the faces were cropped, for protocols; "" as the owners did.
      face_margin: of an aligned copy; None: config.data.face_margin.
      dropped: split -> reason -> number of dropped examples.
      left_out: split -> unused images (label -1), a part of those in `dropped`; `data check` opens them too.
      computed: images are computed on reading, so processes are used instead of threads.
      expected_size: (width, height) in pixels of every image, if the release has only one.
      warnings: for the user, logged when the dataset is loaded.
      joined: further splits, made of `splits`: with five folds "train" is all but one, "test" that one.
      whole: the index before config.data.where left out images, None if it is empty.
      dataset, description, version: filled in by `reader`.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Record]]
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    source_labels: tuple[str, ...] = ()
    reader_names: tuple[str, ...] = ()
    label_rule: str = "owner"
    crop: str = ""
    face_margin: float | None = None
    dropped: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict[str, dict[str, int]])
    left_out: Mapping[str, Sequence[Record]] = dataclasses.field(default_factory=dict[str, Sequence[Record]])
    computed: bool = False
    expected_size: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    joined: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict[str, tuple[str, ...]])
    whole: SourceIndex | None = None
    dataset: str = ""
    description: str = ""
    version: str = ""

    @property
    def unit(self) -> str:
        """What the examples are: "images" or "clips"."""
        first = next((record for records in self.splits.values() for record in records), None)
        return "clips" if first is not None and isinstance(first.image, Clip) else "images"

    def parts(self, *names: str) -> tuple[str, ...]:
        """The names, with `joined` splits replaced by the splits that they are made of."""
        made_of = {name: tuple(part for part in parts if part in self.splits) for name, parts in self.joined.items()}
        return tuple(part for name in names for part in made_of.get(name) or (name,))

    def fingerprint(self, *extra: str) -> str:
        """Hex digest of everything that a preparation depends on: names, labels and every image's stamp.

        Stamps of files are their sizes, which images of other pixels may share, as BMPs do: of each split some files
        are read.
        """
        digest = hashlib.sha256()
        for part in (self.dataset, self.label_rule, *self.class_names, *extra):
            digest.update(part.encode() + b"\0")
        for split, records in self.splits.items():
            digest.update(f"\1{split}\0".encode())
            for record in records:
                weights = "" if record.label_distribution is None else repr(record.label_distribution)
                line = f"{record.name}\0{record.image.stamp()}\0{record.label}\0{weights}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
            for record in records[:: max(1, math.ceil(len(records) / _READ))]:
                digest.update(_content(record.frames[0]))
        return digest.hexdigest()


def _content(image: ImageSource) -> bytes:
    """Digest of the file that holds an image or its surroundings; b"" for drawn images, and those in tables."""
    if not isinstance(image, ImageFile | ImageCrop | AlignedFace):
        return b""
    try:
        return hashlib.sha256(read_image_file(image.path)).digest()
    except (OSError, ValueError):  # ImageError is one; what cannot be read is reported where it is prepared
        return b""


def read_text(path: Path) -> str:
    """The text of a label file; DataError if it cannot be read."""
    try:
        return files.read_text(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def lines(path: Path, *, listed: bool = True) -> Iterator[tuple[str, str]]:
    """The lines of a text with their places, without empty ones; of a list of paths with forward slashes.

    Errors as of `read_text`.
    """
    place = f"{path} line "
    for number, line in numbered_lines(path):
        yield f"{place}{number}", listed_name(line.strip()) if listed else line


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers, without empty ones; errors as of `read_text`."""
    # Not `splitlines`, which ends lines at other characters than csv does.
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip())


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Streams the rows of a csv as (line number, fields), without blank ones; DataError if it cannot be read."""
    try:
        with files.open_text(path, newline="") as text:
            rows = csv.reader(text, delimiter=delimiter)
            try:
                for row in rows:
                    if any(field.strip() for field in row):
                        yield rows.line_num, row
            except csv.Error as error:
                raise DataError(f"{path} line {rows.line_num}: {error}; a quotation mark may be left open") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror or error})")


def listed_name(name: str) -> str:
    """A listed file name with forward slashes; lists made on Windows have backslashes."""
    return name.replace("\\", "/")


def count(dropped: Counts, split: str, reason: str, number: int = 1) -> None:
    """Adds `number` dropped examples of `split` under `reason`."""
    if number:
        reasons = dropped.setdefault(split, {})
        reasons[reason] = reasons.get(reason, 0) + number


def was_overlooked(reason: str) -> bool:
    """Whether a reason in `SourceIndex.dropped` is an unexpected file, not a label rule or a class selection."""
    return reason in (_NESTED, _BESIDE, _NO_CLASS) or (reason.startswith(_NO_IMAGE) and reason not in _FILE_MANAGERS)


def subfolders(directory: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones and the prepared copy."""
    with os.scandir(directory) as entries:  # tells folders from files without a look at each
        return sorted(Path(entry) for entry in entries if _may_be_data(entry.name) and entry.is_dir())


def only_folder(directory: Path) -> Path | None:
    """The folder that a folder has alone, as archives unpack; None if that is called as an expression: a class."""
    below = subfolders(directory)
    return below[0] if len(below) == 1 and canonical_name(below[0].name) not in CANONICAL_NAMES else None


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder, at any depth, without hidden ones and the prepared copy.

    Links are followed, and no folder is read twice. Raises OSError for a folder that cannot be read.
    """
    read = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        is_new = (real := os.path.realpath(place)) not in read
        read.add(real)
        folders[:] = filter(_may_be_data, sorted(folders)) if is_new else ()
        yield from (Path(place, name) for name in sorted(filter(_may_be_data, names)) if is_new)


def _raise(error: OSError) -> None:
    raise error


def _may_be_data(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_DATA


def images_in(folder: Path, split: str, dropped: Counts) -> list[Path]:
    """The images of a folder, sorted by name; [] if the folder is missing.

    Other files, and images in subfolders at any depth, are counted in `dropped`.
    """
    images: list[Path] = []
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # tells folders from files without a look at each
        listed = sorted((entry for entry in entries if _may_be_data(entry.name)), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir():
            count(dropped, split, _NESTED, number_of_images(Path(entry)))
        elif is_image(entry.name):
            images.append(Path(entry))
        else:
            count(dropped, split, f"{_NO_IMAGE} ({Path(entry).suffix or 'no suffix'})")
    return images


def class_folders(folder: Path, names: Sequence[str], split: str, dropped: Counts) -> dict[str, Path]:
    """The folders of a dataset's classes, by the owners' name for them.

    Another spelling of a name counts as the name (`canonical_name`), so `happy` is `Happy`. Images in other folders are
    counted in `dropped`.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    # The owners' own spelling has priority.
    for path in sorted(subfolders(folder), key=lambda path: path.name not in names):
        same = (name for name in names if canonical_name(name) == canonical_name(path.name) and name not in found)
        if name := next(same, ""):
            found[name] = path
        else:
            count(dropped, split, _NO_CLASS, number_of_images(path))
    return {name: found[name] for name in names if name in found}


def count_beside(folder: Path, split: str, dropped: Counts) -> None:
    """Counts images beside the class folders in `dropped`."""
    count(dropped, split, _BESIDE, number_directly_in(folder))


def number_directly_in(folder: Path) -> int:
    """Number of files with an image suffix in a folder, not below it, without hidden ones."""
    with os.scandir(folder) as entries:
        return sum(_may_be_data(entry.name) and is_image(entry.name) and entry.is_file() for entry in entries)


def number_of_images(folder: Path) -> int:
    """Number of files with an image suffix in a folder, at any depth, without hidden ones."""
    return sum(is_image(path.name) for path in files_below(folder))


def keep(index: SourceIndex, choose: Callable[[Record], Record | str]) -> SourceIndex:
    """Keeps the records that `choose` returns, perhaps changed; for others it returns why they are dropped."""
    splits: dict[str, list[Record]] = {split: [] for split in index.splits}
    dropped: Counts = {split: dict(reasons) for split, reasons in index.dropped.items()}
    left_out = {split: list(index.left_out.get(split, ())) for split in index.splits}
    for split, found in index.splits.items():
        for record in found:
            chosen = choose(record)
            if isinstance(chosen, str):
                left_out[split].append(Record(record.name, record.image, -1))
                count(dropped, split, chosen)
            else:
                splits[split].append(chosen)
    return dataclasses.replace(index, splits=splits, dropped=dropped, left_out=left_out)


def select_classes(index: SourceIndex, class_names: Sequence[str]) -> SourceIndex:
    """Keeps the listed classes, in the listed order; examples of others are dropped and counted.

    Args:
      class_names: each entry is a class of the dataset, matched by canonical name and spelled as given here, or
        `name=class`, which renames `class` (such as a folder "4"). A class whose own name has a "=" is matched
        first. Empty: all classes.

    Raises:
      DataError: an entry matches no class, or one that is listed already.
    """
    if not class_names:
        return index
    exact = {name: label for label, name in enumerate(index.class_names)}
    renamed = {entry.partition("=")[2] for entry in class_names}
    # Of synonyms, which are classes of their own only where they are renamed, another one has the name.
    positions = {canonical_name(name): exact[name] for name in sorted(exact, key=lambda name: name not in renamed)}
    chosen: dict[int, str] = {}  # the dataset's label -> the name in this run, in the listed order
    for entry in class_names:
        name, _, source = (entry, "", "") if canonical_name(entry) in positions else entry.partition("=")
        label = exact.get(source or name, positions.get(canonical_name(source or name)))
        if label is None:
            raise DataError(
                f"config.data.class_names: {entry!r} matches no class of {index.dataset}, which has "
                f"{', '.join(index.class_names)}; write a class's name, or 'name=class' to give a class another name"
            )
        if label in chosen:
            raise DataError(f"config.data.class_names: {entry!r} names {index.class_names[label]!r} a second time")
        chosen[label] = name
    try:
        names = check_class_names(tuple(chosen.values()), "config.data.class_names")
    except ConfigError as error:
        raise DataError(str(error)) from error
    new_label = {old: new for new, old in enumerate(chosen)}

    def choose(record: Record) -> Record | str:
        if record.label in new_label:
            return _relabel(record, new_label)
        return f"class {index.class_names[record.label]} not in class_names"

    return dataclasses.replace(
        keep(index, choose),
        class_names=names,
        source_labels=tuple(index.source_labels[old] for old in chosen),
        reader_names=tuple(index.class_names[old] for old in chosen),
    )


def _relabel(record: Record, new_label: Mapping[int, int]) -> Record:
    weights = record.label_distribution
    if weights is not None:
        selected = [weights[old] for old in new_label]
        weights = tuple(weight / sum(selected) for weight in selected)
    return dataclasses.replace(record, label=new_label[record.label], label_distribution=weights)


def missing(path: Path) -> LayoutError:
    """The error for a missing file or folder, or a file in place of a folder."""
    return LayoutError(f"{path} is a file, expected a folder." if path.is_file() else f"{path} is not there.")
