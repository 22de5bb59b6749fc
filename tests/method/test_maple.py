"""MaPLe: what it refuses, and a run with it from training to export. Parity with PyTorch: test_maple_parity.py."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import METHODS
from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.attribution import Explainer, rollout
from mpafer_jax.inference.export import check, onnx, programs, whole
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method.maple import MaplePrompts
from mpafer_jax.runtime.errors import ConfigError
from tests import tiny
from tests.jobs import runs

SPEC = clip_lib.CLIP(tiny.CLIP).spec


def learner() -> MaplePrompts:
    return MaplePrompts(SPEC.text, SPEC.vision, 2, 2, 0.02, "a photo of a", True)


def test_the_first_words_make_room_and_the_others_stay():
    known = {
        f"a photo of a {name}.": [98, 1, 2, 3, 1, *ids]
        for name, ids in (("joy", [7, 8, 99]), ("big joy", [9, 7, 8, 99]))
    }
    texts = learner().texts(["joy", "big joy"], known.__getitem__, tiny.TOKENS)
    np.testing.assert_array_equal(texts.ids, [[98, 0, 0, 3, 1, 7, 8, 99, 0], [98, 0, 0, 3, 1, 9, 7, 8, 99]])
    np.testing.assert_array_equal(texts.ends, [7, 8])
    started = learner().start({"text_prompts": jnp.zeros((2, 2, 24))}, lambda text: jnp.arange(4 * 24.0).reshape(4, 24))
    np.testing.assert_array_equal(started["text_prompts"][0], np.arange(48.0).reshape(2, 24))
    np.testing.assert_array_equal(started["text_prompts"][1], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctx.class_specific": True}, "set ctx.class_specific to False"),
        ({"visual_prompts.num_prompts": 3}, "num_prompts, found 3, to ctx.num_ctx, 2"),
        ({"visual_prompts.layers": (2, 3)}, r"up to 2 at most .*found \(2, 3\)"),
        ({"visual_prompts.layers": (1, 2, 3)}, "up to 2 at most"),
    ],
)
def test_what_does_not_couple_is_refused(sample, changes, message):
    config = runs.config(sample, **{**METHODS["maple"], **changes})
    with pytest.raises(ConfigError, match=message):
        MaplePrompts.configured(ModelSections.model_construct(**dict(config)), SPEC, 3)


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    """A run of three steps: (workdir, configuration's changes, summary)."""
    changes = {**METHODS["maple"], "train.num_steps": 3, "optimizer.warmup_steps": 0, "head.local_weight": 1.0}
    workdir = tmp_path_factory.mktemp("maple")
    return workdir, changes, train.train_and_evaluate(runs.config(sample, **changes), workdir)


def started(sample, workdir, changes):
    """(what is prepared, the first state) of a run that is not trained."""
    run = train.prepare(runs.config(sample, **changes), workdir)
    with contextlib.closing(Checkpoints(workdir, keep=1, select_by="war")) as store:
        return run, train.start(run, store)


@pytest.mark.training
def test_training_moves_all_of_its_parameters_and_a_run_starts_from_another(run, sample, tmp_path):
    workdir, changes, summary = run
    assert summary["trained_parameters"] == {
        "coupling": 3 * 64 * 64,
        "coupling_bias": 3 * 64,
        "text_prompts": 3 * 2 * 64,
    }
    again, state = started(sample, tmp_path, {**changes, "train.warm_start": str(workdir), "eval.which": "last"})
    for name, value in checkpoints.load(workdir, "last")[0].items():
        moved = value != again.fresh_prompts[name]
        assert np.all(np.any(moved, axis=tuple(range(1, value.ndim)))), name  # in each layer
        np.testing.assert_array_equal(state.params[name], value)


@pytest.mark.training
def test_a_checkpoint_of_other_prompts_is_refused(finished, run, sample, tmp_path):
    with pytest.raises(ConfigError, match=r"holds ctx, visual_prompts, and this run trains .*text_prompts"):
        started(sample, tmp_path, {**run[1], "train.warm_start": str(finished[0])})


@pytest.mark.training
def test_evaluation_prediction_and_explanation_agree(run, sample, tmp_path):
    workdir, _, summary = run
    result = evaluate.evaluate_checkpoint(runs.config(sample, **{"eval.checkpoint": str(workdir)}), tmp_path)
    assert result["test"] == summary["best"]["test"]
    files = sorted((sample / "faces" / "test").glob("*/*.png"))
    predictor = Predictor.from_checkpoint(workdir, batch_sizes=(25,))
    predictions = list(predictor.stream(files, keep_pixels=True))
    right = [found.expression == found.source.file.split("/")[-2] for found in predictions]
    assert np.mean(right) == pytest.approx(summary["best"]["test"]["war"])
    for found in Explainer(predictor).explain(predictions[:2]):
        assert found.rollout.shape == (8, 8)
        assert 0 < found.rollout.sum() + found.prompt_share < 1
        assert found.prompt_share > 0


@pytest.mark.training
@pytest.mark.parametrize("form", ["prompts", "stablehlo", pytest.param("onnx", marks=pytest.mark.onnx)])
def test_an_export_says_what_the_predictor_says(run, sample, tmp_path, form):
    predictor = Predictor.from_checkpoint(run[0], batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    whole.export(str(run[0]), (form,), tmp_path / "out")
    if form == "prompts":
        again = Predictor.from_checkpoint(tmp_path / "out", batch_sizes=(5,), clip=str(sample / "clip"))
        np.testing.assert_array_equal(again.logits(pixels), predictor.logits(pixels))
        return
    loaded = (programs.load_stablehlo if form == "stablehlo" else onnx.load_onnx)(tmp_path / "out")
    np.testing.assert_allclose(loaded(pixels)["logits"], predictor.logits(pixels), rtol=1e-3, atol=1e-3)


def test_rollout_follows_prompts_in_sequence_until_they_are_replaced():
    """Two layers, one patch, one prompt, fresh at the first layer alone; by hand."""
    first = [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.6, 0.2]]
    second = [[0.6, 0.1, 0.3], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]]
    attention = jnp.array([first, second])
    shares, prompt_share = rollout(attention[:, None], 1, jnp.array([True, False]))
    first, second = (0.5 * np.eye(3) + 0.5 * np.asarray(layer) for layer in attention)
    expected = (second @ first)[0]
    np.testing.assert_allclose(shares, [[expected[1]]], rtol=1e-6)
    np.testing.assert_allclose(prompt_share, [expected[2]], rtol=1e-6)
