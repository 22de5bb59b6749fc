"""Results as files that other programs read: CSV, JSON lines, Parquet."""

from __future__ import annotations

import collections
import contextlib
import csv
import importlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpafer_jax.inference.results import Result
from mpafer_jax.inference.unfinished import Unfinished
from mpafer_jax.runtime import files, preemption

SUFFIXES = (".csv", ".jsonl", ".parquet")
Values = dict[str, Any]  # a result's `to_dict`
Write = Callable[[Values], None]
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
    """Refuses a name that says no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; results are written to {', '.join(SUFFIXES)}")


class Table:
    """A table on its way: call it with results, and say if it was stopped.

    Attributes:
      kept: how many results an earlier start of the command has left, by status ('ok', 'no_face', 'error').
    """

    def __init__(self, unfinished: Unfinished) -> None:
        """Writes to what `open_table` has opened."""
        self._unfinished = unfinished
        self.kept = collections.Counter(unfinished.statuses)
        self.left = unfinished.left
        self.stopped = False

    def __call__(self, result: Result) -> None:
        """Adds a result."""
        self._unfinished.write(result)

    def stop(self) -> None:
        """No more results come now, though some are missing: another start of the command goes on with them."""
        self.stopped = True


@contextlib.contextmanager
def open_table(
    path: Path, class_names: Sequence[str], subject: Mapping[str, Any] | None = None, *, overwrite: bool = False
) -> Generator[Table]:
    """Opens a file for results, one at a time; it appears under its name when the block ends well.

    Until then, and also where it was stopped, what was done lies in FILE.unfinished (`Unfinished`), and the same
    command goes on behind it.

    A CSV or Parquet row has the columns file, index, frame, seconds, status ('ok', 'no_face' or 'error'), reason, the
    face's box, expression, confidence, and p_<class> for every class; what does not apply is empty. A line of JSON is
    `to_dict`, with logits and patches besides.

    Args:
      path: ends in .csv, .jsonl or .parquet.
      class_names: C names.
      subject: what the results depend on, ready for JSON.
      overwrite: whether to begin anew, whatever lies there.

    Raises:
      OSError: nothing can be written there.
      InputError: another command's results are there, or another process writes them.
      ValueError: another suffix.
    """
    check_suffix(path)
    opened = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix.lower()]
    with Unfinished(path, dict(subject or {}), overwrite=overwrite) as unfinished:
        with preemption.tidying(unfinished.discard_if_empty):
            table = Table(unfinished)
            try:
                yield table
            except Exception as error:
                error.add_note(f"what was done until then is in {unfinished.path}; the same command goes on with it")
                raise
        with files.replacing(path) as temporary, opened(temporary, class_names) as write:
            for row in unfinished.rows():
                write(row)
        if not table.stopped:
            unfinished.finish()


@contextlib.contextmanager
def _jsonl(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    del class_names  # every line names them itself
    with path.open("w", encoding="utf-8") as file:
        yield lambda values: print(json.dumps(values, allow_nan=False), file=file)


@contextlib.contextmanager
def _csv(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *(f"p_{name}" for name in class_names)])
        writer.writeheader()
        yield lambda values: writer.writerow(_row(values))


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

        def write(values: Values) -> None:
            rows.append(_row(values))
            if len(rows) == _ROW_GROUP:
                flush()

        yield write
        flush()


def _row(values: Values) -> dict[str, Any]:
    row = {name: values[name] for name in _COLUMNS if name in values}
    face: Values = values.get("face") or {}
    row |= {f"face_{name}": value for name, value in face.items()}
    probabilities: Values = values.get("probabilities", {})
    return row | {f"p_{name}": value for name, value in probabilities.items()}
