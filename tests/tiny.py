"""A CLIP small enough to compile in a second, its random parameters, and batches for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mpafer_jax.backbones.base import Tower
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.backbones.clip.random_clip import random_params
from mpafer_jax.config.schema import LossSection
from mpafer_jax.method import prompts as prompts_lib
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.losses import Objective
from mpafer_jax.method.model import PromptedModel, variables
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.method.state import Frozen

CLIP = clip_lib.ClipConfig(
    vision=clip_lib.VisionConfig(32, 64, 3, 4, 32, 8, "quick_gelu", 1e-5),
    text=clip_lib.TextConfig(100, 24, 48, 2, 4, 16, 99, "quick_gelu", 1e-5),
    projection_dim=20,
)
CLASS_IDS = [[98, 7, 8, 99], [98, 9, 8, 99], [98, 10, 11, 8, 99]]  # "name ." of three classes, one of two words
HARD_IDS = [[98, 1, 2, 7, 99], [98, 1, 2, 9, 12, 99], [98, 1, 2, 10, 11, 13, 99]]


TOKENS = clip_lib.CLIP(CLIP).spec.tokens


def learner(**changes) -> MpaPrompts:
    values = {
        "text": Tower(2, 24),
        "vision": Tower(3, 32),
        "num_ctx": 4,
        "num_classes": 0,
        "ctx_std": 0.02,
        "ctx_text": "",
        "num_visual": 2,
        "visual_layers": (1, 2, 3),
        "visual_std": 0.02,
        "before_norm": False,
    }
    return MpaPrompts(**{**values, **changes})


@functools.cache
def clip_params():
    """Random parameters, biases and scales too, so that nothing passes because it multiplies by zero or one."""
    params = jax.tree.map(jnp.asarray, random_params(CLIP))
    return {**params, "logit_scale": jnp.asarray(np.log(20.0), jnp.float32)}


def texts(rows) -> prompts_lib.Texts:
    known = {str(i): ids for i, ids in enumerate(rows)}
    return prompts_lib.tokenize(list(known), known.__getitem__, TOKENS)


def soft_texts(num_ctx: int = 4) -> prompts_lib.Texts:
    known = {f"{i}.": ids for i, ids in enumerate(CLASS_IDS)}
    return prompts_lib.tokenize_soft([str(i) for i in range(len(CLASS_IDS))], known.__getitem__, TOKENS, num_ctx)


def model(clip=CLIP, **changes) -> PromptedModel:
    computing = {name: changes.pop(name) for name in ("dtype", "residual_dtype", "remat") if name in changes}
    values = {"backbone": clip_lib.CLIP(clip, **computing), "learner": learner(), "top_k": 5}
    return PromptedModel(**{**values, **changes})


def objective(**changes) -> Objective:
    return Objective.of(LossSection(**changes))


def frozen(the_model: PromptedModel) -> Frozen:
    return _frozen(the_model.learner.num_ctx)


@functools.cache
def _frozen(num_ctx: int) -> Frozen:
    base, params = model(), clip_params()
    bound = base.bind(variables(params, {}))
    encode = jax.jit(functools.partial(base.apply, method="encode_hard_prompts"))
    hard_text, hard_token = encode(variables(params, {}), bound.embed(texts(HARD_IDS)))
    return Frozen(
        backbone=params,
        soft_prompts=bound.embed(soft_texts(num_ctx)),
        hard_text_features=hard_text[None],
        hard_token_features=hard_token[None],
        prototypes=jax.random.normal(jax.random.key(5), (3, 20), jnp.float32),
        class_counts=jnp.array([5.0, 1.0, 30.0], jnp.float32),
    )


def batch(size: int = 16, seed: int = 0, masked: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, size).astype(np.int32)
    mask = np.ones(size, np.float32)
    mask[size - masked :] = 0
    return {
        "image": rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8),
        "label": label,
        "label_distribution": np.eye(3, dtype=np.float32)[label],
        "mask": mask,
    }


def assert_close(one, two, rtol=2e-4, atol=2e-6):
    """Of trees of arrays."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, two)


MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)  # of pixels
MODEL = model()
FORWARD = Forward(MODEL, MEAN, STD, with_frozen=True)
