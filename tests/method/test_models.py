"""Towers and prompts: literal concatenation, trimming, layouts, types, limits. Parity with PyTorch: tests/backbones."""

import contextlib
import dataclasses
from types import SimpleNamespace

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.backbones.base import Tower
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.backbones.clip.transformer import ACTIVATIONS
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Config
from mpafer_jax.method import build
from mpafer_jax.method import prompts as prompts_lib
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.model import variables
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.runtime.errors import PromptError
from tests import tiny

pytestmark = pytest.mark.usefixtures("strict_promotion")

GOLDEN = (0.001522849895991385, -0.03231491893529892, -0.03371544927358627)  # ctx of seed 0
IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


def literal_concatenation(params, images, prompts, layers, before_ln_pre):
    """The image tower as Eq. 5 is written: prompts join the sequence at every layer, their outputs are thrown away."""
    p = params["visual"]
    config = tiny.CLIP.vision

    def layer_norm(x, q):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * q["scale"] + q["bias"]

    def dense(x, q):
        return x @ q["kernel"] + q.get("bias", jnp.zeros(()))

    rows = images.reshape(-1, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8 * 8 * 3)
    patches = rows @ p["patch_embedding"]["kernel"].reshape(-1, 32)
    cls = jnp.broadcast_to(p["class_embedding"], (len(images), 1, 32))
    x = layer_norm(jnp.concatenate([cls, patches], 1) + p["position_embedding"], p["ln_pre"])
    for layer in range(config.num_layers):
        q = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        length = x.shape[1]
        if layer + 1 in layers:
            tokens = prompts[layers.index(layer + 1)]
            tokens = layer_norm(tokens, p["ln_pre"]) if layer == 0 and before_ln_pre else tokens
            x = jnp.concatenate([x, jnp.broadcast_to(tokens, (len(images), *tokens.shape))], 1)
        y = layer_norm(x, q["ln_1"])
        query, key, value = (dense(y, q["attn"][f"{n}_proj"]).reshape(*y.shape[:2], 4, 8) for n in "qkv")
        mixed = nn.dot_product_attention(query, key, value).reshape(y.shape)
        x = x + dense(mixed, q["attn"]["out_proj"])
        hidden = dense(layer_norm(x, q["ln_2"]), q["mlp"]["fc1"])
        x = x + dense(hidden * jax.nn.sigmoid(1.702 * hidden), q["mlp"]["fc2"])
        x = x[:, :length]
    return dense(layer_norm(x, p["ln_post"]), p["projection"])  # [B, 1 + N, D]


