"""`--mode=eval`: all of a dataset, or nothing to evaluate. Classes matched by name: see test_command.py."""

import shutil

import numpy as np
import pytest

from mpafer_jax import evaluate, train
from mpafer_jax.config import ConfigError
from tests.end_to_end import runs

SHORT = {"train.num_steps": 1, "optimizer.warmup_steps": 0}


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train.train_and_evaluate(runs.config(sample, **SHORT), workdir)
    return workdir


def evaluation(sample, trained, tmp_path, **changes):
    config = runs.config(sample, **{"eval.checkpoint": str(trained), **changes})
    return evaluate.evaluate_checkpoint(config, tmp_path / "evaluated")


def test_all_pictures_of_a_dataset_without_splits(sample, trained, tmp_path):
    shutil.copytree(sample / "faces" / "test", tmp_path / "flat")
    everything = {"data.dir": str(tmp_path / "flat"), "data.train_splits": (), "data.test_split": "train"}
    result = evaluation(sample, trained, tmp_path, **everything)
    assert "validation" not in result
    assert result["test"]["count"] == 25
    np.testing.assert_array_equal(np.sum(result["test"]["confusion"], axis=1), [5] * 5)
    with pytest.raises(ConfigError, match="train_splits is empty, so there is nothing to train on"):
        train.train_and_evaluate(runs.config(sample, **everything), tmp_path / "run")


def test_a_dataset_of_which_only_the_test_split_is_here(sample, trained, tmp_path):
    shutil.copytree(sample / "faces" / "test", tmp_path / "other" / "test")
    result = evaluation(sample, trained, tmp_path, **{"data.dir": str(tmp_path / "other"), "data.train_splits": ()})
    assert result["test"]["count"] == 25


def test_nothing_to_evaluate_is_an_error(sample, trained, tmp_path):
    nothing = {"data.test_split": "", "data.validation_fraction": 0.0}
    with pytest.raises(ConfigError, match=r"nothing to evaluate: .*--config.data.train_splits='\(\)'"):
        evaluation(sample, trained, tmp_path, **nothing)


def test_no_class_in_common_is_an_error_that_lists_both(sample, trained, tmp_path):
    shutil.copytree(sample / "faces" / "test" / "anger", tmp_path / "flat" / "boredom")
    changes = {"data.dir": str(tmp_path / "flat"), "data.train_splits": (), "data.test_split": "train"}
    with pytest.raises(ConfigError, match=r"nothing to evaluate in test: its classes are boredom, .* anger, happiness"):
        evaluation(sample, trained, tmp_path, **changes)
