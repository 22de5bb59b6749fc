"""One update: several devices equal one, term by term; the first stage; the limit of the scale.

Of a dual encoder that compiles in a moment; whole runs of a CLIP: test_train.py.
"""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.jobs.pretraining import losses, steps
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny

TERMS = ("contrastive", "statements", "local_statements", "attributes")
ATTRIBUTES = 3
GROUPS = [[0, 2]]


class Encoder(nn.Module):
    """Patches and words, each mapped once and averaged, with what a step reads of a CLIP."""

    config = tiny.CLIP

    def setup(self):
        self.patches, self.image_projection = nn.Conv(32, (8, 8), (8, 8)), nn.Dense(20)
        self.words, self.text_projection = nn.Embed(100, 12), nn.Dense(20)
        self.logit_scale = self.param("logit_scale", lambda key: jnp.log(jnp.float32(20)))

    def encode_image(self, images, kept=None):
        tokens = jnp.tanh(self.patches(images).reshape(-1, 16, 32))
        if kept is not None:
            tokens = jnp.take_along_axis(tokens, kept[:, :, None], axis=1)
        patches = self.image_projection(tokens)
        image = jnp.mean(jnp.sin(patches), axis=1)
        tokens = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens], axis=1)  # CLS first
        return image, {"image_features": image, "patch_features": patches, "tokens": tokens}

    def encode_text(self, ids, ends):
        read = (jnp.arange(ids.shape[1]) <= ends[:, None])[:, :, None]
        return self.text_projection(jnp.sum(jnp.tanh(self.words(ids)) * read, axis=1)), {}

    def __call__(self, images, ids, ends):
        return self.encode_image(images), self.encode_text(ids, ends)


MODEL = Encoder()
TX = optax.sgd(0.01)  # updates of terms add up, and differences of the gradient stay what they are


def colours(image):
    """A teacher that sees the mean colours of the image, and of its patches."""
    pixels = image.astype(jnp.float32) / 255
    patches = pixels.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).reshape(-1, 16, 3)
    return 8 * pixels.mean((1, 2)) - 4, patches


def weights(*terms) -> steps.Weights:
    return {name: 0.5 + i for i, name in enumerate((*TERMS, "guidance")) if name in terms}


def make_step(*terms, tx=TX, **changes):
    return steps.make_train_step(
        model=MODEL,
        tx=tx,
        terms=steps.Terms(weights(*terms), top_k=3, groups=GROUPS, **changes),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )


@functools.cache
def virtual_step(*terms, tx=TX, **changes):
    """The step without devices: the named axis is all that it knows of them. Quick to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "data_parallel", virtual)
        return make_step(*terms, tx=tx, **changes)


@functools.cache
def clip_params():
    ids, ends = (STATEMENTS[name] for name in ("ids", "ends"))
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), ids, ends)["params"]


def first_state(tx=TX, **clip) -> TrainState:
    head = jax.tree.map(jnp.array, steps.init_head(MODEL, ATTRIBUTES, 3, 0))
    head["kernel"] = 0.1 * jax.random.normal(jax.random.key(3), head["kernel"].shape)
    params = {"clip": jax.tree.map(jnp.array, {**clip_params(), **clip}), "head": head}
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
    truth[:, 2] = 1 - truth[:, 0]
    truth[3, 1] = truth[5] = truth[7, 0] = truth[7, 2] = np.nan
    return {
        "image": rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8),
        "ids": ids,
        "ends": np.full(size, 6, np.int32),
        "caption_hash": np.array([hash(tuple(row)) % 2**32 for row in rows], np.uint32),
        "truth": truth,
    }


def virtual(function, *, donate=()):
    axes = (None,) * (len(inspect.signature(function).parameters) - 1) + (0,)
    return jax.jit(jax.vmap(function, axis_name=devices.AXIS, in_axes=axes, out_axes=None))


def run(*terms, parts=4, state=None, tx=TX, data=None, **changes):
    """One update on so many virtual devices: the state on the host, and the metrics' means."""
    cut = {name: value.reshape(parts, -1, *value.shape[1:]) for name, value in (data or batch()).items()}
    state = first_state(tx) if state is None else state
    return on_host(*virtual_step(*terms, tx=tx, **changes)(state, STATEMENTS, cut))


def on_host(state, metrics):
    means = {name: float(total[0]) / float(total[1]) for name, total in devices.to_host(metrics).items()}
    return devices.to_host(state), means


@pytest.fixture(scope="module")
def on_one():
    """An update by all terms: what each parameter changed by, and the metrics."""
    state, metrics = run(*TERMS, parts=1)
    return changes(state), metrics


def changes(state):
    before = flatten(first_state().params)
    return {path: value - before[path] for path, value in flatten(state.params).items()}


@pytest.mark.devices
def test_real_devices_give_the_numbers_of_one(on_one):
    assert jax.local_device_count() > 1
    step = make_step(*TERMS)
    state, metrics = on_host(*step(devices.replicate(first_state()), STATEMENTS, devices.shard_batch(batch())))
    assert int(state.step) == 1
    assert metrics == pytest.approx(on_one[1], rel=1e-4, abs=1e-6)
    for path, change in changes(state).items():
        np.testing.assert_allclose(change, on_one[0][path], rtol=1e-3, atol=2e-6, err_msg=path)
        assert np.any(change) == (path != "head/guidance"), path


