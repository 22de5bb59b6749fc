"""Parquet files as the Hub has them: a column of encoded images, one of labels, and the classes in the schema."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mpafer_jax.config.data_section import ColumnsSection
from mpafer_jax.data import listing, records, tables
from mpafer_jax.data.listing import Row
from mpafer_jax.data.names import split_in, split_of
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime.errors import DataError

_LAYOUT = """\
  data/train-00000-of-00001.parquet ...   also without data/, and so validation and test; or train.parquet ...
with a column of images, struct{bytes, path}, and one of labels"""
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?")
_GROUPS = 4  # row groups in memory; images are read in their order


@dataclasses.dataclass(frozen=True, slots=True)
class ParquetImage:
    """An encoded image: row `row` of a row group of a Parquet file. `size`: bytes of the file."""

    path: Path
    column: str
    group: int
    row: int
    size: int

    @property
    def place(self) -> str:
        """The file, row group and row."""
        return f"{self.path} row {self.row} of row group {self.group}"

    def read(self) -> bytes:
        """The image's bytes; ValueError if the row has none."""
        with _READING:
            images = _row_group(self.path, self.column, self.group, self.size)
        value: Any = images[self.row].as_py()
        data: Any = cast("dict[str, Any]", value).get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError("the row holds no bytes of an image (perhaps the path of a file elsewhere)")
        return data

    def stamp(self) -> str:
        """The file's size and the row, known without reading images."""
        return f"{self.size} {self.group} {self.row}"


_READING = threading.Lock()  # threads want the same row group at once


@functools.lru_cache(_GROUPS)
def _row_group(path: Path, column: str, group: int, size: int) -> Any:
    del size  # part of the key: another file may have taken the place
    try:
        with _open(path) as file:
            return file.read_row_group(group, columns=[column]).column(column)
    except Exception as error:  # pyarrow's errors have no common base
        raise ValueError(f"the Parquet file cannot be read ({error})") from error


def _open(path: Path) -> Any:
    return importlib.import_module("pyarrow.parquet").ParquetFile(path)


@reader(
    "parquet",
    "Parquet files in the Hub's layout.",
    layout=_LAYOUT,
    source="the Hub (config.data.dir=hf://datasets/OWNER/NAME, or hf download OWNER/NAME --repo-type=dataset)",
    fields=("dir", "class_names", "columns"),
    unread=("columns.box", "columns.box_format"),
)
def read(
    directory: Path,
    chosen: Sequence[str] = (),
    columns: ColumnsSection = ColumnsSection(),  # noqa: B008  # frozen
) -> SourceIndex:
    """Reads the labels of Parquet files, in the order of files and rows, without images.

    Classes and their order are those of the schema (`info.features.<label>.names` of its metadata "huggingface"), or
    the distinct texts of the column. Images are named by their path if all of a split have different ones, else by row.

    Args:
      directory: holds the files, at any depth.
      chosen: config.data.class_names, which has to name labels that are numbers without names in the schema.

    Raises:
      DataError: no file, a shard is missing or there twice, or a file cannot be read; several configurations of a
        dataset; a column is not found, or of a type that is no label; files that name their classes differently; or see
        `listing.to_index`.
    """
    files_of = _files_by_split(directory)
    tables_of = {split: [_read(path, columns) for path in paths] for split, paths in files_of.items()}
    every = [table for listed in tables_of.values() for table in listed]
    first = every[0]
    if other := next((table for table in every if table.classes != first.classes), None):
        raise DataError(
            f"{first.path} and {other.path} name their classes differently: {', '.join(first.classes) or 'not'}, and "
            f"{', '.join(other.classes) or 'not'}; give a folder of files that agree"
        )
    place = f"the Parquet files in {directory}"
    column = next((table.split for table in every if table.split), "")
    values = [value for table in every for value in table.values.get("split", ())]
    unused = "" if columns.split else listing.says_no_split(column, values, place)
    rows = [row for split, listed in tables_of.items() for row in _rows(listed, split, has_splits=not unused)]
    if not first.classes:
        place += f" (without info.features.{first.label}.names in their schema's metadata 'huggingface')"
    numbers = [str(number) for number in range(len(first.classes))]
    index = listing.to_index(rows, chosen, place, numbers, first.classes)
    return dataclasses.replace(index, warnings=(*index.warnings, *filter(None, [unused])))


