"""Reads the files of a workdir for a report."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, cast

from mpafer_jax.artifacts.run_dir import (
    CONFIG,
    EVALUATION,
    EVALUATION_PREDICTIONS,
    SUMMARY,
    TRAINING_PREDICTIONS,
    flatten,
)
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.evaluation.protocol import reported_checkpoint, reported_split, selecting_split, unit
from mpafer_jax.runtime import files, metric_writer
from mpafer_jax.runtime.errors import ReportError

Scalars = dict[int, float]  # step -> value


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """One checkpoint on one split.

    Attributes:
      title: heading of the measurement.
      split: "test" or "validation".
      step: of the checkpoint.
      metrics: as from `ClassificationMetrics.to_dict`.
      predictions: of every image or clip; None if not saved.
      fingerprint: of the split.
      chosen_on_test: whether the test split chose the checkpoint.
      unit: what is counted, "images" or "clips".
      wall_seconds: of the training run; None of an evaluation, and after a resume, when only the last process's time is
        known.
      confidence: of the checkpoint, as from `evaluation.confidence.describe`; None if it was not measured.
    """

    title: str
    split: str
    step: int
    metrics: Mapping[str, Any]
    predictions: Predictions | None
    fingerprint: str
    chosen_on_test: bool
    unit: str = "images"
    wall_seconds: float | None = None
    confidence: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A workdir's results.

    Attributes:
      name: of the run in the report.
      measurements: of the run's reported checkpoint and of a later evaluation, those that exist.
      summary: `summary.json`; None if nothing was trained here.
      evaluation: `evaluation.json`; None without `--mode=eval`.
      config: the run's fields by dotted name; empty if nothing was trained here.
      curves: kind ("train", "validation") -> metric -> step -> value.
    """

    name: str
    measurements: tuple[Measurement, ...]
    summary: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    config: Mapping[str, Any]
    curves: Mapping[str, Mapping[str, Scalars]]


def read(workdir: pathlib.Path) -> Contents:
    """Reads a workdir."""
    summary, evaluation = _json(workdir / SUMMARY), _json(workdir / EVALUATION)
    if summary is None and evaluation is None:
        raise ReportError(
            f"{workdir} holds neither {SUMMARY} nor {EVALUATION}: nothing has ended there that a report could "
            "show; train, or evaluate a checkpoint with --mode=eval, or correct the path"
        )
    measurements: list[Measurement] = []
    if summary is not None:
        which = reported_checkpoint(summary)
        title = f"best on {selecting_split(summary)}" if which == "best" else "last step"
        path = workdir / TRAINING_PREDICTIONS
        on_test = which == "best" and selecting_split(summary) == "test"
        measurements += _measurement(path, summary[which], summary, title, chosen_on_test=on_test)
    if evaluation is not None:
        path = workdir / EVALUATION_PREDICTIONS
        on_test = evaluation.get("chosen_on_test", False)
        title = evaluation["checkpoint"]
        measurements += _measurement(path, evaluation, evaluation, title, chosen_on_test=on_test)
    return Contents(
        name=workdir.name if files.in_bucket(workdir) else workdir.resolve().name,
        measurements=tuple(measurements),
        summary=summary,
        evaluation=evaluation,
        config=flatten(_json(workdir / CONFIG) or {}),
        curves=metric_writer.read(workdir),
    )


def _measurement(
    path: pathlib.Path, scores: Mapping[str, Any], result: Mapping[str, Any], title: str, *, chosen_on_test: bool
) -> list[Measurement]:
    split = reported_split(scores)
    if split is None:
        return []
    step = int(scores["step"])
    name = f"{split} split, {title} (step {step})"
    fingerprint = result["fingerprints"][split]
    process = result.get("process", {})  # an evaluation has none
    stored = Predictions.load_result(path, split, fingerprint, step)
    return [
        Measurement(
            title=name,
            split=split,
            step=step,
            metrics=scores[split],
            predictions=stored,
            fingerprint=fingerprint,
            chosen_on_test=chosen_on_test,
            unit=unit(result),
            wall_seconds=None if process.get("resumed_after_step") else process.get("wall_seconds"),
            confidence=result.get("confidence"),
        )
    ]


def _json(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); run the training or evaluation again to write it") from error
