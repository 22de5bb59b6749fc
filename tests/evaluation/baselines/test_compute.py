"""Features on several devices, and all baselines in a run."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.data import pipeline
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import table
from mpafer_jax.evaluation.baselines import BASELINES, adapters, compute, majority
from mpafer_jax.evaluation.baselines.registry import Context, baseline
from mpafer_jax.jobs import train
from mpafer_jax.method import build
from mpafer_jax.method.features import encode_splits
from mpafer_jax.method.model import global_local_logits, variables
from mpafer_jax.method.prompts import PromptLearner
from mpafer_jax.runtime.errors import ConfigError, PromptError
from tests.jobs import runs

pytestmark = pytest.mark.training

EVERY = tuple(BASELINES)


@pytest.fixture(scope="module")
def prepared(sample):
    config = runs.config(sample)
    dataset = load_dataset(config.data)
    return (
        config,
        dataset,
        build.build_experiment(config, dataset.class_names, build.load_frozen_clip(config)),
    )


@pytest.fixture(scope="session")
def finished(sample, shared):
    """A run with every baseline: (workdir, summary)."""
    config = runs.config(sample, **{"eval.baselines": EVERY})
    workdir = shared("every_baseline", lambda out: train.train_and_evaluate(config, out))
    return workdir, runs.summary(workdir)


def directly(prepared, split, method):
    """The frozen tower on all images of a split at once, on one device."""
    config, _, built = prepared
    (batch,) = pipeline.eval_batches(split, section=config.data, image_size=built.image_size, batch_size=len(split))
    images = normalize_images(jnp.asarray(batch["image"]), config.data.mean, config.data.std)
    clip = jax.device_put(jax.tree.map(np.asarray, built.frozen.backbone), jax.devices()[0])
    bare = built.with_learner(PromptLearner()).model
    return bare.apply(variables(clip, {}), images, method=method)


@pytest.mark.devices
def test_features_on_several_devices_are_those_of_one(prepared):
    """25 and 15 images in batches of 16: every batch is split over the devices, the last ones are filled up."""
    config, dataset, built = prepared
    assert jax.local_device_count() > 1
    found = encode_splits(config, built, [dataset.validation, dataset.test])
    assert {name: len(split) for name, split in found.items()} == {"validation": 15, "test": 25}
    for split in (dataset.validation, dataset.test):
        expected = directly(prepared, split, "encode_image_frozen")
        assert np.std(expected, axis=0).min() > 1e-4  # rows differ, so that an exchange would show
        np.testing.assert_allclose(found[split.name].image_features, expected, rtol=2e-3, atol=2e-5)
        np.testing.assert_array_equal(found[split.name].labels, split.labels)


def test_every_baseline_is_in_the_summary_and_in_the_table(finished):
    workdir, summary = finished
    assert set(summary["baselines"]) == set(EVERY)
    for entry in summary["baselines"].values():
        for split in ("validation", "test"):
            assert set(entry[split]) == {"war", "uar", "macro_f1"}
    table = (workdir / "results.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 1 + len(EVERY) + 2
    assert rows[0] == "chance"
    assert rows[-1].startswith("MPA-FER, best on validation")
    best = summary["best"]["test"]
    assert f"{100 * best['war']:.2f} | {100 * best['uar']:>6.2f} |" in table


def test_what_each_says(finished, prepared):
    found = finished[1]["baselines"]
    _, dataset, _ = prepared
    assert found["majority"]["test"] == pytest.approx({"war": 0.2, "uar": 0.2, "macro_f1": 2 * 5 / (5 + 25) / 5})
    assert found["text_context"]["step"] in (4, 8, 12)
    assert found["zero_shot_type1"]["texts"]["anger"] == ["a photo of anger"]
    assert found["zero_shot_permuted"]["texts"] != found["zero_shot_type3"]["texts"]
    assert found["linear_probe"]["l2"] > 0
    for name in ("tip_adapter", "tip_adapter_f"):
        assert found[name]["alpha"] in adapters.ALPHAS
        assert found[name]["beta"] in adapters.BETAS
    assert found["clip_adapter"]["ratio"] in adapters.RATIOS
    assert len(dataset.test) == 25


def scores(predicted, labels) -> dict[str, float]:
    """WAR, UAR and macro F1 by their definitions."""
    kinds = np.unique(labels)
    hits = np.array([np.sum((predicted == kind) & (labels == kind)) for kind in kinds])
    said, true = (np.array([np.sum(values == kind) for kind in kinds]) for values in (predicted, labels))
    return {"war": hits.sum() / len(labels), "uar": np.mean(hits / true), "macro_f1": np.mean(2 * hits / (said + true))}


def test_zero_shot_scores_equal_an_independent_computation(finished, prepared):
    _, dataset, built = prepared
    split = dataset.test
    texts = np.asarray(built.frozen.hard_text_features[0])  # the configuration's hard prompts are of type 3
    features = np.asarray(directly(prepared, split, "encode_image_frozen"))
    cosine = features @ texts.T / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    found = finished[1]["baselines"]
    assert found["zero_shot_type3"]["test"] == pytest.approx(scores(cosine.argmax(1), split.labels))
    assert found["zero_shot_type3"]["test"] != found["zero_shot_type2"]["test"]  # other texts would show

    config = prepared[0]
    out = directly_with_patches(prepared, split)
    logits, _ = global_local_logits(
        out["image_features"],
        out["patch_features"],
        jnp.asarray(texts),
        logit_scale=1.0,
        top_k=config.head.top_k,
        local_weight=1.0,
    )
    assert found["zero_shot_global_local"]["test"] == pytest.approx(scores(np.argmax(logits, 1), split.labels))


def directly_with_patches(prepared, split):
    def both(module, images):
        return module.backbone.encode_image(images)[1]

    return directly(prepared, split, both)


def test_a_finished_run_can_be_measured_against_more(finished, sample, tmp_path):
    """What is measured beside a run does not change it, so its folder is not refused."""
    workdir, before = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    after = train.train_and_evaluate(runs.config(sample, **{"eval.baselines": ("majority",)}), workdir)
    assert set(after["baselines"]) == {"majority"}
    assert after["last"] == before["last"]
    assert after["process"] == before["process"]  # no step was made, so training took what it took


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"names linear_probe, whose penalty .*no validation split; set data.validation_split"),
        ({"data.test_split": ""}, r"names linear_probe, but there is neither a validation nor a test split"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_training(sample, tmp_path, changes, message):
    changes = {**changes, "eval.baselines": ("linear_probe",), "data.validation_fraction": 0.0}
    with pytest.raises(ConfigError, match=message):
        train.train_and_evaluate(runs.config(sample, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_without_description_is_refused_before_training(prepared):
    config, dataset, _ = prepared
    eval_section = config.eval.model_copy(update={"baselines": ("zero_shot_permuted",)})
    unknown = dataclasses.replace(dataset, class_names=("anger", "boredom"))
    with pytest.raises(PromptError, match="no class 'boredom'"):
        compute.check(config.model_copy(update={"eval": eval_section}), unknown)


def test_majority_follows_train(prepared):
    config, dataset, experiment = prepared
    few = dataset.train.take(np.flatnonzero(dataset.train.labels == 3))
    one_class = dataclasses.replace(dataset, train=few, validation=None)
    measured, _ = majority.compute(Context(config, one_class, experiment, 1, {}))
    found = measured["test"]
    assert [row[3] for row in found.confusion] == [5, 5, 5, 5, 5]
    assert found.recall["sadness"] == 1


def test_none_by_default(prepared):
    config, dataset, built = prepared
    assert compute.compute(config, dataset, built, 12) == {}


def test_a_baseline_named_twice_or_unknown_is_refused(sample):
    with pytest.raises(ConfigError, match="baselines holds a name twice"):
        runs.config(sample, **{"eval.baselines": ("majority", "majority")})
    misspelt = runs.config(sample, **{"eval.baselines": ("majorty",)})
    with pytest.raises(ConfigError, match=r"eval.baselines names 'majorty'; did you mean majority\?; known are maj"):
        train.check_names(misspelt)


def test_a_new_baseline_is_a_function(prepared):
    config, dataset, experiment = prepared

    @baseline("last_class", "always the last class")
    def last_class(context):
        return context.measure(lambda split: np.eye(5, dtype=np.float32)[np.full(len(split), 4)]), {"always": 4}

    try:
        config = config.model_copy(update={"eval": config.eval.model_copy(update={"baselines": ("last_class",)})})
        train.check_names(config)
        compute.check(config, dataset)
        found = compute.compute(config, dataset, experiment, 12)["last_class"]
        summary = {"class_names": list("abcde"), "baselines": {"last_class": found}}
        assert [row.title for row in table.rows(summary, "test")] == ["chance", "always the last class"]
        with pytest.raises(ValueError, match="there is a baseline 'last_class' already"):
            baseline("last_class", "")(last_class)
    finally:
        del BASELINES["last_class"]
    assert found["always"] == 4
    assert found["test"]["war"] == found["validation"]["war"] == pytest.approx(0.2)
