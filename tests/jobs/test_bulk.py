"""`--mode=predict`: every image once and in order, in parts that are done only where they are missing."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from mpafer_jax.data.splits import load_dataset
from mpafer_jax.jobs import evaluate, predict
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs


@pytest.fixture(scope="module")
def predicted(sample, finished, tmp_path_factory):
    """The configuration and the folder of the run's predictions in parts of 10."""
    workdir = tmp_path_factory.mktemp("predicted")
    config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), "predict.images_per_part": 10})
    predict.predict_dataset(config, workdir)
    return config, workdir


def test_parts_hold_every_image_in_order_and_agree_with_the_evaluation(predicted):
    config, workdir = predicted
    tables = [pq.read_table(path) for path in sorted((workdir / "predictions").glob("*.parquet"))]
    assert [len(table) for table in tables] == [10, 10, 5]
    rows = [row for table in tables for row in table.to_pylist()]
    split = load_dataset(config.data).test
    assert [row["index"] for row in rows] == list(range(25))
    assert [row["file"] for row in rows] == split.names.tolist()
    assert [row["label"] for row in rows] == [split.class_names[label] for label in split.labels]
    names = split.class_names
    probabilities = np.array([[row[f"p_{name}"] for name in names] for row in rows])
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert [row["expression"] for row in rows] == [names[index] for index in probabilities.argmax(1)]
    confusion = np.array(evaluate.evaluate_checkpoint(config, workdir)["test"]["confusion"])
    for true, row in zip(split.labels, rows, strict=True):
        confusion[true, names.index(row["expression"])] -= 1
    np.testing.assert_array_equal(confusion, 0)


def test_only_missing_parts_are_done_again(predicted):
    config, workdir = predicted
    paths = sorted((workdir / "predictions").glob("*.parquet"))
    content = pq.read_table(paths[1])
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    predict.predict_dataset(config, workdir)
    after = [path.stat().st_mtime_ns for path in paths]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert pq.read_table(paths[1]) == content


def test_a_name_that_is_not_utf8_is_escaped(sample, predicted, tmp_path):
    config, _ = predicted
    shutil.copytree(sample / "faces", tmp_path / "faces")
    first = min((tmp_path / "faces" / "test").glob("*/*"))
    first.rename(os.fsdecode(os.fsencode(first.parent) + b"/caf\xe9.png"))
    data = config.data.model_copy(update={"dir": str(tmp_path / "faces"), "prepared_dir": str(tmp_path / "prepared")})
    predict.predict_dataset(config.model_copy(update={"data": data}), tmp_path / "predicted")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "predicted" / "predictions").glob("*.parquet"))]
    assert f"{first.parent.name}/caf\\xe9.png" in [row["file"] for table in tables for row in table.to_pylist()]


def test_predictions_of_something_else_are_refused(predicted):
    config, workdir = predicted
    other = config.model_copy(update={"predict": config.predict.model_copy(update={"images_per_part": 5})})
    with pytest.raises(ConfigError, match=r"test.json says .* images_per_part there 10, here 5.*delete that folder"):
        predict.predict_dataset(other, workdir)
    without = config.model_copy(update={"data": config.data.model_copy(update={"test_split": ""})})
    with pytest.raises(ConfigError, match=r"predict\.split is 'test', which the dataset does not have here"):
        predict.predict_dataset(without, workdir)


def test_csv_of_another_split_beside_it(predicted):
    config, workdir = predicted
    section = config.predict.model_copy(update={"split": "validation", "format": "csv"})
    predict.predict_dataset(config.model_copy(update={"predict": section}), workdir)
    paths = sorted((workdir / "predictions").glob("*.csv"))
    assert [path.name for path in paths] == ["validation-00000-of-00002.csv", "validation-00001-of-00002.csv"]
    rows = [row for path in paths for row in csv.DictReader(path.read_text().splitlines())]
    assert [int(row["index"]) for row in rows] == list(range(15))
    assert json.loads((workdir / "predictions" / "validation.json").read_text())["images"] == 15
