"""Class folders: the label of an image is the name of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.data import records
from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Counts, Record, SourceIndex
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NO_CLASSES = {"image", "images", "img", "imgs", "label", "labels", "annotations"}
_LAYOUT = """\
  train/<class>/*.jpg, and where you have them validation/<class>/*.jpg (or val, valid) and test/<class>/*.jpg
or, without splits, all of it offered as the split "train":
  <class>/*.jpg
with images ending in """ + " ".join(sorted(IMAGE_SUFFIXES))


@reader(
    "folder",
    "Images in class folders, with or without split folders above them.",
    layout=_LAYOUT,
    source="your own images",
    fields=("dir", "class_names"),
)
def read(directory: Path, chosen: Sequence[str] = ()) -> SourceIndex:
    """Lists class folders; classes are in the folders' sorted order, images sorted by name.

    Args:
      directory: holds the split folders, or the class folders themselves.
      chosen: config.data.class_names, which may rename numbered folders.

    Raises:
      DataError: no images, two folders for one split or expression, a folder name that is not UTF-8, or folders of
        another layout (`images`, `labels`).
    """
    if not directory.is_dir():
        raise records.missing(directory)
    split_folders = _split_folders(directory)
    dropped: Counts = {}
    for split, path in split_folders.items():
        records.count_beside(path, split, dropped)
    images = {split: _list(path, split, dropped) for split, path in split_folders.items()}
    folder_names = sorted({name for found in images.values() for name, paths in found.items() if paths})
    without = sorted({name for found in images.values() for name in found} - set(folder_names))
    if folder_names and {name.lower() for name in folder_names} <= _NO_CLASSES:
        raise DataError(
            f"{directory}: the images lie in {', '.join(folder_names)}, which is no expression: their labels are in "
            f"other files, which are not read. Sort them into a folder for each class:\n{_LAYOUT}"
        )
    labels = {name: label for label, name in enumerate(folder_names)}
    class_names = _class_names(folder_names, directory)
    splits = {
        split: [
            Record(f"{name}/{path.name}", records.ImageFile(path), labels[name])
            for name, paths in found.items()
            for path in paths
        ]
        for split, found in images.items()
    }
    if not folder_names:
        raise records.missing(directory / "<class>" / "*.jpg")
    absent = {split: f"the folder {directory / split}" for split in _SPLITS.values()}
    absent |= {split: f"images in {path}/<class>/" for split, path in split_folders.items()}
    return SourceIndex(
        class_names=class_names,
        source_labels=tuple(folder_names),
        splits=splits,
        absent=absent,
        dropped=dropped,
        warnings=(
            *(f"{directory}: the folder {name!r} holds no image, so it is no class" for name in without),
            *_number_warnings(folder_names, chosen, directory),
            *_beside_splits(directory, split_folders),
        ),
    )


def _split_folders(directory: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, split in _SPLITS.items():
        folder = directory / name
        if folder.is_dir():
            if split in found:
                raise DataError(f"{found[split]} and {folder} both hold the split {split!r}; keep one of them")
            found[split] = folder
    return found or {"train": directory}


def _list(directory: Path, split: str, dropped: Counts) -> dict[str, list[Path]]:
    """Class folder -> images, both sorted by name."""
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {
        path.name: records.images_in(path, split, dropped) for path in folders if path.name != records.PREPARED_FOLDER
    }


def _class_names(folder_names: list[str], directory: Path) -> tuple[str, ...]:
    for folder in folder_names:
        if not files.is_utf8(folder):
            raise DataError(f"{directory}: the class folder {folder!r} is not called in UTF-8; rename it")
    try:
        return check_class_names(folder_names, f"folders in {directory}", at_least=0)
    except ConfigError as error:
        raise DataError(str(error)) from error


def _beside_splits(directory: Path, split_folders: Mapping[str, Path]) -> tuple[str, ...]:
    """Warnings of images outside the split folders, which are not read."""
    if list(split_folders.values()) == [directory]:
        return ()
    own = {records.PREPARED_FOLDER, *(path.name for path in split_folders.values())}
    others = sorted(path for path in directory.iterdir() if path.name not in own and not path.name.startswith("."))
    found = {path.name: records.number_of_images(path) for path in others if path.is_dir()}
    return tuple(
        f"{directory}: {number} images in {name}, which is no split ({', '.join(_SPLITS)}), are not read"
        for name, number in found.items()
        if number
    )


def _number_warnings(folder_names: list[str], chosen: Sequence[str], directory: Path) -> tuple[str, ...]:
    numbers = [name for name in folder_names if name.isdecimal() and (not chosen or name in chosen)]
    if not numbers:
        return ()
    example = ", ".join(f"'<expression>={name}'" for name in numbers[:2])
    return (
        f"{directory}: class folders {', '.join(numbers)} are numbers, which tell a text encoder nothing, and datasets "
        f"number expressions differently; find out what each means and set config.data.class_names=({example}, ...)",
    )