def test_updates_of_the_terms_on_four_devices_add_up_to_that_of_all_on_one(on_one):
    total = dict.fromkeys(on_one[0], 0.0)
    for term in TERMS:
        state, metrics = run(term)
        always = {"loss", "grad_norm", "logit_scale"} | ({"caption_accuracy"} if term == "contrastive" else set())
        assert set(metrics) == {*always, term}
        assert metrics["loss"] == pytest.approx(weights(term)[term] * metrics[term], rel=1e-5)
        assert metrics[term] == pytest.approx(on_one[1][term], rel=1e-4)
        total = {path: total[path] + change for path, change in changes(state).items()}
        if term == "attributes":  # read from the patches: no gradient reaches the words, nor what joins both towers
            moved = {path for path, change in changes(state).items() if np.any(change)}
            assert not {path for path in moved if path.startswith(("clip/words", "clip/text", "clip/logit_scale"))}
            assert {"head/kernel", "head/bias", "clip/patches/kernel"} <= moved
            assert "head/statements" not in moved
    for path, change in on_one[0].items():
        np.testing.assert_allclose(total[path], change, rtol=1e-3, atol=2e-6, err_msg=path)


def with_kept(data):
    """Other four patches of each image."""
    rng = np.random.default_rng(1)
    rows = [np.sort(rng.permutation(16)[:4]) for _ in data["image"]]
    return {**data, "kept": np.array(rows, np.int32)}


def test_the_linear_reading_of_some_patches_stands_for_all():
    data, state = with_kept(batch()), first_state()
    _, metrics = run("attributes", data=data)
    pixels = (data["image"] / np.float32(255) - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4])
    _, out = MODEL.apply({"params": clip_params()}, pixels, method="encode_image")
    patches, kernel = np.asarray(out["patch_features"]), np.asarray(state.params["head"]["kernel"])
    logits = [sum(patches[i, p] @ kernel[p] for p in data["kept"][i]) / 4 * 16 / np.sqrt(16) for i in range(16)]
    expected = losses.statements(jnp.asarray(logits), jnp.asarray(data["truth"]), GROUPS).mean()
    assert metrics["attributes"] == pytest.approx(float(expected), rel=1e-4)


def test_guidance_on_four_devices_is_that_on_one():
    for data in (batch(), with_kept(batch())):
        state, metrics = run("guidance", data=data, teacher=colours)
        one, of_one = run("guidance", data=data, parts=1, teacher=colours)
        assert metrics == pytest.approx(of_one, rel=1e-4, abs=1e-6)
        moved = {path for path, change in changes(state).items() if np.any(change)}
        assert moved == {"head/guidance", "clip/patches/kernel", "clip/patches/bias"}
        for path, change in changes(one).items():
            np.testing.assert_allclose(changes(state)[path], change, rtol=1e-3, atol=2e-6, err_msg=path)
        pixels = (data["image"] / np.float32(255) - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4])
        _, out = MODEL.apply({"params": clip_params()}, pixels, method="encode_image")
        mapped, maps = out["tokens"][:, 1:] @ first_state().params["head"]["guidance"], colours(data["image"])[1]
        if "kept" in data:
            mapped, maps = (jnp.take_along_axis(x, data["kept"][:, :, None], axis=1) for x in (mapped, maps))
        assert metrics["guidance"] == pytest.approx(float(jnp.mean((mapped - maps) ** 2)), rel=1e-4)


def test_a_teacher_answers_where_the_truth_is_known():
    """As if the truth had been mixed with its answers beforehand; with a share of 0 as if it were not there."""
    terms, data = ("statements", "local_statements", "attributes"), batch()
    answers = losses.probabilities(colours(data["image"])[0], GROUPS)
    mixed = {**data, "truth": np.asarray(0.25 * data["truth"] + 0.75 * answers)}
    assert np.isnan(mixed["truth"]).sum() == np.isnan(data["truth"]).sum() == 6
    for share, expected in ((0.75, mixed), (0.0, data)):
        state, metrics = run(*terms, data=data, teacher=colours, taught=share)
        alone, of_alone = run(*terms, data=expected)
        assert metrics == pytest.approx(of_alone, rel=1e-5)
        for path, change in changes(alone).items():
            np.testing.assert_allclose(changes(state)[path], change, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_scale_grows_to_100_at_most():
    def grow(grads, state, params=None):
        still = jax.tree.map(jnp.zeros_like, grads)
        return {**still, "clip": {**still["clip"], "logit_scale": jnp.full((), 0.5)}}, state

    tx = optax.GradientTransformation(lambda params: (), grow)
    for start in (99.99, 30.0):
        state = first_state(tx, logit_scale=jnp.float32(math.log(start)))
        state, metrics = run("contrastive", state=state, tx=tx)
        expected = min(100.0, start * math.exp(0.5))
        assert math.exp(float(state.params["clip"]["logit_scale"])) == pytest.approx(expected, rel=1e-5)
        assert metrics["logit_scale"] == pytest.approx(expected, rel=1e-5)


def test_a_caption_that_images_share_is_right_for_each_of_them():
    """All captions are one: whichever comes first is right, where by position 1 image of 16 at most would be."""
    shared = batch()
    shared |= {name: np.repeat(shared[name][:1], 16, axis=0) for name in ("ids", "ends", "caption_hash")}
    _, metrics = run("contrastive", data=shared)
    assert metrics["caption_accuracy"] == 1


def test_features_for_evaluation_are_normalised_and_local_scores_are_top_patches():
    params, images = clip_params(), batch()["image"][:4]
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
