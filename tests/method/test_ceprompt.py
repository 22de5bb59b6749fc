"""CEPrompt's second stage: logits by hand, loss against plain PyTorch, and a run. Towers: test_maple_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import METHODS
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.export import check
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method import losses
from mpafer_jax.method.model import global_local_logits
from tests import needs
from tests.jobs import runs


def test_normalised_scores_by_hand():
    image = jnp.array([[3.0, 4.0]])  # cosines .6 and .8, of length 1
    patches = jnp.array([[[1.0, 0.0], [0.0, 5.0], [3.0, 4.0]]])  # two best: .8 with (1, 0), .9 with (0, 1)
    options = {"top_k": 2, "normalize_scores": True}
    logits, out = global_local_logits(image, patches, jnp.eye(2), logit_scale=0.5, local_weight=1.0, **options)
    local = np.array([0.8, 0.9]) / np.hypot(0.8, 0.9)
    np.testing.assert_allclose(logits, [(np.array([0.6, 0.8]) + local) / 2], rtol=1e-6)
    np.testing.assert_allclose(out["local_scores"], [[0.8, 0.9]], rtol=1e-6)
    texts = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    logits, _ = global_local_logits(image, patches, texts, logit_scale=1.0, local_weight=0.0, **options)
    np.testing.assert_allclose(logits, [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


@pytest.mark.torch
def test_loss_and_gradients_are_those_of_plain_pytorch():
    """alpha S_local + (1 - alpha) S_global with alpha 0.3, which is a local weight of 3 / 7."""
    torch = needs.module("torch")
    rng = np.random.default_rng(0)
    shapes = {"image": (4, 6), "patches": (4, 9, 6), "texts": (3, 6)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    labels = rng.integers(0, 3, 4)

    def ours(image, patches, texts):
        weights = {"local_weight": 3 / 7, "logit_scale": 0.7}
        logits, _ = global_local_logits(image, patches, texts, top_k=4, normalize_scores=True, **weights)
        return jnp.mean(losses.cross_entropy(logits, jax.nn.one_hot(labels, 3)))

    leaves = [torch.tensor(value, requires_grad=True) for value in values.values()]
    unit = torch.nn.functional.normalize
    image, patches, texts = (unit(leaf, dim=-1) for leaf in leaves)
    similarity = torch.einsum("bnd,cd->bnc", patches, texts)
    local = unit(torch.sort(similarity, dim=1, descending=True).values[:, :4].mean(dim=1), dim=1)
    score = 0.3 * local + 0.7 * unit(image @ texts.T, dim=1)
    theirs = torch.nn.functional.cross_entropy(score, torch.tensor(labels))
    theirs.backward()
    value, gradients = jax.value_and_grad(ours, argnums=(0, 1, 2))(*values.values())
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.training
def test_a_run_and_its_checkpoint(sample, tmp_path):
    changes = {**METHODS["ceprompt"], "train.num_steps": 3, "train.log_every": 1, "optimizer.warmup_steps": 0}
    workdir = tmp_path / "run"
    summary = train.train_and_evaluate(runs.config(sample, **changes), workdir)
    assert summary["trained_parameters"].keys() == {"text_prompts", "coupling", "coupling_bias"}
    for line in (line for line in runs.metrics(workdir) if line["kind"] == "train"):
        assert line["loss"] == line["cross_entropy"]
    result = evaluate.evaluate_checkpoint(runs.config(sample, **{"eval.checkpoint": str(workdir)}), tmp_path / "again")
    assert result["test"] == summary["best"]["test"]
    predictor = Predictor.from_checkpoint(workdir, batch_sizes=(5,))
    lengths = np.linalg.norm(predictor.logits(check.drawn_faces(5, predictor.image_size)), axis=-1)
    assert np.all((lengths > 0) & (lengths <= 1 + 1e-6))  # a mean of two vectors of length 1
