"""Results as CSV, JSON lines or Parquet.

Results are appended to FILE.unfinished as they come, so that a stop, a kill or a full disk loses none: its first line
is JSON that identifies the command, each other line a result's `to_dict`. It becomes the table when the command ends;
the same command resumes it.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import fcntl
import importlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import Failure, Result
from mpafer_jax.runtime import files, signals
from mpafer_jax.runtime.errors import InputError

UNLIKE = "unlike"  # in counts, beside the statuses
SUFFIXES = (".csv", ".jsonl", ".parquet")
Values = dict[str, Any]  # a result's `to_dict`
Write = Callable[[Values], None]
_FLUSH_SECONDS = 0.5
_ROW_GROUP = 1000  # rows of a Parquet row group
# Followed by a column of probabilities for each class.
_COLUMNS: dict[str, type] = {
    "file": str,
    "index": int,
    "frame": int,
    "seconds": float,
    "status": str,
    "reason": str,
    "track": int,
    "face_left": int,
    "face_top": int,
    "face_width": int,
    "face_height": int,
    "face_tilt": float,
    "face_score": float,
    "expression": str,
    "confidence": float,
    "smooth_expression": str,
    "smooth_confidence": float,
    "temperature": float,
    "unlike": float,
}


def tally(row: Values) -> list[str]:
    """What a result's `to_dict` counts as: its status, and UNLIKE if its image is unlike the training images."""
    return [str(row["status"]), *([UNLIKE] if (row.get("unlike") or 0) > 1 else [])]


class Table:
    """The results of one command so far: call it with a result to add it.

    Attributes:
      path: FILE.unfinished.
      earlier: number of results of earlier starts of the command, as `tally` names them.
    """

    def __init__(self, table: Path, subject: Values, *, overwrite: bool) -> None:
        """Opens the file of an earlier start, or begins one; arguments and errors as for `open_table`."""
        table.parent.mkdir(parents=True, exist_ok=True)
        self.path = table.with_name(f"{table.name}.unfinished")
        self._file: BinaryIO = self.path.open("a+b")
        try:
            self._lock(table)
            done = [] if overwrite else self._read(table, json.loads(json.dumps(subject)))
            # The last image may lack results (several faces): it is repeated.
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
        self.earlier = collections.Counter(itertools.chain.from_iterable(tally(row) for row in before))
        self._rows, self._flushed = len(before), time.monotonic()
        self._stopped = False

    def _lock(self, table: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {table} ({self.path}); wait until it ends, or name another file"
            ) from error
        except OSError:  # a file system without locks
            pass

    def _read(self, table: Path, subject: Values) -> list[tuple[Values, int]]:
        """The results, each with its offset in the file."""
        self._file.seek(0)
        rows: list[tuple[Values, int]] = []
        offset = 0
        for line in self._file:
            if line.endswith(b"\n"):  # else it was being written when the process ended
                rows.append((self._row(line, len(rows) + 1), offset))
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

    def _row(self, line: bytes, number: int) -> Values:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"{self.path}, line {number}: expected a result in JSON, found {line[:40]!r}: the file is damaged, or "
                "no earlier start of this command wrote it; --overwrite begins it anew, another name leaves it"
            )
        return cast(Values, row)

    def remaining(self, images: Iterable[InputImage | Failure]) -> Generator[InputImage | Failure]:
        """Yields the images without a result.

        Raises:
          InputError: the inputs have changed since the earlier start.
        """
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
        """Marks the results as incomplete: `finish` keeps the file."""
        self._stopped = True

    def rows(self) -> Iterator[Values]:
        """All results, from the first."""
        self._file.flush()
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self) -> None:
        """Deletes the file, unless `stop` was called."""
        if not self._stopped:
            self.path.unlink()

    def discard_if_empty(self) -> None:
        """Deletes the file if it holds no result."""
        if not self._rows:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; deletes it if it holds no result."""
        try:
            self._file.close()
        finally:
            self.discard_if_empty()


def check_suffix(path: Path) -> None:
    """Raises ValueError for a name without a suffix of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; results are written to {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def open_table(
    path: Path,
    class_names: Sequence[str],
    subject: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    smooth: Callable[[Iterator[Values]], Iterable[Values]] = iter,
    written: bool = True,
) -> Generator[Table]:
    """Opens a table for results, by one process at a time; the file appears when the block succeeds.

    A CSV or Parquet row has the columns file, index, frame, seconds, status ('ok', 'uncertain', 'no_face' or 'error'),
    reason, the face's track and box, expression, confidence, the smooth ones, temperature, unlike, and p_<class> for
    every class; those that do not apply are empty. A line of JSON is `to_dict`, which adds logits and patches.

    Args:
      path: ends in .csv, .jsonl or .parquet.
      class_names: C names.
      subject: everything the results depend on, ready for JSON.
      overwrite: whether to discard an earlier command's results instead of resuming.
      smooth: adds smooth columns to all results, see `temporal.smooth_rows`.
      written: whether the file becomes a table; otherwise only FILE.unfinished is one, and `path` may end as it likes.

    Raises:
      OSError: the file cannot be written.
      InputError: it holds another command's results, or another process is writing it.
      ValueError: another suffix.
    """
    if written:
        check_suffix(path)
    table = Table(path, dict(subject or {}), overwrite=overwrite)
    try:
        with signals.tidying(table.discard_if_empty):
            yield table
        if written:
            opened = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix.lower()]
            with files.replacing(path) as temporary, opened(temporary, class_names) as write:
                for row in smooth(table.rows()):
                    write(row)
        table.finish()
    except BaseException as error:
        if isinstance(error, Exception):
            error.add_note(f"what was done until then is in {table.path}; the same command resumes with it")
        with contextlib.suppress(OSError):  # a full disk, which `error` reports
            table.close()
        raise
    table.close()


@contextlib.contextmanager
def _jsonl(path: Path, class_names: Sequence[str]) -> Generator[Write]:
    del class_names  # in every line
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
    row |= {f"face_{name}": value for name, value in face.items() if f"face_{name}" in _COLUMNS}
    probabilities: Values = values.get("probabilities", {})
    return row | {f"p_{name}": value for name, value in probabilities.items()}
