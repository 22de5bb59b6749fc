"""Reads the finished runs of a sweep and checks that those of one table are comparable."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.artifacts import run_dir
from mpafer_jax.artifacts.run_dir import TRAINING_PREDICTIONS
from mpafer_jax.config.redaction import redact
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import BASELINES
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs.sweeps.sweep import FOLDER, Point, Sweep
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ReportError

METRICS = ("war", "uar")
_HELD_OUT = ("validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """The data of a finished run that tables read.

    Attributes:
      name: its folder, relative to the sweep's: TABLE/POINT/seed_N, or fold_N.
      config: `config.json`.
      summary: `summary.json`.
      correct: bool[n], whether each image of the reported split was classified correctly; None without predictions.
      examples: digest of names and labels of these images; "" without predictions.
    """

    name: str
    config: dict[str, Any]
    summary: Mapping[str, Any]
    correct: npt.NDArray[np.bool_] | None
    examples: str = ""

    @property
    def key(self) -> str:
        """Key of its point."""
        return self.name.rpartition("/")[0]

    @property
    def seed(self) -> int:
        """Its number, of a seed or a fold."""
        return int(self.name.rpartition("_")[2])

    @property
    def seconds(self) -> float | None:
        """Wall time without baselines; None if it was resumed, since only its last process is timed."""
        process = self.summary["process"]
        return None if process["resumed_after_step"] else float(process["wall_seconds"])


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Result of a run, or of one of its baselines.

    Attributes:
      baseline: name of the baseline, empty for the run itself.
      scores: 'war' and 'uar', fractions of 1.
    """

    point: Point
    run: FinishedRun
    baseline: str
    scores: Mapping[str, float]

    @property
    def row(self) -> str:
        """The row's name in its table."""
        return self.baseline or self.point.name

    @property
    def title(self) -> str:
        """The row's title."""
        return BASELINES[self.baseline].title if self.baseline else self.point.title

    @property
    def seconds(self) -> float | None:
        """Of the run, as there; None for a baseline."""
        return None if self.baseline else self.run.seconds

    @property
    def correct(self) -> npt.NDArray[np.bool_] | None:
        """As in `FinishedRun`; None for a baseline."""
        return None if self.baseline else self.run.correct


def read_runs(root: pathlib.Path, sweep: Sweep) -> list[FinishedRun]:
    """Every finished run of a sweep, in the order of its points and by seed."""
    runs: list[FinishedRun] = []
    for point in sweep.points:
        paths = (root / point.key).glob(f"{sweep.kind}_*/{run_dir.SUMMARY}")
        # Not what someone has put aside, as seed_0.old.
        found = [path for path in paths if re.fullmatch(rf"{sweep.kind}_\d+", path.parent.name)]
        found.sort(key=lambda path: (len(path.parent.name), path))
        runs += [_read_run(path.parent, f"{point.key}/{path.parent.name}") for path in found]
    return runs


def _read_run(folder: pathlib.Path, name: str) -> FinishedRun:
    config, summary = (run_dir.read_json(folder / file) for file in (run_dir.CONFIG, run_dir.SUMMARY))
    reported, split = _reported(summary, folder)
    path, fingerprint = folder / TRAINING_PREDICTIONS, summary["fingerprints"][split]
    stored = Predictions.load_result(path, split, fingerprint, reported["step"])
    if stored is None:
        return FinishedRun(name, config, summary, None)
    correct = np.asarray(stored.logits.argmax(axis=1) == stored.labels)
    examples = files.json_digest([stored.names.tolist(), stored.labels.tolist()])
    return FinishedRun(name, config, summary, correct, examples)


def _reported(summary: Mapping[str, Any], place: pathlib.Path) -> tuple[Mapping[str, Any], str]:
    """The reported checkpoint of a run, and the split."""
    reported, split = protocol.reported(summary)
    if split is None:
        raise ReportError(f"{place} was measured on no held-out split, so it has no place in a table")
    return reported, split


def results(sweep: Sweep, runs: Iterable[FinishedRun], place: pathlib.Path) -> list[Result]:
    """The results of runs and of their baselines.

    Args:
      runs: in the order of the sweep's points.
      place: the runs' folder, for error messages.

    Raises:
      ReportError: runs of one table differ in CLIP, held-out images or checkpoint selection, or those of one point in
        their configuration.
    """
    points = {point.key: point for point in sweep.points}
    collected: list[Result] = []
    firsts: dict[str, tuple[Any, str]] = {}
    of_points: dict[str, FinishedRun] = {}
    for run in runs:
        point = points[run.key]
        if (first_of_point := of_points.setdefault(run.key, run)) is not run:
            _refuse_other_settings(sweep, first_of_point, run, place)
        for key, value in _must_agree(point, run, run.seed if sweep.over == "folds" else None).items():
            first, name = firsts.setdefault(key, (value, run.name))
            if first != value:
                raise ReportError(
                    f"{place / name} and {place / run.name} do not have the same {key.partition(':')[0]}, so they "
                    "cannot stand in one table; give another --workdir, or remove the folders of the one that is out "
                    "of date"
                )
        reported, split = _reported(run.summary, place / run.name)
        baselines = run.summary["baselines"]
        scores: dict[str, Mapping[str, float]] = {"": reported[split]}
        scores |= {name: baselines[name][split] for name in BASELINES if name in baselines}
        collected += [
            Result(point, run, name, {metric: float(values[metric]) for metric in METRICS})
            for name, values in scores.items()
        ]
    return collected


def _refuse_other_settings(sweep: Sweep, first: FinishedRun, run: FinishedRun, place: pathlib.Path) -> None:
    """Raises ReportError if two runs of a point differ in more than their numbers: seeds made after another choice."""
    one, other = (redact(run_dir.flatten(each.config)) for each in (first, run))  # published runs are redacted
    for name, (there, here) in run_dir.differences(Config, one, other).items():
        if name not in sweep.run_fields:
            raise ReportError(
                f"{place / first.name} and {place / run.name} would be one row, but differ in config.{name}: {there} "
                f"and {here}; give another --workdir, or remove the folders of the one that is out of date"
            )


def _must_agree(point: Point, run: FinishedRun, fold: int | None) -> dict[str, Any]:
    """What runs of a table must share unless their points or folds change it: name and those changes -> value."""
    summary = run.summary
    prints: dict[str, str] = summary["fingerprints"]
    held_out = {name: prints[name] for name in _HELD_OUT if name in prints}
    changes = f"{point.held_out_changes} {fold}"
    folder = point.changes.get(FOLDER, "")
    return {
        f"CLIP:{point.changes_of('clip')}": summary["clip"]["hash"],
        f"validation or test images:{changes} {folder}": held_out,
        **({f"names and labels of test images:{changes}": run.examples} if folder and run.examples else {}),
        f"way to choose the checkpoint:{point.changes_of('eval')}": summary["selected_by"],
    }
