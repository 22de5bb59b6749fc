"""Accuracy and recall by group, and their intervals, by hand and against SciPy."""

import numpy as np
import pytest
from scipy import stats

from mpafer_jax.evaluation import groups, statistics
from mpafer_jax.evaluation.metrics import from_logits
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.faces import alignment
from mpafer_jax.jobs import evaluate
from tests.data import layouts
from tests.evaluation.report.page import Page
from tests.jobs import runs

CLASSES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 1], np.int32)
ANSWERS = np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 1], np.int32)
GENDER = np.array(["f"] * 7 + ["m"] * 3)


def test_metrics_by_hand() -> None:
    found = groups.by_attribute(ANSWERS, LABELS, CLASSES, {"gender": GENDER})
    female, male = found["gender"]
    # f: 3 of 4 "a", 1 of 2 "b", 0 of 1 "c"; m: 1 of 1 "a", 2 of 2 "b", no "c".
    assert (female.value, female.count, female.war, female.uar) == ("f", 7, 4 / 7, pytest.approx((3 / 4 + 1 / 2) / 3))
    assert (female.hits, female.support) == ({"a": 3, "b": 1, "c": 0}, {"a": 4, "b": 2, "c": 1})
    assert (male.value, male.count, male.war, male.uar) == ("m", 3, 1.0, 1.0)
    assert male.support == {"a": 1, "b": 2, "c": 0}
    # Wilson, 4 of 7, with z = 1.959964: center (4/7 + z^2/14) / (1 + z^2/7), half-width
    # z sqrt(4/7 * 3/7 / 7 + z^2/196) / (1 + z^2/7).
    assert female.war_interval == pytest.approx((0.2505, 0.8418), abs=5e-5)
    assert male.war_interval == pytest.approx((1 / (1 + 1.959964**2 / 3), 1.0), abs=1e-6)


def test_wilson_stays_between_0_and_1() -> None:
    counts = np.arange(1, 2000)
    low, _ = statistics.wilson(np.zeros_like(counts), counts)
    _, high = statistics.wilson(counts, counts)
    assert not np.signbit(low).any()
    assert high.max() <= 1


def test_wilson_as_in_scipy() -> None:
    for hits, count in ((0, 1), (1, 1), (3, 7), (90, 100), (680, 3068)):
        low, high = statistics.wilson(hits, count)
        expected = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean() -> None:
    low, high = statistics.wilson([3], [7])
    assert statistics.mean_interval([3], [7]) == pytest.approx((float(low[0]), float(high[0])))
    # Two classes, 1 of 2 and 4 of 4; Wilson (0.0945, 0.9055) and (0.5101, 1):
    # 0.75 - sqrt(0.4055^2 + 0.4899^2) / 2, 0.75 + sqrt(0.4055^2 + 0) / 2.
    assert statistics.mean_interval([1, 4], [2, 4]) == pytest.approx((0.4320, 0.9527), abs=1e-4)


def test_the_interval_of_a_mean_covers_it() -> None:
    """In 95% of the draws, for recalls near 1 and few images, where a normal interval fails."""
    rng = np.random.default_rng(0)
    recalls, counts = np.array([0.97, 0.9, 0.6]), np.array([40, 12, 20])
    intervals = [statistics.mean_interval(rng.binomial(counts, recalls), counts) for _ in range(4000)]
    covered = np.mean([low <= recalls.mean() <= high for low, high in intervals])
    assert 0.94 < covered < 0.985


def test_groups_are_in_the_order_of_their_numbers() -> None:
    ages = np.array(["20-39", "4-19", "70+", "0-3", "40-69", "", "4-19", "0-3", "20-39", "70+"])
    found = groups.by_attribute(ANSWERS, LABELS, CLASSES, {"age": ages})
    assert [group.value for group in found["age"]] == ["", "0-3", "4-19", "20-39", "40-69", "70+"]
    assert sum(group.count for group in found["age"]) == 10


def test_names_and_constants_are_no_groups() -> None:
    many = np.arange(21).astype(str)
    labels = np.zeros(21, np.int32)
    assert groups.by_attribute(labels, labels, CLASSES, {"id": many, "angle": np.array(["straight"] * 21)}) == {}
    assert list(groups.by_attribute(labels[:20], labels[:20], CLASSES, {"id": many[:20]})) == ["id"]


def test_metrics_hold_groups_only_where_there_are_attributes() -> None:
    logits = np.eye(3)[ANSWERS]
    assert "groups" not in from_logits(logits, LABELS, CLASSES).to_dict()
    (female, _) = from_logits(logits, LABELS, CLASSES, attributes={"gender": GENDER}).to_dict()["groups"]["gender"]
    assert (female["value"], female["count"], female["hits"]["a"]) == ("f", 7, 3)


def test_an_evaluation_by_the_annotations_of_rafdb(finished, sample, tmp_path) -> None:
    """From the annotations beside the images to evaluation.json, the predictions and the report."""
    kinds = {f"test_{number:04d}.jpg": (number % 2, number % 3, 2 + number % 2) for number in range(1, 22)}
    layouts.write_rafdb(tmp_path / "basic", {name: 1 + number % 7 for number, name in enumerate(kinds)})
    for name, numbers in kinds.items():
        layouts.write_rafdb_annotation(tmp_path / "basic", name, numbers)
    changes = {
        **{"dataset": "rafdb", "dir": str(tmp_path), "class_names": (), "align": "landmarks"},
        **{"train_splits": (), "validation_fraction": 0.0},
    }
    about = {"eval.checkpoint": str(finished[0]), "eval.report": "numbers"}
    config = runs.config(sample, **{f"data.{name}": value for name, value in changes.items()}, **about)
    result = evaluate.evaluate_checkpoint(config, tmp_path / "eval")
    stored = Predictions.load(tmp_path / "eval" / "evaluation_predictions.npz")
    races = ("Caucasian", "African-American", "Asian")
    assert stored.attributes["race"].tolist() == [races[kinds[name][1]] for name in stored.names.tolist()]
    right = stored.logits.argmax(axis=1) == stored.labels
    for group in result["test"]["groups"]["race"]:
        inside = stored.attributes["race"] == group["value"]
        assert (group["count"], group["war"]) == (inside.sum(), right[inside].mean())
    assert [group["value"] for group in result["test"]["groups"]["age"]] == ["20-39", "40-69"]
    assert any(line.strip() == f"faces cropped: {alignment.describe_crop()}" for line in result["data"])
    page = Page.of(tmp_path / "eval" / "report.html")
    page.check()
    rows = page.rows("By gender, in percent")
    assert [row[:2] for row in rows[1:]] == [
        [group["value"], str(group["count"])] for group in result["test"]["groups"]["gender"]
    ]
    assert {row[0] for row in page.rows("of the number of images in brackets")[1:]} == {"male", "female"}
