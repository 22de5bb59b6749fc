"""`--mode=eval`: all of a dataset, or nothing to evaluate; what comes from the checkpoint and what from the config.

Classes matched by name: see test_command.py.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import feature_files
from mpafer_jax.jobs import after_run, evaluate, predict, train
from mpafer_jax.jobs.studies import cross_dataset
from mpafer_jax.jobs.studies.motion_sheet import write_motion_sheet
from mpafer_jax.jobs.studies.prompt_report import make_report
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, PromptError
from tests.jobs import runs


def evaluation(sample, checkpoint, tmp_path, *, clip="", given=(), **changes):
    config = runs.config(sample, **{"eval.checkpoint": str(checkpoint), **changes})
    return evaluate.evaluate_checkpoint(config, tmp_path / "evaluated", clip=clip, given=given)


def test_what_a_checkpoint_determines_cannot_be_set_otherwise(sample, finished, tmp_path):
    for name, value in (
        ("head.top_k", 1),
        ("data.mean", (0.1, 0.1, 0.1)),
        ("clip.activation", "gelu"),
        ("hard_prompts.type", 1),
        ("hard_prompts.bank", ("compound",)),
    ):
        changes = {name: value}
        evaluation(sample, finished[0], tmp_path, **changes)  # a configuration's usual one
        message = rf"config\.{name} is .*, but the checkpoint's .* is used, as it was trained so"
        with pytest.raises(ConfigError, match=message):
            evaluation(sample, finished[0], tmp_path, given=changes, **changes)
        config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), **changes})
        with pytest.raises(ConfigError, match=message):
            predict.predict_dataset(config, tmp_path / "predicted", given=changes)
    evaluation(sample, finished[0], tmp_path, given=("head.top_k", "loss.beta", "clip.name"))
    for name, value in (("clip.dtype", "bfloat16"), ("eval.classes", "common")):
        changes = {name: value}
        config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), **changes})
        with pytest.raises(ConfigError, match=rf"config\.{name} is '{value}', but --mode=predict always takes '"):
            predict.predict_dataset(config, tmp_path / "predicted", given=changes)
    bad = runs.call("train", *runs.command(sample, tmp_path / "new", **{"eval.checkpoint": str(finished[0])})[3:])
    assert (bad.code, (tmp_path / "new").exists()) == (2, False)
    assert "--config.eval.checkpoint does nothing without --mode=eval or --mode=predict" in bad.err


@pytest.mark.training
def test_the_descriptions_of_new_classes_are_from_the_evaluations_bank(sample, tmp_path):
    for name in ("boredom", "calm"):
        shutil.copytree(sample / "faces" / "test" / "anger", tmp_path / "other" / "test" / name)
    model = {"ctx.words": "hard_prompt", "ctx.init_text": "a photo of a", "ctx.num_ctx": 4}
    train.train_and_evaluate(runs.config(sample, **runs.SHORT, **model), tmp_path / "run")
    changes = {"data.dir": str(tmp_path / "other"), "data.train_splits": (), "eval.classes": "dataset"}
    with pytest.raises(PromptError, match=r"has no class 'boredom', 'calm'; .* in hard_prompts\.bank"):
        evaluation(sample, tmp_path / "run", tmp_path, **changes)

    bank = tmp_path / "bank.json"
    results = []
    for words in ("half-closed eyes", "raised brows and an open mouth"):
        classes = {"boredom": words, "calm": "a relaxed face"}
        bank.write_text(json.dumps({"name": "mine", "source": "me", "question": "how?", "classes": classes}))
        given = {"hard_prompts.bank": (str(bank),)}
        results.append(evaluation(sample, tmp_path / "run", tmp_path, given=given, **changes, **given)["test"])
    assert results[0]["count"] == 10
    assert results[0]["cross_entropy"] != results[1]["cross_entropy"]


def test_a_checkpoint_that_the_test_split_chose_is_shouted_in_its_evaluations_table(sample, finished, tmp_path):
    result = evaluation(sample, finished[0], tmp_path)
    assert protocol.TEST_SELECTED not in evaluate.table(result)
    assert f"**{protocol.TEST_SELECTED}**" in evaluate.table({**result, "chosen_on_test": True})


def test_the_clip_is_the_checkpoints_unless_another_place_is_given(sample, finished, tmp_path, caplog):
    usual = {"clip.name": "tiny-face-clip"}  # another CLIP, the configuration's usual
    with caplog.at_level("INFO"):
        result = evaluation(sample, finished[0], tmp_path, **usual)
    assert result["clip"]["name"] == str(sample / "clip")
    assert f"CLIP: {sample / 'clip'}, as the checkpoint says" in caplog.text
    shutil.copytree(sample / "clip", tmp_path / "moved")
    moved = evaluation(sample, finished[0], tmp_path, clip=str(tmp_path / "moved"), **usual)
    assert moved["clip"] == {**result["clip"], "name": str(tmp_path / "moved")}
    assert moved["test"] == result["test"]
    with pytest.raises(CheckpointError, match=r"but tiny-face-clip, hash .*, was loaded"):
        evaluation(sample, finished[0], tmp_path, clip="tiny-face-clip", **usual)
    with pytest.raises(ConfigError, match=r"config\.clip\.name is '/no/such'"):
        evaluation(sample, finished[0], tmp_path, clip="/no/such", **usual)


@pytest.mark.training
def test_the_model_comes_from_the_checkpoint_alone(sample, tmp_path):
    """Another head, other prompts, hard prompts in two groups, and a description bank that is gone by then.

    Images are normalised as it was trained, on a CLIP that does not say how; in a matrix too.
    """
    clip = shutil.copytree(sample / "clip", tmp_path / "clip")
    (clip / "preprocessor_config.json").unlink()
    usual = {"clip.name": str(clip)}
    content = {"name": "mine", "source": "me", "question": "how?"}
    names = ("anger", "happiness", "neutral", "sadness", "surprise")
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({**content, "classes": {name: f"{name} eyes" for name in names}}))
    model = {"hard_prompts.bank": (str(bank),), "hard_prompts.granularity": ("template", "holistic")}
    model |= {"hard_prompts.combine": "separate", "head.top_k": 3, "ctx.num_ctx": 4, "visual_prompts.layers": (2,)}
    model |= {"data.mean": (0.3, 0.5, 0.6), "data.std": (0.2, 0.3, 0.5)}
    summary = train.train_and_evaluate(runs.config(sample, **runs.SHORT, **usual, **model), tmp_path / "run")
    expected = summary["last"]["test"]
    bank.unlink()
    _, description, _ = checkpoints.load(tmp_path / "run", "last")
    template = "a photo of a person making a facial expression of anger"
    assert description.hard_prompts.of_class(0) == (template, f"{template}, with anger eyes")
    assert [group.name for group in description.hard_prompts.groups] == ["template", "holistic"]
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

    shutil.rmtree(clip)
    with pytest.raises(ConfigError, match=r"was trained on the CLIP '.*clip': [\s\S]*--config\.clip\.name="):
        evaluation(sample, tmp_path / "run", tmp_path)


def test_what_is_evaluated(sample, finished, tmp_path):
    """A dataset without splits, one of which only the test split is here, none, and one of other classes."""
    shutil.copytree(sample / "faces" / "test", tmp_path / "flat")
    shutil.copytree(sample / "faces" / "test", tmp_path / "other" / "test")
    for name in ("boredom", "calm"):
        shutil.copytree(sample / "faces" / "test" / "anger", tmp_path / "boring" / name)
    everything = {"data.train_splits": (), "data.test_split": "train"}
    of_an_earlier_evaluation = tmp_path / "evaluated" / "evaluation_predictions.npz"
    of_an_earlier_evaluation.parent.mkdir()
    of_an_earlier_evaluation.touch()
    for changes in (
        {"data.dir": str(tmp_path / "flat"), **everything},
        {"data.dir": str(tmp_path / "other"), "data.train_splits": ()},
    ):
        result = evaluation(sample, finished[0], tmp_path, **changes)
        assert "validation" not in result
        np.testing.assert_array_equal(np.sum(result["test"]["confusion"], axis=1), [5] * 5)
    assert not of_an_earlier_evaluation.exists()
    with pytest.raises(ConfigError, match="train_splits is empty, so there is nothing to train on"):
        train.train_and_evaluate(runs.config(sample, **everything), tmp_path / "run")
    for changes, message in (
        (
            {"data.test_split": "", "data.validation_fraction": 0.0},
            r"nothing to evaluate: .*--config.data.train_splits='\(\)'",
        ),
        (
            {"data.dir": str(tmp_path / "boring"), **everything},
            r"nothing to evaluate in test: its classes are boredom, calm, .* anger, happiness",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluation(sample, finished[0], tmp_path, **changes)


def test_a_confidence_is_of_the_checkpoints_classes_alone(sample, finished, tmp_path):
    """Among fewer classes its probabilities are others."""
    few = {"data.class_names": ("anger", "happiness", "sadness")}
    for classes, known in (("common", False), ("checkpoint", True)):
        result = evaluation(sample, finished[0], tmp_path, **few, **{"eval.classes": classes})
        assert result["test"]["count"] == 15
        assert ("confidence" in result) is known


def test_a_confidence_is_fitted_on_images_that_are_not_the_tests(sample):
    whole = load_dataset(runs.config(sample).data)
    nothing = whole.train.take(np.zeros(0, np.int64))
    for changes, fitted in (
        ({}, True),
        ({"test": None}, True),
        ({"validation": None}, False),
        ({"validation": whole.test}, False),  # as data.validation_split=test makes it
        ({"validation": nothing}, False),
        ({"train": nothing}, False),
    ):
        assert after_run.can_fit(dataclasses.replace(whole, **changes)) is fitted, changes


def test_a_checkpoint_that_training_has_deleted_meanwhile_gets_no_folder(finished, tmp_path, caplog):
    params, _, step = checkpoints.load(finished[0], "best")
    confidence = Confidence.load(checkpoints.folder(finished[0], step), params)
    (tmp_path / "step_6").mkdir()
    for name in ("step_4", "step_6"):
        after_run.leave_confidence(tmp_path / name, confidence, params)
    assert "step_4 is gone" in caplog.text
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "step_6",
        "step_6/confidence.npz",
    ]


def test_mistakes_show_before_data_are_prepared(sample, finished, tmp_path):
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
        (
            {"eval.checkpoint": str(finished[0])},
            "/no/such/clip",
            "there is no such file or folder",
        ),
        ({"eval.checkpoint": str(finished[0]), "eval.batch_size": 15}, "", r"eval\.batch_size is 15"),
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


def test_a_description_of_another_version(sample, finished):
    config = runs.config(sample)
    _, description, _ = checkpoints.load(finished[0], "last")

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
