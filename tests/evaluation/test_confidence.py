"""Confidences fitted on validation and measured on splits, by hand; in runs: tests/inference/test_confidence.py."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.evaluation import confidence
from mpafer_jax.evaluation.evaluator import Scores
from mpafer_jax.evaluation.statistics import wilson


def scores(margins, right, mean_patches) -> Scores:
    """Of two classes: how far the answer's logit is above the other's, and whether it is right."""
    labels = np.arange(len(margins), dtype=np.int32) % 2
    answers = np.where(right, labels, 1 - labels)
    logits = np.asarray(margins, np.float32)[:, None] * np.eye(2, dtype=np.float32)[answers]
    rows = np.arange(len(margins))
    return Scores(
        *(("a", "b"), rows, rows.astype(str), labels, logits, np.zeros((len(margins), 2), np.float16)),
        mean_patches=np.asarray(mean_patches, np.float32),
        unit="images",
        attributes={},
    )


def test_a_fit_on_validation_with_the_gaussian_of_train():
    """Twenty images 4 apart, 95% of them right, and twenty 1 apart, 60%."""
    rng = np.random.default_rng(0)
    of_train, of_validation = rng.normal(size=(50, 3)), rng.normal(1.0, 2.0, (40, 3))
    right = np.array([True] * 19 + [False] + [True] * 12 + [False] * 8)
    validation = scores([4.0] * 20 + [1.0] * 20, right, of_validation)
    taken = []

    def take(chosen):
        taken.append(chosen)
        return SimpleNamespace(frames=lambda: ("the frames", None))

    def encode(params, images):
        assert (params, images) == ({"ctx": 1}, "the frames")
        return None, None, of_train.astype(np.float32)

    train = SimpleNamespace(labels=np.repeat([0, 1], [300, 20]), segments=8, take=take)
    evaluator = SimpleNamespace(config=SimpleNamespace(seed=0), encode=encode)
    found = confidence.fit(evaluator, {"ctx": 1}, train, validation, step=7)
    # At the temperature 4 (sigmoid(4 / T) - 0.95) + (sigmoid(1 / T) - 0.6) is 0.
    sure, unsure = 1 / (1 + np.exp(-np.array([4, 1]) / found.temperature))
    assert 4 * (sure - 0.95) + unsure - 0.6 == pytest.approx(0, abs=1e-6)
    assert found.temperature > 1.2
    # The first twenty alone reach the accuracies, by the confidence at this temperature.
    threshold = np.ceil(100 * unsure) / 100
    assert found.thresholds == [(accuracy, pytest.approx(threshold)) for accuracy in (0.8, 0.85, 0.9, 0.95)]
    distances = np.sqrt(LedoitWolf().fit(of_train).mahalanobis(of_validation))
    assert found.unlike_distance == pytest.approx(np.percentile(distances, 99), rel=1e-3)
    assert (found.split, found.count, found.unit, found.step) == ("validation", 40, "images", 7)
    # 200 frames of each class, of eight a clip.
    assert np.bincount(train.labels[taken[0]]).tolist() == [25, 20]


def test_what_is_measured_of_a_split_by_hand():
    """Four images with confidences 0.9, 0.8, 0.7 and 0.55 at a temperature of 2, of which the second is wrong."""
    sure, right = np.array([0.9, 0.8, 0.7, 0.55]), np.array([True, False, True, True])
    scored = scores(2 * np.log(sure / (1 - sure)), right, [[0, 0], [1, 1], [3, 0], [0, 1.4]])
    fitted = Confidence(
        temperature=2.0,
        thresholds=[(0.8, 0.75), (0.9, None)],
        unlike_distance=1.5,
        split="validation",
        count=30,
        unit="images",
        step=7,
        mean=np.zeros(2, np.float32),
        whitening=np.eye(2, dtype=np.float32),
    )
    described = confidence.describe(fitted, {"test": scored}, own=False)
    found = described["splits"]["test"]
    surer = sure**2 / (sure**2 + (1 - sure) ** 2)  # without the temperature: 0.988, 0.941, 0.845, 0.599
    for name, shares, bins in (("calibrated", sure, (0, 1, 2, 3)), ("uncalibrated", surer, (0, 2, 3))):
        assert found[name]["cross_entropy"] == pytest.approx(-np.mean(np.log(np.where(right, shares, 1 - shares))))
        gaps = np.add.reduceat(right - shares, bins)  # the last of 15 bins holds two of the latter
        assert found[name]["ece"] == pytest.approx(np.abs(gaps).sum() / 4)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    by_coverage = dict(zip(confidence.COVERAGES, found["risk"], strict=True))
    assert [by_coverage[share] for share in (0.05, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0, 1 / 2, 1 / 3, 1 / 4])
    assert found["unlike"] == 1 / 4  # at distances 0, 1.41, 3 and 1.4
    reached, unreached = described["answered"]
    assert (reached["accuracy"], reached["min_confidence"]) == (0.8, 0.75)
    low, high = wilson(1, 2)
    expected = {"min_confidence": 0.75, "count": 2, "coverage": 0.5, "accuracy": 0.5}
    assert reached["test"] == {**expected, "interval": (float(low), float(high))}
    assert unreached == {"accuracy": 0.9, "min_confidence": None, "test": None}
