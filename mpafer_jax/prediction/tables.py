"""Results as files that other programs read: CSV, JSON lines, Parquet."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from mpafer_jax import files
from mpafer_jax.prediction.results import Prediction, Result

SUFFIXES = (".csv", ".jsonl", ".parquet")
Write = Callable[[Result], None]
_ROW_GROUP = 1000  # rows in memory before they are written to a Parquet file
# Beside one column of probabilities for each class. Names are those of `to_dict` where there is one.
_COLUMNS: dict[str, type] = {
    "file": str,
    "index": int,
    "frame": int,
    "seconds": float,
    "status": str,
    "reason": str,
    "face_left": int,
    "face_top": int,
    "face_width": int,
    "face_height": int,
    "face_tilt": float,
    "expression": str,
    "confidence": float,
}


def check_suffix(path: Path) -> None:
    """Refuses a name that says no format.

    Raises:
      ValueError: names those that are written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; results are written to {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def open_table(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    """Opens a file for results, one at a time; it appears under its name when the block ends well.

    A CSV or Parquet row has the columns file, index, frame, seconds, status ('ok', 'no_face' or 'error'), reason, the
    face's box, expression, confidence, and p_<class> for every class; what does not apply is empty. A line of JSON is
    `to_dict`, with logits and patches besides.

    Args:
      path: ends in .csv, .jsonl or .parquet.
      class_names: C names.

    Raises:
      ValueError: another suffix.
    """
    check_suffix(path)
    kind = path.suffix.lower()
    opened = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[kind]
    with files.replacing(path) as temporary, opened(temporary, class_names) as write:
        yield write


@contextlib.contextmanager
def _jsonl(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    del class_names  # every line names them itself
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        yield lambda result: print(json.dumps(result.to_dict(), allow_nan=False), file=file)


@contextlib.contextmanager
def _csv(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    # Names of files need not be UTF-8: such bytes come back as they were.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *(f"p_{name}" for name in class_names)])
        writer.writeheader()
        yield lambda result: writer.writerow(_row(result))


@contextlib.contextmanager
def _parquet(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {**_COLUMNS, **{f"p_{name}": float for name in class_names}}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    rows: list[dict[str, Any]] = []

    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(result: Result) -> None:
            row = _row(result)
            rows.append({**row, "file": row["file"].encode("utf-8", "replace").decode()})  # Parquet's texts are UTF-8
            if len(rows) == _ROW_GROUP:
                flush()

        yield write
        flush()


def _row(result: Result) -> dict[str, Any]:
    values = result.to_dict()
    row = {name: values[name] for name in _COLUMNS if name in values}
    if isinstance(result, Prediction):
        if result.face is not None:
            row |= {f"face_{name}": value for name, value in result.face.to_dict().items()}
        row |= {f"p_{name}": value for name, value in values["probabilities"].items()}
    return row