def _files_by_split(directory: Path) -> dict[str, list[Path]]:
    """Files by split, shards in their order; the split is '' for the files of a folder that name none."""
    by_word: dict[str, list[Path]] = {}
    for path in sorted(records.files_below(directory)):
        if path.suffix.lower() == ".parquet":
            by_word.setdefault(_word(path.relative_to(directory)), []).append(path)
    if not by_word:
        raise records.missing(directory / "data" / "train-00000-of-00001.parquet")
    splits: dict[str, list[Path]] = {}
    for word, paths in by_word.items():
        split = split_of(word) or split_in(word) or ("" if len(by_word) == 1 else word)
        if not split and len(by_word) > 1:
            raise DataError(f"{paths[0]} names no split, and other files do; call it train.parquet, or as its split is")
        folders = sorted({str(path.parent) for path in [*paths, *splits.get(split, [])]})
        if split in splits or len(folders) > 1:
            raise DataError(
                f"{directory} holds several sets of files for one split, in {', '.join(folders)}; set config.data.dir "
                "to a folder with one"
            )
        _check_shards(paths)
        splits[split] = paths
    return splits


def _word(path: Path) -> str:
    """What a file calls its split, '' for nothing: train-00000-of-00001, train.parquet, train_0, train/0000.parquet."""
    if shard := _SHARD.fullmatch(path.stem):
        return shard["split"]
    return next((word for word in (path.stem, path.parent.name) if split_of(word) or split_in(word)), "")


def _check_shards(paths: Sequence[Path]) -> None:
    shards = [shard for path in paths if (shard := _SHARD.fullmatch(path.stem))]
    first: dict[str, str] = {}
    for shard in shards:
        if other := first.get(shard["number"]):
            raise DataError(
                f"{paths[0].parent}: {other}.parquet and {shard[0]}.parquet are both number {shard['number']} of "
                f"{shard['split']}, as after two uploads; keep the files of one"
            )
        first[shard["number"]] = shard[0]
    for shard in shards:
        wanted = {f"{number:05d}" for number in range(int(shard["count"]))}
        if absent := sorted(wanted - {other["number"] for other in shards}):
            raise DataError(
                f"{paths[0].parent}: of the {len(wanted)} files {shard['split']}-*-of-{shard['count']}.parquet "
                f"{', '.join(absent)} are not there; download them too"
            )


@dataclasses.dataclass(frozen=True)
class _Table:
    """A file without its images.

    Attributes:
      image, label, split: names of columns; split is '' for none.
      classes: names in the schema, () for none.
      groups: rows of each row group.
      values: texts of the columns path, label, split and person, where it has them, and of attributes by name.
    """

    path: Path
    image: str
    label: str
    split: str
    classes: tuple[str, ...]
    groups: tuple[int, ...]
    values: Mapping[str, Sequence[str]]
    attributes: Mapping[str, Sequence[str]]


def _read(path: Path, columns: ColumnsSection) -> _Table:
    try:
        with _open(path) as file:
            return _read_open(file, path, columns)
    except DataError:
        raise
    except Exception as error:  # pyarrow's errors have no common base
        raise DataError(f"{path} cannot be read as Parquet ({error})") from error


def _read_open(file: Any, path: Path, columns: ColumnsSection) -> _Table:
    schema = file.schema_arrow
    names: list[str] = list(schema.names)
    features = _features(schema, path)
    typed = [name for name in names if str(schema.field(name).type).startswith("struct<bytes:")]
    image = _required("image", columns.image, names, typed, path)
    class_labels = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
    label = _required("label", columns.label, names, class_labels, path)
    places = {role: tables.find_column(role, getattr(columns, role), names, str(path)) for role in ("split", "person")}
    wanted = {"label": label, **{role: names[place] for role, place in places.items() if place >= 0}}
    for name in columns.attributes:
        tables.find_column("attributes", name, names, str(path))
    paths = [f"{image}.path"] if "path:" in str(schema.field(image).type) else []
    read = file.read(columns=[*dict.fromkeys([*wanted.values(), *columns.attributes]), *paths])

    def texts(name: str) -> list[str]:
        return ["" if value is None else str(value) for value in read.column(name).to_pylist()]

    values = {role: texts(name) for role, name in wanted.items()}
    if paths:
        structs: list[dict[str, str | None] | None] = read.column(image).to_pylist()
        values["path"] = [(struct["path"] or "") if struct else "" for struct in structs]
    _check_labels(read.column(label), label, path)
    classes = _class_names(features.get(label, {}), path)
    values["label"] = [_label(value, classes, path) for value in values["label"]]
    groups = tuple(int(file.metadata.row_group(group).num_rows) for group in range(file.num_row_groups))
    attributes = {name: texts(name) for name in columns.attributes}
    return _Table(path, image, label, wanted.get("split", ""), classes, groups, values, attributes)


