"""Runs the contenders on a problem: checks that their results agree, then times them in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tests.bench import measures, timing
from tests.bench import problem as problem_lib
from tests.bench.client import BenchmarkError, Worker
from tests.bench.problem import Arrays, Problem, Setting

# Tolerances relative to an output's largest entry, by precision (`problem.PRECISIONS`). Rounding errors grow: the
# contrastive loss divides by a temperature of 0.01, and the top-k patches can change.
TOLERANCES = {"float32": 1e-4, "tf32": 1e-1, "bfloat16": 3e-1}


@dataclasses.dataclass(frozen=True)
class Start:
    """Start of a contender's process: seconds since its start, and memory.

    Attributes:
      imported: end of the imports.
      ready: the CLIP is loaded.
      first_step: end of the first training step.
      step: duration of a later training step.
      peak_memory: bytes after a few training steps, see `JaxContender.peak_memory`.
    """

    imported: float
    ready: float
    first_step: float
    step: float
    peak_memory: int

    @property
    def compile(self) -> float:
        return max(0.0, self.first_step - self.ready - self.step)


@dataclasses.dataclass(frozen=True)
class Results:
    """Measurements on a problem.

    Attributes:
      device: see `JaxContender.device`.
      bfloat16_unit: of the CPU, as our contender finds it (`devices.bfloat16_unit`).
      seconds: by measure and contender, mean seconds per call in each turn.
      starts: by contender, "cold" and "warm" (with a compilation cache), of each attempt.
      errors: by contender, largest error of each output against ours, relative to its largest entry.
      flops: by measure, of its matrix products.
    """

    setting: Setting
    device: str
    bfloat16_unit: str
    seconds: Mapping[str, Mapping[str, Sequence[float]]]
    starts: Mapping[str, Mapping[str, Sequence[Start]]]
    errors: Mapping[str, Mapping[str, float]]
    flops: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a measurement.

    Attributes:
      contenders: of `worker.CONTENDERS`; ours first.
      measures: of `measures.TITLES`.
      repeats: number of turns.
      starts: attempts of each kind of start; 0 for none.
      block_seconds: target duration of a block of calls.
      remat: of our steps, as `config.clip.remat`.
      threads: cores and threads of each contender, 0 for all.
      log: file for the contenders' stderr; None for this process's stderr.
    """

    contenders: tuple[str, ...]
    measures: tuple[str, ...]
    repeats: int
    starts: int
    block_seconds: float
    remat: str
    threads: int
    log: pathlib.Path | None


def run(setting: Setting, options: Options) -> Results:
    """Runs all measurements on a problem; nothing is timed where a contender's results differ from ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        problem = problem_lib.write(folder / "problem", setting)
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(_start(name, problem, options, None)) for name in options.contenders}
            loaded = {name: worker.ask("load") for name, worker in workers.items()}
            device = same_device({name: answer["device"] for name, answer in loaded.items()})
            unit = next((answer["bfloat16_unit"] for answer in loaded.values() if answer["bfloat16_unit"]), "")
            outputs = {name: outputs_of(worker, folder) for name, worker in workers.items()}
            errors = check_equal(outputs, TOLERANCES[setting.precision])
            flops: dict[str, float] = workers["ours"].ask("flops")["flops"] if "ours" in workers else {}
            seconds = {
                measure: time_in_turns(measure, workers, options.repeats, options.block_seconds)
                for measure in options.measures
            }
        starts = {name: _starts(name, problem, options, folder / name) for name in options.contenders}
    return Results(setting, device, unit, seconds, starts, errors, flops)


def same_device(found: Mapping[str, str]) -> str:
    (first, *others) = set(found.values())
    if others:
        each = ", ".join(f"{name} on {device}" for name, device in found.items())
        raise BenchmarkError(f"nothing was timed, as not all compute on the same device: {each}")
    return first


def _start(name: str, problem: Problem, options: Options, cache: pathlib.Path | None) -> Worker:
    return Worker(name, problem.folder, remat=options.remat, threads=options.threads, cache=cache, log=options.log)


def outputs_of(worker: Worker, folder: pathlib.Path) -> Arrays:
    """What a contender computes, by way of a file in the folder."""
    path = folder / f"{worker.name}.npz"
    worker.ask("check", path=str(path))
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def check_equal(outputs: Mapping[str, Arrays], tolerance: float) -> dict[str, dict[str, float]]:
    """Largest error of each contender's outputs (of `JaxContender.check`) against the first's, relative to the output's
    largest entry; a BenchmarkError lists those above the tolerance or not finite."""
    (reference_name, reference), *others = outputs.items()
    errors = {name: {key: _error(found[key], reference[key]) for key in reference} for name, found in others}
    wrong = [
        f"{name}'s {key} by {error:.1e}"
        for name, of in errors.items()
        for key, error in of.items()
        if not error <= tolerance
    ]
    if wrong:
        raise BenchmarkError(
            f"nothing was timed, as not everything is equal to {reference_name}'s within {tolerance} of the largest "
            f"entry: {', '.join(wrong)}. A gradient may differ by itself where two patches' scores are all but equal, "
            "and one or the other is among the best; another --seed tells"
        )
    return errors


def _error(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def time_in_turns(
    measure: str, workers: Mapping[str, Worker], repeats: int, block_seconds: float
) -> dict[str, list[float]]:
    """Seconds per call by contender, after two warm-up calls; a block of calls lasts `block_seconds` or one call."""
    calls: dict[str, int] = {}
    for name, worker in workers.items():
        worker.seconds(measure)
        calls[name] = max(1, round(block_seconds / worker.seconds(measure)))
    logging.info("timing %s, calls in a block: %s", measure, calls)
    blocks = {name: _block(worker, measure, calls[name]) for name, worker in workers.items()}
    return timing.alternate(blocks, repeats)


def _block(worker: Worker, measure: str, calls: int) -> Any:
    return lambda: worker.seconds(measure, calls)


def _starts(name: str, problem: Problem, options: Options, folder: pathlib.Path) -> dict[str, list[Start]]:
    found: dict[str, list[Start]] = {"cold": [], "warm": []}
    for attempt in range(options.starts):
        cache = folder / str(attempt)
        for kind in found:
            logging.info("%s start of %s", kind, name)
            found[kind].append(_measure_start(name, problem, options, cache))
    return found


def _measure_start(name: str, problem: Problem, options: Options, cache: pathlib.Path) -> Start:
    with _start(name, problem, options, cache) as worker:
        worker.ask("load")
        ready = worker.age()
        worker.seconds(measures.TRAIN)
        first_step = worker.age()
        step = worker.seconds(measures.TRAIN, 2)
        peak = int(worker.ask("peak_memory")["bytes"])
        return Start(worker.import_seconds, ready, first_step, step, peak)
