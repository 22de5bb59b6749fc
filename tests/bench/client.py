"""Client of the benchmark worker process (`worker.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self


class BenchmarkError(RuntimeError):
    """A contender failed, or its results differ."""


class Worker:
    """A contender's process; a context manager that ends it.

    Attributes:
      name: the contender.
      import_seconds: from the start of the process to the end of its imports.
    """

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        *,
        remat: str,
        threads: int,
        cache: pathlib.Path | None = None,
        log: pathlib.Path | None = None,
    ) -> None:
        """Starts the process and waits for its imports.

        Args:
          name: one of `worker.CONTENDERS`.
          remat: of our contender, as `config.clip.remat`.
          threads: number of cores and threads, 0 for all.
          cache: folder of the compilation cache, or None.
          log: file for stderr; None for this process's stderr.
        """
        self.name = name
        self._log = log.open("a", encoding="utf-8") if log else None
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.bench.worker", name, str(folder)),
                *(f"--remat={remat}", f"--threads={threads}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(cache),
        )
        self._read()
        self.import_seconds = self.age()

    def age(self) -> float:
        return time.monotonic() - self._started

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        pipe = self._process.stdin
        if pipe is None:
            raise BenchmarkError(f"{self.name} was ended already")
        with contextlib.suppress(BrokenPipeError):  # the process has ended: its last response is read below
            print(json.dumps({"do": do, **details}), file=pipe, flush=True)
        return self._read()

    def seconds(self, measure: str, calls: int = 1) -> float:
        return float(self.ask("time", measure=measure, calls=calls)["seconds"])

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise BenchmarkError(f"the process of {self.name} ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._log is not None:
            self._log.close()


def _environment(cache: pathlib.Path | None) -> Mapping[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        }
    return environment
