"""The csv format of FER2013, with pixels as decimal numbers, used by other datasets too."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from mpafer_jax.data.records import PixelRow
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import DataError

SIDE = 48
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}  # the column Usage
_COLUMNS = ("emotion", "pixels", "Usage")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One face: line number, split, number in the column emotion, and image."""

    line: int
    split: str
    emotion: int
    image: PixelRow


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a csv with the columns emotion, pixels and Usage, in any order; DataError if it is malformed.

    Pixels are located, not parsed, which would create 80 million Python objects.
    """
    with path.open("rb") as file:
        header = file.readline()
        start = files.mark_length(header, path)
        columns = [name.strip() for name in header[start:].decode("ascii", "replace").split(",")]
        if sorted(columns) != sorted(_COLUMNS):
            raise DataError(f"{path}: the first line is {header[:80]!r}, expected {','.join(_COLUMNS)}")
        places = [columns.index(name) for name in _COLUMNS]
        position = len(header)
        for number, line in enumerate(file, start=2):
            if line.strip():
                yield _row(path, number, position, line, places)
            position += len(line)


def _row(path: Path, number: int, position: int, line: bytes, places: list[int]) -> Row:
    fields = line.split(b",")
    if len(fields) != len(_COLUMNS):
        raise DataError(f"{path} line {number}: found {len(fields)} columns, expected {', '.join(_COLUMNS)}")
    emotion, pixels, usage = (fields[place] for place in places)
    used = usage.strip().decode("ascii", "replace")
    if used not in SPLITS:
        raise DataError(f"{path} line {number}: the usage is {used!r}, expected one of {', '.join(SPLITS)}")
    if not emotion.strip().isdigit():
        raise DataError(f"{path} line {number}: the emotion is {emotion!r}, expected a number")
    numbers = pixels.strip(b' "\r\n')
    start = position + sum(len(field) + 1 for field in fields[: places[1]]) + pixels.index(numbers)
    image = PixelRow(
        path=path,
        line=number,
        start=start,
        stop=start + len(numbers),
        side=SIDE,
        digest=hashlib.blake2b(pixels, digest_size=8).hexdigest(),
    )
    return Row(number, SPLITS[used], int(emotion), image)
