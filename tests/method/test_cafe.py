"""CAFE: its mask and losses by hand and against plain PyTorch, what it refuses, and a run from training to export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import METHODS
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.export import check, programs, whole
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method import losses
from mpafer_jax.method.cafe import CafeMask
from mpafer_jax.method.model import variables
from mpafer_jax.method.prompts import ChannelMask
from mpafer_jax.runtime.errors import ConfigError
from tests import needs, tiny
from tests.jobs import runs

SPEC = clip_lib.CLIP(tiny.CLIP).spec


def test_a_mask_by_hand():
    patches = jnp.array([[[3.0, 4.0], [0.0, -2.0]]])  # scaled: sqrt(2) (0.6, 0.8) and sqrt(2) (0, -1)
    mask = ChannelMask(jnp.array([[1.0], [1.0]]), jnp.array([0.5]), jnp.array([[2.0, -1.0]]), jnp.array([0.0, 1.0]))
    hidden = (1.4 * np.sqrt(2) + 0.5) / 2  # the second patch's is below 0
    expected = 1 / (1 + np.exp([-2 * hidden, hidden - 1]))
    np.testing.assert_allclose(mask(patches), [expected], rtol=1e-5)


def test_channels_by_hand():
    features = jnp.array([[1.0, 2.0, -3.0, -1.0, 9.0]])  # two classes of two channels, one left over
    np.testing.assert_array_equal(losses.channels_of_classes(features, 2), [[[1, 2], [-3, -1]]])
    np.testing.assert_allclose(losses.channel_diversity(features, 2), [1 - (2 - 1) / 2 / 2], rtol=1e-6)
    targets = jnp.array([[1.0, 0.0]])
    separation = losses.channel_separation(features, targets, jnp.ones((2, 2)))
    np.testing.assert_allclose(separation, [np.log1p(np.exp(-1 - 2))], rtol=1e-5)
    dropped = losses.channel_separation(features, targets, jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(dropped, [np.log1p(np.exp(0 - 1))], rtol=1e-5)  # what is dropped counts as 0


def test_each_step_keeps_other_channels_and_as_many_of_every_class():
    first, again, second = (losses.kept_channels(jnp.int32(step), 7, 73) for step in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second)
    assert np.any(first[0] != first[1])
    np.testing.assert_array_equal(first.sum(axis=1), [63] * 7)
    assert set(np.unique(first)) == {0, 1}
    assert np.all(sum(losses.kept_channels(jnp.int32(step), 2, 6) for step in range(30)) < 30)  # each is dropped once


@pytest.mark.torch
def test_losses_and_gradients_are_those_of_plain_pytorch():
    torch = needs.module("torch")
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(6, 37)).astype(np.float32), rng.integers(0, 5, 6)
    kept = np.array(losses.kept_channels(jnp.int32(0), 5, 7))
    targets = np.eye(5, dtype=np.float32)[labels]

    def ours(features):
        values = 1.5 * losses.channel_separation(features, targets, kept) + 5 * losses.channel_diversity(features, 5)
        return jnp.mean(values)

    leaf = torch.tensor(features, requires_grad=True)
    pool = torch.nn.MaxPool1d(7)
    largest = pool(leaf[:, None, :])[:, 0]
    left = pool((leaf[:, :35] * torch.tensor(kept.reshape(-1)))[:, None, :])[:, 0]
    separation = torch.nn.functional.cross_entropy(left, torch.tensor(labels))
    theirs = 1.5 * separation + 5 * (1 - largest.mean() / 7)
    theirs.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(features))
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-6)


def test_only_the_image_feature_is_masked():
    model = tiny.model(learner=CafeMask(20, 8, ""), local_weight=0.0)
    params, clip = model.learner.initial_params(0), tiny.clip_params()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    prompts, texts = model.learner.prompts(params), jnp.eye(3, 20)
    logits, out = model.apply(variables(clip, {}), images, texts, prompts=prompts, method="classify")
    frozen = model.apply(variables(clip, {}), images, method="encode_image_frozen")
    np.testing.assert_allclose(out["image_features"], frozen * prompts.mask(out["patch_features"]), rtol=1e-5)
    patches = model.apply(variables(clip, {}), images, method="encode_patches_frozen")
    np.testing.assert_array_equal(out["patch_features"], patches)
    expected = model.apply(variables(clip, {}), out["image_features"], texts, method="classify_frozen")
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"ctx.class_specific": True}, {"visual_prompts.num_prompts": 2}])
def test_prompts_beside_the_mask_are_refused(sample, changes):
    config = runs.config(sample, **{**METHODS["cafe"], **changes})
    with pytest.raises(ConfigError, match="'cafe' has a mask in place of prompts"):
        CafeMask.configured(ModelSections.model_construct(**dict(config)), SPEC, 3)


@pytest.mark.training
def test_a_run_from_training_to_export(sample, tmp_path):
    changes = {**METHODS["cafe"], "train.num_steps": 3, "train.log_every": 1, "optimizer.warmup_steps": 0}
    workdir = tmp_path / "run"
    summary = train.train_and_evaluate(runs.config(sample, **changes), workdir)
    size = summary["trained_parameters"]["mask_out_bias"]
    sizes = {"mask_in": size * 64, "mask_in_bias": 64, "mask_out": 64 * size, "mask_out_bias": size}
    assert summary["trained_parameters"] == sizes
    for line in (line for line in runs.metrics(workdir) if line["kind"] == "train"):
        expected = line["cross_entropy"] + 1.5 * line["channel_separation"] + 5 * line["channel_diversity"]
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
    result = evaluate.evaluate_checkpoint(runs.config(sample, **{"eval.checkpoint": str(workdir)}), tmp_path / "again")
    assert result["test"] == summary["best"]["test"]
    predictor = Predictor.from_checkpoint(workdir, batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    whole.export(str(workdir), ("stablehlo",), tmp_path / "out")
    logits = programs.load_stablehlo(tmp_path / "out")(pixels)["logits"]
    np.testing.assert_allclose(logits, predictor.logits(pixels), rtol=1e-3, atol=1e-3)
    files = sorted((sample / "faces" / "test").glob("*/*.png"))[:2]
    for found in Explainer(predictor).explain(list(predictor.stream(files, keep_pixels=True))):
        assert np.all(np.isfinite(found.rollout))
