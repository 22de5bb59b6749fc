"""Results as files that other programs read: CSV, JSON lines, Parquet.

Results are on the disk as they come, so that neither a stop, nor a kill, nor a full disk loses any:

    FILE.unfinished   a line of JSON that says of which command the results are; then each as a line, `to_dict`

It becomes the table when the command ends; started again, the same command continues after the last result.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import fcntl
import importlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import Failure, Result
from mpafer_jax.runtime import files, signals
from mpafer_jax.runtime.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")
Values = dict[str, Any]  # a result's `to_dict`
Write = Callable[[Values], None]
_FLUSH_SECONDS = 0.5
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


class Table:
    """The results of one command so far: call it with a result to add it.

    Attributes:
      path: of FILE.unfinished.
      earlier: how many results an earlier start of the command wrote, by status ('ok', 'no_face', 'error').
    """

    def __init__(self, table: Path, subject: Values, *, overwrite: bool) -> None:
        """Opens the file of an earlier start, or begins one; arguments and errors as for `open_table`."""
        table.parent.mkdir(parents=True, exist_ok=True)
        self.path = table.with_name(f"{table.name}.unfinished")
        self._file: BinaryIO = self.path.open("a+b")
        try:
            self._lock(table)
            done = [] if overwrite else self._read(table, json.loads(json.dumps(subject)))
            # Of the last image results may be missing: it is done again. Earlier results stay.
            last = done[-1][0]["index"] if done else 0
            self._file.truncate(next((offset for row, offset in done if row["index"] == last), 0))
            before = [row for row, _ in done if row["index"] < last]
            if not done:
                self._write({"subject": subject})
            self._file.flush()
        except BaseException:
            self._file.close()
            raise
        self._before = {row["index"]: (row["file"], row["frame"]) for row in before}
        self.earlier = collections.Counter(str(row["status"]) for row in before)
        self._rows, self._flushed = len(before), time.monotonic()
        self._stopped = False

    def _lock(self, table: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {table} ({self.path}); wait until it ends, or name another file"
            ) from error
        except OSError:  # a disk without locks
            pass

    def _read(self, table: Path, subject: Values) -> list[tuple[Values, int]]:
        """The results, each with the place in the file where it begins."""
        self._file.seek(0)
        rows: list[tuple[Values, int]] = []
        offset = 0
        for line in self._file:
            if line.endswith(b"\n"):  # all but the one that was being written
                rows.append((json.loads(line), offset))
            offset += len(line)
        stored: Values = rows[0][0].get("subject", {}) if rows else {}
        differing = [name for name in subject if stored.get(name) != subject[name]]
        if differing and len(rows) > 1:
            listed = "; ".join(f"{name} there {stored.get(name)!r}, here {subject[name]!r}" for name in differing)
            raise InputError(
                f"{self.path} holds {len(rows) - 1} results of another command: {listed[:600]}. Give that command "
                f"again to resume it, another file instead of {table}, or --overwrite to lose them"
            )
        return rows[1:]

    def remaining(self, images: Iterable[InputImage | Failure]) -> Generator[InputImage | Failure]:
        """Those images that have no result yet; InputError if the inputs are not those of before."""
        for image in images:
            source = image.source
            before = self._before.get(source.index)
            if before is None:
                yield image
            elif before != (source.to_dict()["file"], source.frame):
                raise InputError(
                    f"{self.path} has a result of {before[0]} as number {source.index}, which is {source} now: the "
                    "inputs have changed since; --overwrite starts again"
                )

    def __call__(self, result: Result) -> None:
        """Adds a result."""
        self._write(result.to_dict())
        self._rows += 1
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def _write(self, row: Values) -> None:
        self._file.write(json.dumps(row, allow_nan=False).encode("ascii") + b"\n")

    def stop(self) -> None:
        """No more results come in this start of the command, though some are missing: the file stays."""
        self._stopped = True

    def rows(self) -> Iterator[Values]:
        """All results, from the first on."""
        self._file.flush()
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self) -> None:
        """Deletes the file, whose results are in the table, unless the command was stopped."""
        if not self._stopped:
            self.path.unlink()

    def discard_if_empty(self) -> None:
        """Deletes the file if it holds no result."""
        if not self._rows:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; one without results is deleted."""
        try:
            self._file.close()
        finally:
            self.discard_if_empty()


def check_suffix(path: Path) -> None:
    """Refuses a name that says no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; results are written to {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def open_table(
    path: Path, class_names: Sequence[str], subject: Mapping[str, Any] | None = None, *, overwrite: bool = False
) -> Generator[Table]:
    """Opens a file for results, one at a time; it appears under its name when the block ends well.

    A CSV or Parquet row has the columns file, index, frame, seconds, status ('ok', 'no_face' or 'error'), reason, the
    face's box, expression, confidence, and p_<class> for every class; what does not apply is empty. A line of JSON is
    `to_dict`, with logits and patches besides.

    Args:
      path: ends in .csv, .jsonl or .parquet.
      class_names: C names.
      subject: what the results depend on, ready for JSON.
      overwrite: whether to begin again, whatever an earlier command left.

    Raises:
      OSError: nothing can be written there.
      InputError: another command's results are there, or another process writes them.
      ValueError: another suffix.
    """
    check_suffix(path)
    opened = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix.lower()]
    table = Table(path, dict(subject or {}), overwrite=overwrite)
    try:
        with signals.tidying(table.discard_if_empty):
            yield table
        with files.replacing(path) as temporary, opened(temporary, class_names) as write:
            for row in table.rows():
                write(row)
        table.finish()
    except BaseException as error:
        if isinstance(error, Exception):
            error.add_note(f"what was done until then is in {table.path}; the same command resumes with it")
        with contextlib.suppress(OSError):  # of a full disk, which `error` reports
            table.close()
        raise
    table.close()


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
