"""One update: several devices equal one, each term alone too; the first stage; the limit of the scale."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.jobs.pretraining import steps
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny

TERMS = ("contrastive", "statements", "local_statements", "attributes")
ATTRIBUTES = 3
MODEL = CLIP(tiny.CLIP)
# A step of plain gradient descent, so that differences of the gradient stay what they are.
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))


def weights(*terms) -> steps.Weights:
    return steps.Weights(**{name: 0.5 + i if name in terms else 0.0 for i, name in enumerate(TERMS)})


def make_step(*terms, tx=TX):
    return steps.make_train_step(
        model=MODEL, tx=tx, weights=weights(*terms), top_k=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )


def first_state(tx=TX, **clip) -> TrainState:
    head = jax.tree.map(jnp.array, steps.init_head(MODEL, ATTRIBUTES))
    head["kernel"] = 0.1 * jax.random.normal(jax.random.key(3), head["kernel"].shape)
    params = {"clip": jax.tree.map(jnp.array, {**tiny.clip_params(), **clip}), "head": head}
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params))


def texts(rows):
    made = tiny.texts(rows)
    return {"ids": np.asarray(made.ids, np.int32), "ends": np.asarray(made.ends, np.int32)}


STATEMENTS = texts([[98, 3, 99], [98, 4, 5, 99], [98, 6, 7, 8, 99]])


def batch(size=16):
    rng = np.random.default_rng(0)
    rows = [[98, *rng.integers(1, 90, 5).tolist(), 99] for _ in range(size)]
    rows[-1] = rows[2]  # a caption that two images share, on different devices
    ids = np.array(rows, np.int32)
    truth = rng.random((size, ATTRIBUTES)).astype(np.float32)
    truth[3, 1] = truth[5] = np.nan
    return {
        "image": rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8),
        "ids": ids,
        "ends": np.full(size, 6, np.int32),
        "caption_hash": np.array([hash(tuple(row)) % 2**32 for row in rows], np.uint32),
        "truth": truth,
    }


def virtual(function, *, donate=()):
    """`devices.data_parallel` without devices: the named axis is all that a step knows of them. Quick to compile."""
    axes = (None,) * (len(inspect.signature(function).parameters) - 1) + (0,)
    return jax.jit(jax.vmap(function, axis_name=devices.AXIS, in_axes=axes, out_axes=None))


def run(*terms, parts, monkeypatch, state=None, tx=TX, data=None):
    """One update on so many virtual devices: the state on the host, and the metrics' means."""
    with monkeypatch.context() as patch:
        patch.setattr(devices, "data_parallel", virtual)
        step = make_step(*terms, tx=tx)
    cut = {name: value.reshape(parts, -1, *value.shape[1:]) for name, value in (data or batch()).items()}
    return on_host(*step(first_state(tx) if state is None else state, STATEMENTS, cut))


def on_host(state, metrics):
    means = {name: float(total[0]) / float(total[1]) for name, total in devices.to_host(metrics).items()}
    return devices.to_host(state), means


def assert_same(one, other):
    (one_state, one_metrics), (other_state, other_metrics) = one, other
    assert set(one_metrics) == set(other_metrics)
    for name, value in one_metrics.items():
        assert other_metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    found = flatten(other_state.params)
    for path, value in flatten(one_state.params).items():
        np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=2e-6, err_msg=path)
    assert int(one_state.step) == int(other_state.step) == 1


@pytest.mark.devices
def test_real_devices_give_the_numbers_of_one(monkeypatch):
    assert jax.local_device_count() > 1
    step = make_step(*TERMS)
    several = on_host(*step(devices.replicate(first_state()), STATEMENTS, devices.shard_batch(batch())))
    one = run(*TERMS, parts=1, monkeypatch=monkeypatch)
    assert_same(one, several)
    before = flatten(first_state().params)
    still = {path for path, value in flatten(several[0].params).items() if np.array_equal(value, before[path])}
    # A bias of the keys adds the same to all of a query's scores: its gradient is rounding alone.
    assert not {path for path in still if not path.endswith("k_proj/bias")}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_does_not_depend_on_the_number_of_devices(term, monkeypatch):
    one, four = (run(term, parts=parts, monkeypatch=monkeypatch) for parts in (1, 4))
    assert_same(one, four)
    expected = {"loss", "grad_norm", "logit_scale", term} | ({"caption_accuracy"} if term == "contrastive" else set())
    assert set(one[1]) == expected
    assert one[1]["loss"] == pytest.approx(getattr(weights(term), term) * one[1][term], rel=1e-5)
    assert one[1]["grad_norm"] > 0


def test_the_first_stage_leaves_the_text_tower_as_it_is(monkeypatch):
    """Attributes are read from the patches: no gradient reaches the words, nor what joins both towers."""
    before = flatten(first_state().params)
    state, _ = run("attributes", parts=1, monkeypatch=monkeypatch)
    changed = {path for path, value in flatten(state.params).items() if not np.array_equal(value, before[path])}
    assert not {path for path in changed if path.startswith(("clip/text/", "clip/logit_scale"))}
    assert {"head/kernel", "head/bias", "clip/visual/patch_embedding/kernel"} <= changed
    assert "head/statements" not in changed


@pytest.mark.parametrize("start", [99.99, 30.0])
def test_the_scale_grows_to_100_at_most(start, monkeypatch):
    def push(params):
        return jax.tree.map(lambda x: 0 * x, params)

    grow = optax.GradientTransformation(
        lambda params: (),
        lambda grads, state, params=None: (
            {**push(grads), "clip": {**push(grads["clip"]), "logit_scale": jnp.full((), 0.5)}},
            state,
        ),
    )
    state = first_state(grow, logit_scale=jnp.float32(math.log(start)))
    state, metrics = run("contrastive", parts=1, monkeypatch=monkeypatch, state=state, tx=grow)
    expected = min(100.0, start * math.exp(0.5))
    assert math.exp(float(state.params["clip"]["logit_scale"])) == pytest.approx(expected, rel=1e-5)
    assert metrics["logit_scale"] == pytest.approx(expected, rel=1e-5)


def test_a_caption_that_images_share_is_right_for_each_of_them(monkeypatch):
    """All captions are one: whichever comes first is right, where by position 1 image of 16 at most would be."""
    shared = batch()
    shared |= {name: np.repeat(shared[name][:1], 16, axis=0) for name in ("ids", "ends", "caption_hash")}
    _, metrics = run("contrastive", parts=2, monkeypatch=monkeypatch, data=shared)
    assert metrics["caption_accuracy"] == 1


def test_features_for_evaluation_are_normalised_and_local_scores_are_top_patches():
    params, images = tiny.clip_params(), batch()["image"][:4]
    encode_text = steps.make_text_step(model=MODEL)
    encode_image = steps.make_image_step(model=MODEL, top_k=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    statements = np.asarray(encode_text(params, STATEMENTS))
    np.testing.assert_allclose(np.linalg.norm(statements, axis=1), 1, rtol=1e-5)
    found = encode_image(params, statements, images)
    np.testing.assert_allclose(np.linalg.norm(found["image_features"], axis=1), 1, rtol=1e-5)
    assert found["local"].shape == (4, 3)
    pixels = (images / np.float32(255) - np.array((0.5, 0.4, 0.3), np.float32)) / np.array((0.2, 0.3, 0.4), np.float32)
    _, out = MODEL.apply({"params": params}, pixels, method="encode_image")
    patches = np.asarray(out["patch_features"])
    patches = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    # With k = N, all patches: the mean of their cosines.
    np.testing.assert_allclose(found["local"], (patches @ statements.T).mean(axis=1), atol=1e-5)