def _check_labels(column: Any, name: str, path: Path) -> None:
    """Raises DataError for a column of lists, structs, bytes or fractions, which are no classes."""
    types: Any = importlib.import_module("pyarrow.types")
    found = str(column.type)
    if types.is_floating(column.type):
        fraction = next((f for f in column.to_pylist() if f is not None and not math.isnan(f) and f % 1), None)
        if fraction is None:
            return
        found = f"the fraction {fraction}"
    elif not (types.is_nested(column.type) or types.is_binary(column.type) or types.is_large_binary(column.type)):
        return
    raise DataError(
        f"{path}: the column of labels, {name!r}, holds {found}, expected one whole number or text for each image; "
        "name another column, --config.data.columns.label=..."
    )


def _required(role: str, given: str, names: Sequence[str], typed: Sequence[str], path: Path) -> str:
    """The column of images or labels: the given one, else the only one of that type, else one with a usual name."""
    if not given and len(typed) == 1:
        return typed[0]
    place = tables.find_column(role, given, names, str(path))
    if place < 0:
        raise DataError(
            f"{path}: none of its columns is called as the {role} usually is; it has {tables.listed(names)}. Name it, "
            f"--config.data.columns.{role}=..."
        )
    return names[place]


def _features(schema: Any, path: Path) -> dict[str, dict[str, Any]]:
    """The Hub's description of the columns, {} without one."""
    metadata: dict[bytes, bytes] = schema.metadata or {}
    text = metadata.get(b"huggingface")
    if text is None:
        return {}
    try:
        return cast("dict[str, dict[str, Any]]", json.loads(text)["info"]["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the schema's metadata 'huggingface' is not as the Hub's ({error!r})") from error


def _class_names(feature: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names: object = feature.get("names") or ()
    if isinstance(names, Mapping):  # {"0": "anger", ...} in older files
        numbered = cast("Mapping[str, str]", names)
        names = [numbered.get(str(number)) for number in range(len(numbered))]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise DataError(f"{path}: the names of the classes in the schema are {names!r}, expected a list of texts")
    return tuple(cast("list[str]", names))


def _label(text: str, classes: Sequence[str], path: Path) -> str:
    """A label, '' for none."""
    label = listing.label_text(text)
    if label and classes and not (label.isdecimal() and int(label) < len(classes)):
        raise DataError(f"{path}: found the label {text!r}, expected 0 to {len(classes) - 1} ({', '.join(classes)})")
    return label


def _rows(shards: Sequence[_Table], split: str, *, has_splits: bool) -> Iterator[Row]:
    """The images of files of a split, '' if they name none.

    Args:
      has_splits: whether a column of splits, where a file has one, is read.
    """
    names = [records.listed_name(name) for table in shards for name in table.values.get("path", [""])]
    count = sum(sum(table.groups) for table in shards)
    are_names = len(set(names)) == count and "" not in names
    number = 0
    for table in shards:
        size = table.path.stat().st_size
        places = ((group, row) for group, rows in enumerate(table.groups) for row in range(rows))
        for at, (group, row) in enumerate(places):
            value = {role: texts[at] for role, texts in table.values.items()}
            yield Row(
                name=names[number] if are_names else f"row {number}",
                image=ParquetImage(table.path, table.image, group, row, size),
                split=listing.row_split(value["split"], split, table.split, str(table.path))
                if has_splits and table.split
                else split or "train",
                label=value["label"],
                person=value.get("person", ""),
                attributes={name: texts[at] for name, texts in table.attributes.items()},
            )
            number += 1
