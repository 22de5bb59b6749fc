"""`--mode=eval`: all of a dataset, or nothing to evaluate; what comes from the checkpoint and what from the config.

Classes matched by name: see test_command.py.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.evaluation.baselines import feature_files
from mpafer_jax.jobs import evaluate, predict, train
from mpafer_jax.jobs.studies import cross_dataset
from mpafer_jax.jobs.studies.motion_sheet import write_motion_sheet
from mpafer_jax.jobs.studies.prompt_report import make_report
from mpafer_jax.runtime.errors import CheckpointError, ConfigError
from tests.jobs import runs

SHORT = {"train.num_steps": 1, "optimizer.warmup_steps": 0}


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train.train_and_evaluate(runs.config(sample, **SHORT), workdir)
    return workdir


def evaluation(sample, trained, tmp_path, **changes):
    config = runs.config(sample, **{"eval.checkpoint": str(trained), **changes})
    return evaluate.evaluate_checkpoint(config, tmp_path / "evaluated")


def test_the_clip_is_the_one_that_the_checkpoint_names_unless_another_place_is_given(sample, trained, tmp_path, caplog):
    usual = {"clip.name": "tiny-face-clip", "eval.checkpoint": str(trained)}  # another CLIP, the configuration's usual
    config = runs.config(sample, **usual)
    with caplog.at_level("INFO"):
        result = evaluate.evaluate_checkpoint(config, tmp_path / "evaluated")
    assert result["clip"]["name"] == str(sample / "clip")
    assert f"CLIP: {sample / 'clip'}, as the checkpoint says" in caplog.text

    shutil.copytree(sample / "clip", tmp_path / "moved")
    moved = evaluate.evaluate_checkpoint(config, tmp_path / "evaluated", clip=str(tmp_path / "moved"))
    assert moved["clip"] == {**result["clip"], "name": str(tmp_path / "moved")}
    assert moved["test"] == result["test"]
    with pytest.raises(CheckpointError, match=r"but tiny-face-clip, hash .*, was loaded"):
        evaluate.evaluate_checkpoint(config, tmp_path / "evaluated", clip="tiny-face-clip")

    train.train_and_evaluate(runs.config(sample, **SHORT, **{"clip.name": str(tmp_path / "moved")}), tmp_path / "run")
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"was trained on the CLIP '.*moved': [\s\S]*--config\.clip\.name="):
        evaluation(sample, tmp_path / "run", tmp_path)
    with pytest.raises(ConfigError, match=r"config\.clip\.name is '/no/such'"):
        evaluate.evaluate_checkpoint(config, tmp_path / "evaluated", clip="/no/such")


def test_mistakes_show_before_data_are_prepared(sample, trained, tmp_path):
    """None of these has data; what is said is what else is wrong."""
    nowhere = {"data.dir": "/nowhere"}
    for changes, message in (
        ({"clip.name": "/no/such/clip"}, r"config\.clip\.name is '/no/such/clip'"),
        ({"head.top_k": 65}, r"top_k is 65, this CLIP has 64 patches"),
        ({"data.mean": (0.5, 0.5, 0.5)}, "was trained with"),
        ({"hard_prompts.bank": ("poems",)}, "hard_prompts.bank 'poems' is neither"),
        ({"hard_prompts.type": 1, "eval.baselines": ("zero_shot_type3",), "hard_prompts.bank": ("poems",)}, "'poems'"),
        ({"visual_prompts.layers": (4,)}, r"must ascend within 1\.\.3"),
        ({"train.warm_start": "/no/such/run"}, "no checkpoint at /no/such/run"),
        ({"optimizer.warmup_steps": 12}, r"warmup_steps is 12, which must be less"),
        ({"optimizer.lr_scales": (("ctx", 1.0),)}, r"matches the parameter 'visual_prompts'"),
        ({"train.batch_size": 15}, r"train\.batch_size is 15"),
        ({"eval.batch_size": 15}, r"eval\.batch_size is 15"),
    ):
        with pytest.raises(ValueError, match=message):  # the base of all of these errors
            train.train_and_evaluate(runs.config(sample, **nowhere, **changes), tmp_path / "run")
    for changes, clip, message in (
        ({"eval.checkpoint": "/no/such/run"}, "", "no checkpoint at /no/such/run"),
        ({"eval.checkpoint": str(trained)}, "/no/such/clip", "CLIP '/no/such/clip': there is no such folder"),
        ({"eval.checkpoint": str(trained), "eval.batch_size": 15}, "", r"eval\.batch_size is 15"),
    ):
        config = runs.config(sample, **nowhere, **changes)
        for job in (evaluate.evaluate_checkpoint, predict.predict_dataset):
            with pytest.raises(ValueError, match=message):
                job(config, tmp_path / "evaluated", clip=clip)
    absent = runs.config(sample, **nowhere, **{"clip.name": "/no/such/clip"})
    for job in (
        lambda: write_motion_sheet(absent, tmp_path / "sheet.png"),
        lambda: make_report(absent, "test"),
        lambda: feature_files.write(absent, ["test"], tmp_path),
    ):
        with pytest.raises(ConfigError, match=r"config\.clip\.name is '/no/such/clip'"):
            job()


def test_all_images_of_a_dataset_without_splits(sample, trained, tmp_path):
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
    of_an_earlier_evaluation = tmp_path / "evaluated" / "evaluation_predictions.npz"
    of_an_earlier_evaluation.parent.mkdir()
    of_an_earlier_evaluation.touch()
    result = evaluation(sample, trained, tmp_path, **{"data.dir": str(tmp_path / "other"), "data.train_splits": ()})
    assert result["test"]["count"] == 25
    assert not of_an_earlier_evaluation.exists()


def test_nothing_to_evaluate_is_an_error(sample, trained, tmp_path):
    nothing = {"data.test_split": "", "data.validation_fraction": 0.0}
    with pytest.raises(ConfigError, match=r"nothing to evaluate: .*--config.data.train_splits='\(\)'"):
        evaluation(sample, trained, tmp_path, **nothing)


def test_no_class_in_common_is_an_error_that_lists_both(sample, trained, tmp_path):
    shutil.copytree(sample / "faces" / "test" / "anger", tmp_path / "flat" / "boredom")
    changes = {"data.dir": str(tmp_path / "flat"), "data.train_splits": (), "data.test_split": "train"}
    with pytest.raises(ConfigError, match=r"nothing to evaluate in test: its classes are boredom, .* anger, happiness"):
        evaluation(sample, trained, tmp_path, **changes)


@pytest.mark.training
def test_the_model_comes_from_the_checkpoint_alone(sample, tmp_path):
    """Another head, other prompts, hard prompts in two groups, and a description bank that is gone by then."""
    content = {"name": "mine", "source": "me", "question": "how?"}
    names = ("anger", "happiness", "neutral", "sadness", "surprise")
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({**content, "classes": {name: f"{name} eyes" for name in names}}))
    groups = {"bank": (str(bank),), "granularity": ("template", "holistic"), "combine": "separate"}
    model = {f"hard_prompts.{name}": value for name, value in groups.items()}
    model |= {"head.top_k": 3, "ctx.num_ctx": 4, "visual_prompts.layers": (2,)}
    summary = train.train_and_evaluate(runs.config(sample, **SHORT, **model), tmp_path / "run")
    bank.unlink()
    _, description, _ = checkpoints.load(tmp_path / "run", "last")
    template = "a photo of a person making a facial expression of anger"
    assert description.hard_prompts.of_class(0) == (template, f"{template}, with anger eyes")
    assert [group.name for group in description.hard_prompts.groups] == ["template", "holistic"]
    result = evaluation(sample, tmp_path / "run", tmp_path)
    assert result["test"] == summary["last"]["test"]


@pytest.mark.training
def test_images_are_normalised_as_the_checkpoint_was_trained(sample, tmp_path):
    """On a CLIP that does not say how, under a configuration that says otherwise; in a matrix too."""
    shutil.copytree(sample / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    usual = {"clip.name": str(tmp_path / "clip")}
    own = {**usual, "data.mean": (0.3, 0.5, 0.6), "data.std": (0.2, 0.3, 0.5)}
    summary = train.train_and_evaluate(runs.config(sample, **SHORT, **own), tmp_path / "run")
    expected = summary["last"]["test"]
    assert evaluation(sample, tmp_path / "run", tmp_path, **usual)["test"] == expected

    row = cross_dataset.Trained.load("run", "run", str(tmp_path / "run"), "last")
    target = cross_dataset.Target.load("faces", runs.config(sample, **usual))
    matrix = cross_dataset.Matrix(tmp_path / "matrix", "common")
    cell = matrix.cell(row, target)
    assert {field: cell[field] for field in expected} == expected
    # The same prompts under another normalisation are another cell.
    data = {**row.description.config["data"], "mean": [0.5, 0.5, 0.5]}
    other = row.description.model_copy(update={"config": {**row.description.config, "data": data}})
    assert matrix.cell(dataclasses.replace(row, description=other), target)["cross_entropy"] != cell["cross_entropy"]


def test_a_description_of_another_version(sample, trained):
    config = runs.config(sample, **SHORT)
    _, description, _ = checkpoints.load(trained, "last")

    def with_config(**sections):
        return description.model_copy(update={"config": {**description.config, **sections}})

    # A field that no longer is, or was not yet, in a section that makes no difference to the logits.
    assert with_config(train={"epochs": 3}, later={}).applied_to(config) == config
    # What the sections that do were before fields joined them.
    joined = {"residual_dtype", "init_text", "motion_prior", "motion_strength"}
    before = {
        section: {name: value for name, value in description.config[section].items() if name not in joined}
        for section in ("clip", "ctx", "head")
    }
    assert sum(map(len, before.values())) + len(joined) == sum(len(description.config[name]) for name in before)
    assert with_config(**before).applied_to(config) == config
    with pytest.raises(CheckpointError, match=r"made by mpafer-jax 0[\s\S]*config\.head\.k: Extra"):
        with_config(head={**description.config["head"], "k": 3}).applied_to(config)