@pytest.mark.parametrize(
    ("layers", "before_ln_pre", "remat"),
    [
        ((1, 2, 3), False, "none"),
        ((1, 2, 3), True, "dots"),
        ((1,), True, "full"),
        ((2, 3), False, "dots"),
    ],
)
def test_prompts_as_keys_and_values_equal_literal_concatenation(layers, before_ln_pre, remat):
    learner = tiny.learner(visual_layers=layers, num_visual=3, before_norm=before_ln_pre)
    model = tiny.model(learner=learner, remat=remat)
    params = tiny.clip_params()
    visual_prompts = jax.random.normal(jax.random.key(3), (len(layers), 3, 32))
    probe = jax.random.normal(jax.random.key(4), (4, 17, 20))

    def ours(visual_prompts):
        prompts = model.learner.prompts({"ctx": jnp.zeros((4, 24)), "visual_prompts": visual_prompts})
        _, out = model.apply(variables(params, {}), IMAGES, jnp.ones((3, 20)), prompts=prompts, method="classify")
        return jnp.concatenate([out["image_features"][:, None], out["patch_features"]], 1)

    def literal(visual_prompts):
        return literal_concatenation(params, IMAGES, visual_prompts, layers, before_ln_pre)

    (found, gradient), (expected, wanted) = (
        jax.jit(jax.grad(lambda v, f=f: (jnp.sum((y := f(v)) * probe), y), has_aux=True))(visual_prompts)[::-1]
        for f in (ours, literal)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert float(jnp.abs(gradient).max()) > 1e-2  # the prompts matter
    np.testing.assert_allclose(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_without_visual_prompts_the_image_tower_is_the_frozen_one():
    model = tiny.model(learner=tiny.learner(num_visual=0))
    prompts = model.learner.initial_params(0)
    assert prompts.keys() == {"ctx"}
    weights = variables(tiny.clip_params(), prompts)
    assert model.learner.prompts(prompts).visual is None
    _, out = model.apply(weights, IMAGES, tiny.frozen(model).soft_prompts)
    np.testing.assert_array_equal(out["image_features"], model.apply(weights, IMAGES, method="encode_image_frozen"))


def test_prompts_at_no_layer_have_no_parameters():
    assert tiny.learner(visual_layers=()).initial_params(0).keys() == {"ctx"}


@pytest.mark.parametrize(
    "setting",
    [
        contextlib.nullcontext(),
        jax.enable_x64(True),
        jax.threefry_partitionable(False),
        jax.default_prng_impl("rbg"),
        jax.default_prng_impl("unsafe_rbg"),
        flax.config.temp_flip_flag("fix_rng_separator", True),
    ],
)
def test_a_seed_gives_the_same_prompts_under_every_setting(setting):
    learner = tiny.learner(text=Tower(2, 8), vision=Tower(3, 8))
    expected = learner.initial_params(0)
    with setting:
        params = learner.initial_params(0)
    assert {name: value.dtype for name, value in params.items()} == {"ctx": "float32", "visual_prompts": "float32"}
    # Written down, so that a release of JAX or Flax that draws others is noticed.
    np.testing.assert_allclose(params["ctx"][0, :3], GOLDEN, rtol=1e-5)
    np.testing.assert_array_equal(params["visual_prompts"], expected["visual_prompts"])


def test_the_last_32_bits_of_a_seed_count_in_64_bit_mode_too():
    with jax.enable_x64(True):
        drawn = tiny.learner().initial_params(2**32 + 5)
    np.testing.assert_array_equal(drawn["ctx"], tiny.learner().initial_params(5)["ctx"])


def test_a_runs_seed_draws_its_initial_prompts():
    built = build.Experiment(tiny.model(), tiny.frozen(tiny.MODEL), ("a", "b", "c"), (), None, "tiny", "", None)
    found = [build.initial_prompts(Config(seed=seed), built) for seed in (0, 5)]
    for seed, params in zip((0, 5), found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, tiny.learner().initial_params(seed))
    assert all(np.abs(found[0][name] - found[1][name]).max() > 1e-2 for name in ("ctx", "visual_prompts"))


@pytest.mark.parametrize("grayscale", [False, True])
def test_a_configuration_says_whether_images_are_made_grey(grayscale):
    """In training and evaluation, and for features of the CLIP without prompts."""
    section = DataSection(mean=tiny.MEAN, std=tiny.STD, grayscale=grayscale)
    forward = Forward.configured(tiny.MODEL, section)
    coloured = tiny.batch(2)["image"]
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in coloured])
    frozen, params = tiny.frozen(tiny.MODEL), tiny.learner().initial_params(0)
    both = np.concatenate([coloured, grey])
    logits, _ = forward(params, frozen, {"image": both})
    for values in (logits, forward.frozen_features(frozen.backbone, both)):
        difference = np.abs(values[:2] - values[2:]).max()
        assert (difference < 1e-4) == grayscale


def test_a_clip_that_is_to_be_given_grey_images_and_is_not_is_warned_of(caplog):
    for of_clip, configured, warned in ((True, False, 1), (True, True, 0), (False, False, 0), (False, True, 0)):
        caplog.clear()
        clip = SimpleNamespace(name="a CLIP", image_mean=tiny.MEAN, image_std=None, grayscale=of_clip)
        section = DataSection(mean=tiny.MEAN, grayscale=configured)
        build.check_normalization(Config(data=section), clip)
        assert caplog.text.count("a CLIP is to be given grey images") == warned


@pytest.mark.parametrize("layers", [(4,), (0, 1), (2, 1), (1, 1)])
def test_visual_prompts_of_unknown_layers_are_refused(layers):
    visual = SimpleNamespace(layers=layers, num_prompts=2, init_std=0.02, before_ln_pre=False)
    with pytest.raises(PromptError, match=r"ascend within 1\.\.3.*found"):
        MpaPrompts.configured(SimpleNamespace(ctx=None, visual_prompts=visual), clip_lib.CLIP(tiny.CLIP).spec, 3)


@pytest.mark.parametrize("class_specific", [False, True])
def test_counts_and_initial_values(class_specific):
    classes, layers = 7 if class_specific else 0, tuple(range(1, 13))
    learner = MpaPrompts(Tower(12, 512), Tower(12, 768), 10, classes, 0.02, "", 8, layers, 0.02, False)
    prompts = learner.initial_params(0)
    assert sum(p.size for p in prompts.values()) == (109_568 if class_specific else 78_848)
    for value in prompts.values():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(np.std(value), 0.02, rtol=0.05)
        np.testing.assert_allclose(np.mean(value), 0, atol=1e-3)


