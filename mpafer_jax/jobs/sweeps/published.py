"""A sweep's results as one file of text, to be kept where the folders of its runs are not: beside a page of results.

JSON lines. The first is the sweep's record; each other one is a finished run: its name, configuration (by dotted name,
without what changes no result, as where the data lie), `summary.json` (without the lines that name folders), and which
images of the reported split were classified correctly: a 1 or 0 for each in the split's order, or null. All of it is
without the places on the machine of the runs (`places`).
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from mpafer_jax.artifacts.run_dir import FREE_FIELDS, flatten
from mpafer_jax.config.redaction import PLACES, without_place, without_places
from mpafer_jax.jobs.sweeps.collect import FinishedRun
from mpafer_jax.jobs.sweeps.sweep import Record
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

SUFFIX = ".jsonl"
_NAMES_FOLDERS = "data"  # of a summary; its counts and fingerprints say the rest


def joined(path: pathlib.Path, record: Record, runs: Iterable[FinishedRun]) -> list[FinishedRun]:
    """Runs, and those of the same sweep that are in a file: other seeds, made elsewhere or before.

    A run takes the place of one of its name. What is there of points that were otherwise then is dropped.

    Args:
      path: the file, which ends on `SUFFIX`; it need not be there.
      record: of the sweep.
      runs: those that have ended.

    Returns:
      All of them, in the order of the sweep's points, and by seed.

    Raises:
      ConfigError: the file is there and cannot be read.
    """
    now = _settings(record)
    merged: dict[str, FinishedRun] = {}
    if path.is_file():
        before, old = read(path)
        then = _settings(before)
        merged = {run.name: run for run in old if now.get(run.key) == then[run.key]}
    merged |= {run.name: run for run in runs}
    order = {key: place for place, key in enumerate(now)}
    return sorted(merged.values(), key=lambda run: (order[run.key], run.seed))


def _settings(record: Record) -> dict[str, Any]:
    """Point -> all that makes its configuration, but the seed, as it is published."""
    record = _without_places(record)
    return {point.key: (record.sweep.base, record.overrides, point.changes) for point in record.sweep.points}


def _without_places(record: Record) -> Record:
    points = tuple(
        dataclasses.replace(point, changes=without_places(point.changes, told_apart=True))
        for point in record.sweep.points
    )
    overrides = tuple(_override_without_place(override) for override in record.overrides)
    return dataclasses.replace(record, overrides=overrides, sweep=dataclasses.replace(record.sweep, points=points))


def _override_without_place(override: str) -> str:
    flag, _, text = override.partition("=")
    field = flag.removeprefix("--config.")
    if field not in PLACES:
        return override
    try:
        value: Any = ast.literal_eval(text)  # as several banks are given
    except (ValueError, SyntaxError):
        value = text
    found = without_place(field, value)
    return f"{flag}={found if isinstance(found, str) else repr(found)}"


def write(path: pathlib.Path, record: Record, runs: Iterable[FinishedRun]) -> None:
    """Writes the file.

    Args:
      path: its name, which ends on `SUFFIX`.
      record: of the sweep.
      runs: those that have ended.
    """
    lines: list[dict[str, Any]] = [dataclasses.asdict(_without_places(record))]
    for run in runs:
        config = {name: value for name, value in flatten(run.config).items() if name not in FREE_FIELDS}
        config = without_places(config)
        summary = {name: value for name, value in run.summary.items() if name != _NAMES_FOLDERS}
        clip = summary["clip"]
        summary["clip"] = {**clip, "name": without_place("clip.name", clip["name"])}
        correct = None if run.correct is None else "".join("01"[right] for right in run.correct.tolist())
        lines.append({"name": run.name, "config": config, "summary": summary, "correct": correct})
    files.write_text(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def read(path: pathlib.Path) -> tuple[Record, list[FinishedRun]]:
    """Reads what `write` left.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        first, *others = (json.loads(line) for line in files.read_text(path).splitlines())
        return Record.from_json(first), [_run(**line) for line in others]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no sweep's results ({type(error).__name__}: {error}); "
            "python -m mpafer_jax.cli.results --page writes such files"
        ) from error


def _run(name: str, config: dict[str, Any], summary: dict[str, Any], correct: str | None) -> FinishedRun:
    right = None if correct is None else np.array([digit == "1" for digit in correct], np.bool_)
    return FinishedRun(name, config, summary, right)
