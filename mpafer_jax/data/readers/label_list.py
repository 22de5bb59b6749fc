"""Images with label files: one list, or one for each split, as csv, txt or JSON lines."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpafer_jax.config.data_section import ColumnsSection, ListSection
from mpafer_jax.data import listing, records, tables
from mpafer_jax.data.listing import Row
from mpafer_jax.data.names import split_in, split_of, split_of_path
from mpafer_jax.data.preprocess import is_image
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Clip, Counts, ImageCrop, ImageFile, ImageSource, LayoutError, SourceIndex
from mpafer_jax.data.tables import Table
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import DataError

_LAYOUT = """\
  labels.csv                    columns image,label, with or without split, person and others; or labels.txt with lines
                                "path label"; or metadata.jsonl with file_name and label
or one for each split:
  train.csv, val.csv, test.csv  also train_labels.csv, train/metadata.jsonl, ... (or config.data.list.train=FILE ...)
and the images that they list, anywhere in the folder"""
_SAMPLE = 10  # listed images that determine where images are
_IMAGES = ("", "images", "Images", "image", "Image", "imgs", "img")  # usual folders of images
_LISTS = ("label", "labels", "list", "lists", "annotation", "annotations", "split", "splits")  # and of lists
_BETWEEN_NUMBERS = re.compile(r"[\s,;|()\[\]]+")  # of a box in one column


@reader(
    "list",
    "Images with label files.",
    layout=_LAYOUT,
    source="your own images",
    fields=("dir", "class_names", "list", "columns"),
)
def read(
    directory: Path,
    chosen: Sequence[str] = (),
    lists: ListSection = ListSection(),  # noqa: B008  # frozen
    columns: ColumnsSection = ColumnsSection(),  # noqa: B008
) -> SourceIndex:
    """Reads label files; images are named by their listed path and in the order of the lists.

    An image's split is that of its row, of the list's name, or of a folder in its path, else "train".

    Args:
      directory: holds the images, and the lists unless they are given by absolute paths.
      chosen: config.data.class_names, which has to name labels that are numbers.

    Raises:
      DataError: no list, or several for one split; a column is not found; an image is listed twice, or none of the
        listed images is there; or see `listing.to_index`.
    """
    given = _given(directory, lists, columns)
    lists_of, warnings = (given, []) if given else _usual(directory, lists, columns)
    images = _Images(directory, lists, warnings)
    rows = [row for split, table in lists_of for row in _rows(table, split, columns, images, warnings)]
    index = listing.to_index(rows, chosen, " and ".join(str(table.path) for _, table in lists_of))
    dropped: Counts = {split: dict(reasons) for split, reasons in index.dropped.items()}
    records.count(dropped, next(iter(index.splits)), "image in no list", images.number_unlisted(rows))
    return dataclasses.replace(
        index, dropped=dropped, warnings=(*index.warnings, *warnings, *_in_several_splits(index))
    )


def _in_several_splits(index: SourceIndex) -> list[str]:
    """A warning if files, or rectangles of them, are listed in more than one split."""
    labels: dict[ImageSource | Clip, dict[str, int]] = {}
    for split, found in index.splits.items():
        for record in found:
            labels.setdefault(record.image, {})[split] = record.label
    shared = {image: of_splits for image, of_splits in labels.items() if len(of_splits) > 1}
    if not shared:
        return []
    contrary = sum(len({*of_splits.values()}) > 1 for of_splits in shared.values())
    image, of_splits = next(iter(shared.items()))
    first = ", ".join(f"{split}: {index.class_names[label]}" for split, label in of_splits.items())
    return [
        f"{len(shared)} images are listed in several splits, {contrary} of them with different labels; the first is "
        f"{image.place} ({first})"
    ]


def _given(directory: Path, lists: ListSection, columns: ColumnsSection) -> list[tuple[str, Table]]:
    """The configured lists with their splits, '' for a list of all."""
    names = {"file": lists.file, "train": lists.train, "validation": lists.validation, "test": lists.test}
    given: list[tuple[str, Table]] = []
    for field, name in names.items():
        if name:
            path = directory / files.local_path(name, f"config.data.list.{field}")
            if not path.is_file():
                raise DataError(f"config.data.list.{field}: {path} is not there")
            given.append((split_of(field), tables.read_table(path, columns, lists.delimiter)))
    return given


def _usual(directory: Path, lists: ListSection, columns: ColumnsSection) -> tuple[list[tuple[str, Table]], list[str]]:
    """The lists of splits in the folder by their names, else its only list; and warnings of files that are not read."""
    folders = [directory, *filter(_may_hold_lists, records.subfolders(directory))]
    found, refused = tables.find(folders, columns, lists.delimiter)
    if not found:
        raise LayoutError(" ".join([f"{directory} holds no list of images.", *refused.values()]))
    by_split: dict[str, list[Table]] = {}
    for table in found:
        folder = table.path.relative_to(directory)
        by_split.setdefault(split_in(table.path.stem) or split_of_path(folder), []).append(table)
    used = {split: listed for split, listed in by_split.items() if split} or by_split
    if several := [table for listed in used.values() if len(listed) > 1 for table in listed]:
        names = ", ".join(str(table.path.relative_to(directory)) for table in several)
        raise DataError(
            f"{directory} holds several lists, {names}; choose one, --config.data.list.file=NAME, or one for each "
            "split, --config.data.list.train=NAME --config.data.list.test=NAME"
        )
    unused = [f"{table.path} is not read" for table in by_split.get("", []) if "" not in used]
    unused += [f"not read: {why}" for why in refused.values()]
    return [(split, listed[0]) for split, listed in used.items()], unused


def _may_hold_lists(folder: Path) -> bool:
    return bool(split_of(folder.name)) or folder.name.lower() in _LISTS


class _Images:
    """Finds the images of lists."""

    def __init__(self, directory: Path, lists: ListSection, warnings: list[str]):
        self.directory = directory
        self._warnings = warnings  # for the user, to be added to
        self._given = directory / files.local_path(lists.images, "config.data.list.images") if lists.images else None
        self._served: dict[str, str] = {}  # path -> the name that an image is listed by

    def paths(self, names: Sequence[str], splits: Sequence[str], table: Path) -> list[Path]:
        """Paths of listed images: each in a usual folder, the one that has most of them first, else by its unique name.

        That of an image that is not there is where it was looked for first.

        Args:
          splits: of each; '' if a folder tells it.
        """
        paths: dict[int, Path] = {}
        for split in dict.fromkeys(splits):
            rows = [at for at, of in enumerate(splits) if of == split]
            paths.update(zip(rows, self._of_split([names[at] for at in rows], split, table), strict=True))
        return [paths[at] for at in range(len(names))]

    def _of_split(self, names: Sequence[str], split: str, table: Path) -> list[Path]:
        folders = [self._given] if self._given else self._usual_folders(table, split)
        sample = names[:: max(1, len(names) // _SAMPLE)]
        folders.sort(key=lambda folder: -sum((folder / name).is_file() for name in sample))
        paths = [self._in_folders(name, folders) for name in names]
        if not self._given:
            paths = self._add_by_name(paths, names, folders, split, table)
        if not any(paths):
            raise DataError(
                f"{table}: none of the listed images is there; looked for {names[0]} in "
                f"{', '.join(map(str, folders))}, and by its name in {self.directory}; name the folder that the list's "
                "paths are relative to, --config.data.list.images=FOLDER"
            )
        for path, name in zip(paths, names, strict=True):
            if path and (other := self._served.setdefault(os.path.normpath(path), name)) != name:
                raise DataError(
                    f"{table}: of the listed images {other} and {name} only {path} is there; add the other to "
                    f"{self.directory}, or name the folder that the list's paths are relative to, "
                    "--config.data.list.images=FOLDER"
                )
        return [path or folders[0] / name for path, name in zip(paths, names, strict=True)]

    def _in_folders(self, name: str, folders: Sequence[Path]) -> Path | None:
        # Most are in the first folder, and among those that are listed anyway, which is faster than to ask for each.
        there = (path for folder in folders if os.path.normpath(path := folder / name) in self._there)
        return next(there, None) or next((path for folder in folders if (path := folder / name).is_file()), None)

    def _add_by_name(
        self, paths: Sequence[Path | None], names: Sequence[str], folders: Sequence[Path], split: str, table: Path
    ) -> list[Path | None]:
        """The paths, with images that have none searched for by name; warns where only some are in listed folders."""
        added, elsewhere = list(paths), list[str]()
        listed = {at: Path(names[at]).parent for at, path in enumerate(paths) if path is None}
        there = {parent: self._existing(parent, folders) for parent in set(listed.values())}
        for at, parent in listed.items():
            added[at] = path = self._by_name(names[at], split, table, there[parent] if parent.parts else ())
            if path and _normal(path.parent) not in there[parent]:  # else only the case, or the suffix, is another
                elsewhere.append(f"listed {names[at]}, read {path}")
        if elsewhere and any(paths):
            self._warnings.append(
                f"{table}: {len(elsewhere)} of {len(names)} images are not where they are listed, as others are, but "
                f"elsewhere by that name, and may be other images than meant; the first: {elsewhere[0]}"
            )
        return added

    def _existing(self, parent: Path, folders: Sequence[Path]) -> list[Path]:
        """The folder of listed paths in each of `folders` that has it."""
        if parent.is_absolute() and not _normal(parent).is_relative_to(_normal(self.directory)):
            return []  # of another machine, though this one may have a folder of that name
        return [place for folder in folders if (place := _normal(folder / parent)).is_dir()]

    def _usual_folders(self, table: Path, split: str) -> list[Path]:
        bases = [base / name for base in (table.parent, self.directory) for name in _IMAGES]
        bases = [base for base in dict.fromkeys(bases) if base.is_dir()]
        below = [folder for base in bases for folder in records.subfolders(base)] if split else []
        return [*bases, *(folder for folder in below if split_of(folder.name) == split)]

    def number_unlisted(self, rows: Sequence[Row]) -> int:
        """Number of images where the listed ones are looked for that no row names."""
        listed = {os.path.normpath(row.image.path) for row in rows if isinstance(row.image, ImageFile | ImageCrop)}
        return sum(os.path.normpath(path) not in listed for path in self._all)

    @functools.cached_property
    def _all(self) -> list[Path]:
        folder = self._given or self.directory
        return [path for path in records.files_below(folder) if is_image(path.name)] if folder.is_dir() else []

    @functools.cached_property
    def _there(self) -> set[str]:
        return {os.path.normpath(path) for path in self._all}

    @functools.cached_property
    def _named(self) -> dict[str, list[Path]]:
        """Images by name and by name without suffix, in lower case: disks differ in how they tell cases apart."""
        named: dict[str, list[Path]] = {}
        for path in self._all:
            for key in (path.name, path.stem):
                named.setdefault(key.lower(), []).append(path)
        return named

    def _by_name(self, name: str, split: str, table: Path, folders: Sequence[Path]) -> Path | None:
        """The image of a name, None if it is not there; `folders`: those of the listed path that are there."""
        found = self._named.get(Path(name).name.lower(), [])
        same = [path for path in found if path.as_posix().lower().endswith(f"/{name.lower()}")]
        if folders:  # one in a folder that is not listed is another image
            found = [path for path in found if path in same or any(_normal(path).is_relative_to(at) for at in folders)]
        if wanted := split_of_path(Path(name)) or split:  # of another split it is another image
            found = [path for path in found if self._split_of(path) in ("", wanted)]
        if len(found) > 1:
            found = [path for path in found if path in same] or found
        if len(found) > 1:
            found = [path for path in found if self._split_of(path) == split] or found
        if len(found) > 1:
            raise DataError(
                f"{table} lists {name}, which may be {found[0]} or {found[1]}; name the folder that the list's paths "
                "are relative to, --config.data.list.images=FOLDER"
            )
        return found[0] if found else None

    def _split_of(self, path: Path) -> str:
        return split_of_path(path.relative_to(self.directory))


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _rows(table: Table, of_list: str, columns: ColumnsSection, images: _Images, warnings: list[str]) -> Iterator[Row]:
    place = str(table.path)
    image_at, label_at = tables.image_and_label(table, columns)
    split_at = tables.find_column("split", columns.split, table.columns, place)
    person_at = tables.find_column("person", columns.person, table.columns, place)
    boxes = _boxes(table, columns)
    extra = {name: tables.find_column("attributes", name, table.columns, place) for name in columns.attributes}
    names = [_name(row[image_at], table.place(line)) for line, row in table.rows]
    splits = [of_list] * len(names)
    if split_at >= 0:
        column = table.columns[split_at]
        if not columns.split and (unused := listing.says_no_split(column, (r[split_at] for _, r in table.rows), place)):
            warnings.append(unused)
        else:
            splits = [listing.row_split(row[split_at], of_list, column, table.place(line)) for line, row in table.rows]
    paths = images.paths(names, splits, table.path)
    if not any(splits):
        splits = _splits_of_folders(names, paths, images.directory, place)
    lines_of: dict[tuple[str, Path], list[int]] = {}
    for (line, row), split, name, path, box in zip(table.rows, splits, names, paths, boxes, strict=True):
        before = lines_of.setdefault((split, path), [])
        if before and not columns.box:
            raise DataError(f"{table.place(line)}: {name} was on line {before[0]} already ({path}); keep one of them")
        before.append(line)
        name = f"{name}#{len(before)}" if len(before) > 1 else name  # several faces of one image
        yield Row(
            name=name,
            image=ImageCrop(path, box, upright=True) if box else ImageFile(path),
            split=split,
            label=listing.label_text(row[label_at]),
            person=row[person_at].strip() if person_at >= 0 else "",
            attributes={key: row[at].strip() for key, at in extra.items()},
            dropped="no face box" if columns.box and not box else "",
        )


def _name(listed: str, place: str) -> str:
    name = records.listed_name(listed.strip()).removeprefix("./")
    if not name:
        raise DataError(f"{place}: the image's path is empty")
    return name


def _splits_of_folders(names: Sequence[str], paths: Sequence[Path], directory: Path, place: str) -> list[str]:
    """The split of each image from a folder in its listed or real path; "train" if none has one."""
    inside = [path.relative_to(directory) if path.is_relative_to(directory) else path for path in paths]
    splits = [split_of_path(Path(name)) or split_of_path(path) for name, path in zip(names, inside, strict=True)]
    if not any(splits):
        return ["train"] * len(splits)
    if not all(splits):
        raise DataError(
            f"{place}: {splits.count('')} of {len(splits)} images lie in no folder of a split, the first is "
            f"{names[splits.index('')]}; add a column with the split, or give a list for each (config.data.list.train)"
        )
    return splits


def _box(fields: Sequence[str], columns: ColumnsSection, place: str) -> tuple[float, float, float, float] | None:
    """Left, top, width, height; None if the fields are empty or no numbers (NaN), or the rectangle is empty."""
    words = _BETWEEN_NUMBERS.sub(" ", " ".join(fields)).split()
    if not words:
        return None
    try:
        left, top, width, height = map(float, words)
    except ValueError as error:  # another number of words, or one that is no number
        raise DataError(f"{place}: the face box is {fields}, expected four numbers ({columns.box_format})") from error
    if columns.box_format == "xyxy":
        width, height = width - left, height - top
    box = (left, top, width, height)
    return box if all(map(math.isfinite, box)) and width > 0 and height > 0 else None


def _boxes(table: Table, columns: ColumnsSection) -> list[tuple[float, float, float, float] | None]:
    """`_box` of each row, in pixels; all None if no column has boxes.

    Raises:
      DataError: a column is not found, a box is no four numbers, or all boxes are fractions of the image.
    """
    at = [tables.find_column("box", name, table.columns, str(table.path)) for name in columns.box]
    boxes = [_box([row[position] for position in at], columns, table.place(line)) for line, row in table.rows]
    found = [box for box in boxes if box]
    if found and all(0 <= number <= 1 for box in found for number in box):
        raise DataError(
            f"{table.path}: all numbers of the {len(found)} face boxes lie between 0 and 1, as fractions of the image; "
            f"expected pixels ({columns.box_format}): multiply them by the image's width and height"
        )
    return boxes
