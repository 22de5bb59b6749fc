"""Label files of any form: csv with any delimiter, text with columns separated by spaces, JSON lines."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mpafer_jax.config.data_section import ColumnsSection
from mpafer_jax.data import records
from mpafer_jax.data.preprocess import is_image
from mpafer_jax.runtime.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".jsonl")
_DELIMITERS = ",\t;|"
_SAMPLE = 20  # lines that determine the delimiter
# Usual names of columns, as letters and digits in lower case.
_USUAL = {
    "image": (
        *("filename", "file", "path", "pth", "filepath", "image", "img", "imagepath", "imgpath", "imagename"),
        *("imgname", "imagefile", "subdirectoryfilepath"),
    ),
    "label": (
        *("label", "labels", "expression", "emotion", "class", "classname", "category", "target", "expressionlabel"),
        *("emotionlabel", "classlabel", "facialexpression"),
    ),
    "split": ("split", "usage", "subset", "set", "partition", "phase"),
    "person": ("person", "personid", "subject", "subjectid", "identity"),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text; columns have the names of the header, or "1", "2", ... without one."""

    path: Path
    columns: tuple[str, ...]
    has_header: bool
    rows: tuple[tuple[int, Sequence[str]], ...]  # line number, fields

    def place(self, line: int) -> str:
        """The file and line, for errors."""
        return f"{self.path} line {line}"


def read_table(path: Path, columns: ColumnsSection | None = None, delimiter: str = "") -> Table:
    """Reads a label file.

    A first line with a usual or configured column name is the header. Columns are separated by `delimiter`, else by
    comma, tab, semicolon or bar, whichever divides all lines equally, else by white space; the first of such columns
    may hold spaces.

    Raises:
      DataError: it cannot be read, is empty, or a line has another number of columns.
    """
    if path.suffix.lower() == ".jsonl":
        return _read_json_lines(path)
    lines = list(records.numbered_lines(path))
    if not lines:
        raise DataError(f"{path} is empty, expected a line for each image")
    delimiter = delimiter or _delimiter([line for _, line in lines[:_SAMPLE]], path)
    if delimiter:
        rows = [(line, [field.strip() for field in row]) for line, row in records.read_csv(path, delimiter)]
    else:
        width = min(len(line.split()) for _, line in lines)
        rows = [(number, line.strip().rsplit(maxsplit=width - 1)) for number, line in lines]
    first = rows[0][1]
    has_header = bool(_header_names(columns) & {_letters(name) for name in first})
    names = tuple(first) if has_header else tuple(str(number + 1) for number in range(len(first)))
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path} line {line}: found {len(row)} columns, {row}, expected {len(names)} as in line 1")
    if has_header and len(rows) == 1:
        raise DataError(f"{path} has a header, {listed(names)}, and no other line; expected a line for each image")
    return Table(path, names, has_header, tuple(rows[1:] if has_header else rows))


def _delimiter(sample: Sequence[str], path: Path) -> str:
    widths = {delimiter: [len(row) for row in csv.reader(sample, delimiter=delimiter)] for delimiter in _DELIMITERS}
    dividing = [delimiter for delimiter, found in widths.items() if found[0] > 1]
    equal = [delimiter for delimiter in dividing if len(set(widths[delimiter])) == 1]
    # A csv whose lines differ is damaged, and reported so; a txt may have commas in names.
    fitting = equal or (dividing if path.suffix.lower() in (".csv", ".tsv") else [])
    return max(fitting, key=lambda delimiter: widths[delimiter][0], default="")


def _read_json_lines(path: Path) -> Table:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in records.numbered_lines(path):
        try:
            row: object = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number}: found a {type(row).__name__}, expected a JSON object")
        rows.append((number, cast("dict[str, Any]", row)))
    if not rows:
        raise DataError(f"{path} is empty, expected a JSON object a line")
    names = tuple(dict.fromkeys(name for _, row in rows for name in row))
    return Table(path, names, True, tuple((line, [_text(row.get(name)) for name in names]) for line, row in rows))


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, cast("list[object]", value)))
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _header_names(columns: ColumnsSection | None) -> set[str]:
    usual = {name for names in _USUAL.values() for name in names}
    given = columns and (columns.image, columns.label, columns.split, columns.person, *columns.box, *columns.attributes)
    return usual | {_letters(name) for name in given or () if not name.isdecimal()} - {""}


