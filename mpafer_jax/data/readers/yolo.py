"""Images and labels in YOLO's layout, which some public copies of face datasets have; read by `folder`.

data.yaml                                      names: [Anger, Contempt, ...]
train/images/1.png  train/labels/1.txt         lines "CLASS x y width height"; also images/train, labels/train
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from mpafer_jax.data import listing, records
from mpafer_jax.data.listing import Row
from mpafer_jax.data.names import split_of
from mpafer_jax.data.records import Counts, ImageFile, LayoutError, SourceIndex
from mpafer_jax.runtime.errors import DataError

_NAMES = ("data.yaml", "data.yml")


def description(directory: Path) -> Path | None:
    """The file that names the classes, None if the folder has another layout."""
    return next((directory / name for name in _NAMES if (directory / name).is_file()), None)


def read(directory: Path, path: Path, chosen: Sequence[str]) -> SourceIndex:
    """Reads images whose boxes are all of one class, whole; others, and labels without an image, are counted.

    Args:
      path: the description.
      chosen: config.data.class_names.

    Raises:
      DataError: the description names no classes, a label is out of range, or two folders are one split.
    """
    names = _class_names(path)
    folders: dict[str, tuple[Path, Path]] = {}
    pairs = [(folder / "images", folder / "labels") for folder in records.subfolders(directory)]
    if (directory / "images").is_dir():
        pairs += [(folder, directory / "labels" / folder.name) for folder in records.subfolders(directory / "images")]
    for images, labels in pairs:
        split = split_of(images.name) or split_of(images.parent.name)
        if not split or not images.is_dir():
            continue
        if split in folders:
            raise DataError(f"{folders[split][0]} and {images} both hold the split {split!r}; keep one of them")
        folders[split] = images, labels
    dropped: Counts = {}
    listed = {split: records.images_in(images, split, dropped) for split, (images, _) in folders.items()}
    rows = [row for split, (_, labels) in folders.items() for row in _rows(listed[split], labels, split, len(names))]
    if not rows:
        raise LayoutError(f"{directory} has {path.name} and no images in train/images or images/train.")
    index = listing.to_index(rows, chosen, str(path), [str(number) for number in range(len(names))], names)
    for split, reasons in index.dropped.items():
        for reason, number in reasons.items():
            records.count(dropped, split, reason, number)
    for split, (_, labels) in folders.items():
        stems = {image.stem for image in listed[split]} | {"classes"}  # a list of names that some programs write
        lost = {path.stem for path in labels.glob("[!.]*.txt")} - stems
        records.count(dropped, split, "label file without an image", len(lost))
    return dataclasses.replace(index, dropped=dropped)


def _class_names(path: Path) -> tuple[str, ...]:
    yaml: Any = importlib.import_module("yaml")
    try:
        names: Any = yaml.safe_load(records.read_text(path))["names"]
        names = [names[number] for number in range(len(names))]  # a list, or {0: name, ...}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: expected the names of the classes, names: [first, second, ...] ({reason})") from error
    return tuple(str(name) for name in cast("list[object]", names))


def _rows(images: Sequence[Path], labels: Path, split: str, num_classes: int) -> Iterator[Row]:
    for path in images:
        classes = _classes(labels / f"{path.stem}.txt", num_classes)
        dropped = "boxes of several classes" if len(classes) > 1 else ""
        yield Row(path.name, ImageFile(path), split, min(classes, default=""), dropped=dropped)


def _classes(path: Path, num_classes: int) -> set[str]:
    """The classes of an image's boxes; empty without a file or lines."""
    if not path.is_file():
        return set()
    classes = {line.split()[0] for _, line in records.lines(path, listed=False)}
    if wrong := [label for label in classes if not label.isdecimal() or int(label) >= num_classes]:
        raise DataError(f"{path}: found the class {wrong[0]!r}, expected 0 to {num_classes - 1}")
    return classes
