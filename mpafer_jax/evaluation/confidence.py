"""Fits how sure a checkpoint's predictions are on a validation split, and measures it on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation import selective
from mpafer_jax.evaluation.calibration import calibrate, fit_temperature
from mpafer_jax.evaluation.evaluator import Evaluator, Scores
from mpafer_jax.evaluation.metrics import from_logits, softmax
from mpafer_jax.method import outliers, prototypes

ACCURACIES = (0.8, 0.85, 0.9, 0.95)
COVERAGES = tuple(step / 20 for step in range(1, 21))
IMAGES_PER_CLASS = 200  # of train, for their mean and covariance
PERCENTILE = 99  # of the validation images' distances
_SMALLEST_DISTANCE = 1e-6


def fit(evaluator: Evaluator, params: dict[str, Any], train: Split, validation: Scores, *, step: int) -> Confidence:
    """Temperature, thresholds of confidence and threshold of distance; all processes must call it.

    Args:
      params: the prompts, on the devices.
      train: at most `IMAGES_PER_CLASS` images (of clips: frames) of each class are read, drawn by seed.
      validation: scores of the validation split.
      step: of the checkpoint.
    """
    temperature = fit_temperature(validation.logits, validation.labels)
    _, confidence, correct = _answers(validation, temperature)
    each = max(1, IMAGES_PER_CLASS // max(1, train.segments))
    chosen = prototypes.choose_images(train.labels, each, evaluator.config.seed)
    images, _ = train.take(chosen).frames()
    _, _, mean_patches = evaluator.encode(params, images)
    mean, whitening = outliers.fit_gaussian(mean_patches)
    distances = _distances(validation, mean, whitening)
    return Confidence(
        temperature=temperature,
        thresholds=[(wanted, selective.threshold_for(wanted, confidence, correct)) for wanted in ACCURACIES],
        unlike_distance=max(float(np.percentile(distances, PERCENTILE)), _SMALLEST_DISTANCE),
        mean=mean,
        whitening=whitening,
        split="validation",
        count=len(validation.labels),
        unit=validation.unit,
        step=step,
    )


def describe(confidence: Confidence, scores: Mapping[str, Scores], *, own: bool) -> dict[str, Any]:
    """A checkpoint's confidence measured on splits, ready for JSON.

    Args:
      scores: of the splits by name.
      own: whether the splits are those of the training run, so that `confidence` was fitted on one of them.

    Returns:
      The fields of `Confidence` and `own`; under "splits", by name of the split, cross-entropy in nats and ECE before
      ("uncalibrated") and after, the risk at each of `COVERAGES` and the area under the whole curve (AURC), both of
      calibrated confidences, and the share of images unlike the training images; under "answered", for each wanted
      accuracy, `selective.Answered` by split, or None where it is not reachable.
    """
    splits: dict[str, Any] = {}
    sure: dict[str, tuple[Any, Any]] = {}
    for name, scored in scores.items():
        probabilities, certainty, correct = _answers(scored, confidence.temperature)
        sure[name] = certainty, correct
        risks = selective.risk_coverage(certainty, correct)
        distances = _distances(scored, confidence.mean, confidence.whitening)
        splits[name] = {
            "uncalibrated": _measures(scored, 1.0, softmax(scored.logits)),
            "calibrated": _measures(scored, confidence.temperature, probabilities),
            "risk": [float(risks[max(0, round(share * len(risks)) - 1)]) for share in COVERAGES],
            "aurc": float(risks.mean()),
            "unlike": float(np.mean(distances > confidence.unlike_distance)),
        }
    answered = [
        {
            "accuracy": wanted,
            "min_confidence": threshold,
            **{
                name: None if threshold is None else dataclasses.asdict(selective.answered(*sure[name], threshold))
                for name in scores
            },
        }
        for wanted, threshold in confidence.thresholds
    ]
    fields = confidence.model_dump(mode="json", exclude={"thresholds"})
    return {**fields, "own": own, "splits": splits, "answered": answered}


def _measures(scored: Scores, temperature: float, probabilities: npt.NDArray[Any]) -> dict[str, float]:
    scaled = from_logits(scored.logits / temperature, scored.labels, scored.class_names)
    return {"cross_entropy": scaled.cross_entropy, "ece": calibrate(probabilities, scored.labels).ece}


def _answers(scored: Scores, temperature: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Calibrated probabilities [n, C], confidences [n], and whether the answers [n] are right."""
    probabilities = softmax(scored.logits / np.float32(temperature))
    return probabilities, probabilities.max(axis=1), scored.logits.argmax(axis=1) == scored.labels


def _distances(
    scored: Scores, mean: npt.NDArray[np.float32], whitening: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Distances [m] of the split's images from the training images."""
    arrays = (scored.mean_patches, mean, whitening)
    return np.asarray(outliers.mahalanobis(*(jnp.asarray(array) for array in arrays)))
