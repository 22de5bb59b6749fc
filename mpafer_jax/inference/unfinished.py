"""Results of a prediction that goes on: on the disk as they come, so that a stop, a kill or a full disk loses none.

    FILE.unfinished   a line of JSON that says of which command the results are; then each as a line, `to_dict`

It lies beside the table that it becomes, and goes when that is whole. The same command goes on behind what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import Failure, Result
from mpafer_jax.runtime.errors import InputError

_FLUSH_SECONDS = 0.5
Row = dict[str, Any]


class Unfinished:
    """The results of one command so far; a context manager.

    Attributes:
      path: of the file.
      statuses: of the results that were there before.
    """

    def __init__(self, table: Path, subject: Row, *, overwrite: bool = False) -> None:
        """Opens what an earlier start left, or begins.

        Args:
          table: what it becomes.
          subject: what the results depend on, ready for JSON.
          overwrite: whether to begin anew, whatever lies there.

        Raises:
          OSError: the folder cannot be written.
          InputError: another command's results lie there, or another process writes them now.
        """
        table.parent.mkdir(parents=True, exist_ok=True)
        self.path = table.with_name(f"{table.name}.unfinished")
        self._file: BinaryIO = self.path.open("a+b")
        try:
            self._lock(table)
            done = [] if overwrite else self._read(table, json.loads(json.dumps(subject)))
            # Of the last image results may be missing: it is done again. What is before stays as it lies there.
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
        self.statuses = [row["status"] for row in before]
        self._rows, self._flushed = len(before), time.monotonic()

    def _lock(self, table: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {table} ({self.path}); wait until it ends, or name another file"
            ) from error
        except OSError:  # a disk without locks
            pass

    def _read(self, table: Path, subject: Row) -> list[tuple[Row, int]]:
        """The results, each with the place in the file where it begins."""
        self._file.seek(0)
        rows: list[tuple[Row, int]] = []
        offset = 0
        for line in self._file:
            if line.endswith(b"\n"):  # all but the one that was being written
                rows.append((json.loads(line), offset))
            offset += len(line)
        there: Row = rows[0][0].get("subject", {}) if rows else {}
        differing = [name for name in subject if there.get(name) != subject[name]]
        if differing and len(rows) > 1:
            listed = "; ".join(f"{name} there {there.get(name)!r}, here {subject[name]!r}" for name in differing)
            raise InputError(
                f"{self.path} holds {len(rows) - 1} results of another command: {listed[:600]}. Give that command "
                f"again to go on with it, another file instead of {table}, or --overwrite to lose them"
            )
        return rows[1:]

    def left(self, images: Iterable[InputImage | Failure]) -> Generator[InputImage | Failure]:
        """Those images of which there is no result yet.

        Raises:
          InputError: the inputs are not those of before.
        """
        for image in images:
            source = image.source
            before = self._before.get(source.index)
            if before is None:
                yield image
            elif before != (source.to_dict()["file"], source.frame):
                raise InputError(
                    f"{self.path} has a result of {before[0]} as number {source.index}, which is {source} now: the "
                    "inputs have changed since; --overwrite begins anew"
                )

    def write(self, result: Result) -> None:
        """Adds a result."""
        self._write(result.to_dict())
        self._rows += 1
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def _write(self, row: Row) -> None:
        self._file.write(json.dumps(row, allow_nan=False).encode("ascii") + b"\n")

    def rows(self) -> Iterator[Row]:
        """All results, from the first on."""
        self._file.flush()
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self) -> None:
        """Deletes the file: its results are in the table."""
        self.path.unlink()

    def discard_if_empty(self) -> None:
        """Deletes the file if it holds no result."""
        if not self._rows:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file; one without results goes."""
        # After an error, a full disk for one, that is said; what could be written is there.
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self._file.close()
        self.discard_if_empty()