def test_soft_prompt_layout():
    texts = tiny.soft_texts(num_ctx=4)
    np.testing.assert_array_equal(texts.ids[2], [98, 0, 0, 0, 0, 10, 11, 8, 99])
    np.testing.assert_array_equal(texts.ids[0], [98, 0, 0, 0, 0, 7, 8, 99, 0])
    np.testing.assert_array_equal(texts.ends, [7, 7, 8])
    np.testing.assert_array_equal(texts.content[0], [0, 1, 1, 1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("class_specific", [False, True])
def test_context_replaces_the_placeholders_only(class_specific):
    model = tiny.model()
    embedded = tiny.frozen(model).soft_prompts
    ctx = jax.random.normal(jax.random.key(0), (3, 4, 24) if class_specific else (4, 24))
    filled = prompts_lib.insert_context(embedded, ctx, 1)
    np.testing.assert_array_equal(filled.embeddings[:, 1:5], jnp.broadcast_to(ctx, (3, 4, 24)))
    np.testing.assert_array_equal(filled.embeddings[:, 0], embedded.embeddings[:, 0])
    np.testing.assert_array_equal(filled.embeddings[:, 5:], embedded.embeddings[:, 5:])


def test_pooling_leaves_out_start_end_and_padding():
    embeddings = jnp.arange(2 * 5 * 1, dtype=jnp.float32).reshape(2, 5, 1)
    content = jnp.array([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    texts = prompts_lib.TextEmbeddings(embeddings, jnp.array([3, 4]), content)
    np.testing.assert_allclose(prompts_lib.pool_tokens(texts), [[1.5], [7.0]])


def test_trimming_texts_changes_nothing():
    model, params = clip_lib.CLIP(tiny.CLIP), {"params": tiny.clip_params()}
    trimmed = tiny.texts(tiny.HARD_IDS)
    padded = jnp.pad(trimmed.ids, ((0, 0), (0, 16 - trimmed.ids.shape[1])), constant_values=57)
    short, _ = model.apply(params, trimmed.ids, trimmed.ends, method="encode_text")
    long, _ = model.apply(params, padded, trimmed.ends, method="encode_text")
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_ends_of_texts():
    ids = jnp.array([[98, 3, 99, 99, 0], [98, 3, 4, 5, 99]])
    np.testing.assert_array_equal(clip_lib.find_ends(ids, 99), [2, 4])
    np.testing.assert_array_equal(clip_lib.find_ends(ids, 2), [2, 4])  # OpenAI's configs: the largest id
    np.testing.assert_array_equal(clip_lib.find_ends(ids, 5), [0, 3])


def test_text_features_from_ids_and_from_embeddings_agree():
    model, params = clip_lib.CLIP(tiny.CLIP), {"params": tiny.clip_params()}
    texts = tiny.texts(tiny.HARD_IDS)
    from_ids, _ = model.apply(params, texts.ids, method="encode_text")
    embeddings = model.apply(params, texts.ids, method="embed_tokens")
    from_embeddings, _ = model.apply(params, embeddings, texts.ends, method="encode_embeddings")
    np.testing.assert_array_equal(from_ids, from_embeddings)


def test_a_text_that_does_not_fit_is_named_with_its_length():
    known = {"short": [98, 1, 99], "far too long": [98, *range(1, 17), 99]}
    with pytest.raises(PromptError, match=r"1 of 2 prompts.*16 positions[\s\S]*18 tokens: 'far too long'"):
        prompts_lib.tokenize(list(known), known.__getitem__, tiny.TOKENS)


def test_wrong_image_size_is_refused():
    model, params = clip_lib.CLIP(tiny.CLIP), {"params": tiny.clip_params()}
    with pytest.raises(ValueError, match=r"\[B, 32, 32, 3\].*found \[1, 16, 16, 3\]"):
        model.apply(params, jnp.zeros((1, 16, 16, 3)), method="encode_image")


def test_intermediates_are_named_and_consistent():
    model = tiny.model()
    frozen = tiny.frozen(model)
    prompts = model.learner.initial_params(0)
    logits, out = model.apply(variables(frozen.backbone, prompts), IMAGES, frozen.soft_prompts)
    shapes = {name: value.shape for name, value in out.items()}
    assert shapes == {
        "tokens": (4, 17, 32),
        "image_features": (4, 20),
        "patch_features": (4, 16, 20),
        "global_scores": (4, 3),
        "local_scores": (4, 3),
        "patch_scores": (4, 16, 3),
        "top_patches": (4, 3, 5),
        "text_features": (3, 20),
        "token_features": (3, 24),
    }
    scale = np.exp(float(frozen.backbone["logit_scale"]))
    np.testing.assert_allclose(logits, scale * (out["global_scores"] + out["local_scores"]), rtol=1e-5)


def test_bfloat16_gives_float32_outputs_close_to_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.clip_params())
    texts = tiny.texts(tiny.HARD_IDS)
    half = clip_lib.CLIP(tiny.CLIP, dtype=jnp.bfloat16)
    logits, out = half.apply({"params": params}, IMAGES, texts.ids)
    assert logits.dtype == out["image_features"].dtype == out["text_features"].dtype == jnp.float32
    assert out["image_tokens"].dtype == out["text_tokens"].dtype == jnp.float32
    full = clip_lib.CLIP(tiny.CLIP)
    reference, expected = full.apply({"params": tiny.clip_params()}, IMAGES, texts.ids)
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(jnp.abs(reference).max()))
    assert not np.array_equal(out["image_features"], expected["image_features"])


def test_bfloat16_is_the_image_towers_alone_and_rounds_no_residual_stream():
    params, texts = {"params": tiny.clip_params()}, tiny.texts(tiny.HARD_IDS)
    half, full = clip_lib.CLIP(tiny.CLIP, dtype=jnp.bfloat16), clip_lib.CLIP(tiny.CLIP)
    one, other = (model.apply(params, texts.ids, method="encode_text") for model in (half, full))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # Layers that add nothing leave what the residual stream was to the last digit.
    kernels = {**tiny.clip_params()}
    visual = dict(kernels["visual"])
    visual["blocks"] = jax.tree.map(jnp.zeros_like, visual["blocks"])
    visual["patch_embedding"] = jax.tree.map(jnp.zeros_like, visual["patch_embedding"])
    silent = {"params": {**kernels, "visual": visual}}
    _, one = half.apply(silent, IMAGES, method="encode_image")
    _, other = full.apply(silent, IMAGES, method="encode_image")
    np.testing.assert_array_equal(one["tokens"], other["tokens"])
    rounded, _ = clip_lib.CLIP(tiny.CLIP, jnp.bfloat16, jnp.bfloat16).apply(silent, IMAGES, method="encode_image")
    assert not np.array_equal(rounded, one["image_features"])


def test_every_activation_is_what_its_name_says():
    x = jnp.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    exact = np.array([-0.04550026, -0.15426877, 0.0, 0.84134475, 2.9959502])
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), exact, rtol=1e-5)
    np.testing.assert_allclose(ACTIVATIONS["gelu_new"](x), exact, atol=1e-3)
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
    np.testing.assert_allclose(ACTIVATIONS["silu"](x), x / (1 + np.exp(-x)), rtol=1e-5)
    np.testing.assert_allclose(ACTIVATIONS["relu"](x), [0, 0, 0, 1, 3])