def find_column(role: str, given: str, names: Sequence[str], place: str) -> int:
    """Position of a column of `names`.

    Args:
      role: image, label, split or person, whose usual names are tried; or another one, which has to be given.
      given: config.data.columns.<role>; '' for a usual name.
      place: the file, for errors.

    Returns:
      -1 if no column has a usual name.

    Raises:
      DataError: the given column is missing, or several have usual names.
    """
    if given:
        if given not in names:
            raise DataError(
                f"{place} has no column {given!r} (config.data.columns.{role}){did_you_mean(given, names)}; "
                f"its columns are {listed(names)}"
            )
        return names.index(given)
    fitting = [position for position, name in enumerate(names) if _letters(name) in _USUAL[role]]
    if len(fitting) > 1:
        several = ", ".join(repr(names[position]) for position in fitting)
        raise DataError(f"{place}: {several} may each be the {role}; choose one, --config.data.columns.{role}=...")
    return fitting[0] if fitting else -1


def listed(names: Collection[str]) -> str:
    """Names of columns for a message."""
    return ", ".join(map(repr, names))


def image_and_label(table: Table, columns: ColumnsSection) -> tuple[int, int]:
    """Positions of the columns of image and label.

    Raises:
      DataError: one is not found; the columns are listed. Or a field in them has several lines.
    """
    place = str(table.path)
    image = find_column("image", columns.image, table.columns, place)
    label = find_column("label", columns.label, table.columns, place)
    if len(table.columns) == 2 and min(image, label) < 0:
        # Lines `path label` or `label path`, or a header with one unusual name.
        if image < 0:
            image = next((at for at, field in enumerate(table.rows[0][1]) if at != label and is_image(field)), -1)
        label = 1 - image if label < 0 and image >= 0 else label
    for role, position in (("image", image), ("label", label)):
        if position < 0:
            example = "" if table.has_header else f" (without a header; line 1 is {table.rows[0][1]})"
            raise DataError(
                f"{place}: none of its columns is called as the {role} usually is; it has {listed(table.columns)}"
                f"{example}. Name it, --config.data.columns.{role}=..."
            )
    for line, row in table.rows:
        if "\n" in row[image] or "\n" in row[label]:
            raise DataError(f"{table.place(line)}: a name or label of several lines; a quotation mark may be left open")
    return image, label


def find(folders: Iterable[Path], columns: ColumnsSection, delimiter: str = "") -> tuple[list[Table], dict[Path, str]]:
    """Label files in folders, not below them: those with columns of image and label, whose images look like images.

    Returns:
      The tables, sorted by folder and name, and why other files that may be meant are none: csv, JSON lines, and text
      that names an image.
    """
    found: list[Table] = []
    refused: dict[Path, str] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            try:
                table = read_table(path, columns, delimiter)
                image, _ = image_and_label(table, columns)
            except DataError as error:
                if path.suffix.lower() not in (".txt", ".lst") or _names_an_image(path):
                    refused[path] = str(error)
                continue
            if table.has_header or all(is_image(row[image]) for _, row in table.rows[:_SAMPLE]):
                found.append(table)
    return found, refused


def holds_names_alone(path: Path) -> bool:
    """Whether a label file has one column, of names of images, as lists for `config.data.test_subset` have."""
    try:
        table = read_table(path)
    except DataError:
        return False
    return len(table.columns) == 1 and all(is_image(name) for _, (name,) in table.rows)


def _names_an_image(path: Path) -> bool:
    try:
        sample = itertools.islice(records.numbered_lines(path), _SAMPLE)
        return any(is_image(word) for _, line in sample for word in line.split())
    except DataError:
        return False