def test_activation_of_the_config_is_used():
    other = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.CLIP.vision, hidden_act="relu"))
    params = {"params": tiny.clip_params()}
    one, _ = clip_lib.CLIP(tiny.CLIP).apply(params, IMAGES, method="encode_image")
    two, _ = clip_lib.CLIP(other).apply(params, IMAGES, method="encode_image")
    assert float(jnp.abs(one - two).max()) > 1e-2


def test_text_chunks_change_no_number():
    """3 classes in chunks of 1, of 2 (the last is filled up), and all at once."""
    model, params, prompts = tiny.model(), tiny.clip_params(), tiny.learner().initial_params(3)
    embedded = model.bind(variables(params, {})).embed(tiny.soft_texts())

    def found(chunk):
        def loss(prompts):
            both, chunked = variables(params, prompts), model.clone(text_chunk=chunk)
            features, _ = chunked.apply(both, embedded, method="encode_soft_prompts")
            return jnp.sum(jnp.sin(features) * jnp.arange(60, dtype=jnp.float32).reshape(3, 20)), features

        gradient, features = jax.jit(jax.grad(loss, has_aux=True))(prompts)
        return features, gradient["ctx"]

    expected, wanted = found(0)
    assert np.abs(wanted).max() > 0.1
    for chunk in (1, 2, 7):
        features, gradient = found(chunk)
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)
