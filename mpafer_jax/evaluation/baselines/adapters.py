"""Adapters of frozen image features, made for few training images: Tip-Adapter, Tip-Adapter-F and CLIP-Adapter.

Shapes: m images, n training images, D features, C classes. f [m, D]: normalised image features z^g; W [C, D]:
normalised class features of `config.hard_prompts`; s: CLIP's factor from cosines to logits, 100 in the papers.

Tip-Adapter (Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022) keeps
the training images as a cache of keys F [n, D] (their normalised features, Eq. 1) and values L [n, C] (one-hot labels,
Eq. 2), without training:

    A = exp(-beta (1 - f F^T))       Eq. 3
    logits = alpha A L + s f W^T     Eq. 4

alpha and beta are chosen on validation. Tip-Adapter-F then trains the keys, without normalising them again, and chooses
alpha and beta anew.

CLIP-Adapter (Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2024) trains a
bottleneck on the image feature, and mixes its output with that feature by a residual ratio alpha, chosen on validation:

    A_v(f) = ReLU(ReLU(f W_1) W_2), W_1 [D, D / 4], W_2 [D / 4, D]     Eq. 3, with the outer ReLU of the authors' code
    f* = alpha A_v(f) + (1 - alpha) f                                  Eq. 5
    logits = s cos(f*, W)

A_v is homogeneous and f* enters a cosine, so the normalisation of f changes nothing.

Differs from the authors' code in all three: features are of images without augmentation, as for the other baselines;
class features are those of the run's hard prompts; labels may be votes. Everything is chosen on validation and the last
step is taken, where Tip-Adapter's code searches alpha and beta on the test images of ImageNet (on validation of its
other datasets) and takes the epoch that is best on test. Grids are wider, and logarithmic, as our classes have from 1
to thousands of images, and faces have higher cosines than objects. While the keys are trained, alpha and beta are
Tip-Adapter's, where the authors have constants for each dataset. CLIP-Adapter's text adapter (Eq. 4, 6) is left out, as
in most of their experiments, and both are trained by Tip-Adapter-F's update rule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from absl import logging

from mpafer_jax.backbones.base import l2_normalize
from mpafer_jax.data import pipeline
from mpafer_jax.evaluation.baselines.registry import Context, Result, Score, baseline, needs_validation
from mpafer_jax.evaluation.baselines.zero_shot import frozen_logits
from mpafer_jax.method.features import FrozenFeatures
from mpafer_jax.method.hard_prompts.features import class_features
from mpafer_jax.method.model import PromptedModel, variables

Floats = npt.NDArray[np.float32]
Arrays = dict[str, jax.Array]
Loss = Callable[[Arrays, jax.Array, Arrays], jax.Array]  # (params, rows [b] of the batch, data) -> mean loss

# Half-octaves.
BETAS = tuple(2.0 ** (half / 2) for half in range(-2, 15))  # 0.5 to 128; the authors' grids go up to 50
ALPHAS = tuple(2.0 ** (half / 2) for half in range(-20, 13))  # 0.001 to 64
RATIOS = (0.2, 0.4, 0.6, 0.8)  # the paper's best are 0.2 and 0.6, depending on the dataset
_REDUCTION = 4
# Of Tip-Adapter-F's authors: AdamW with PyTorch's weight decay, and cosine decay to 0.
_BATCH_SIZE, _LEARNING_RATE, _EPSILON, _WEIGHT_DECAY = 256, 1e-3, 1e-4, 0.01
_TIP_EPOCHS, _CLIP_EPOCHS = 20, 200  # as Zhang et al. train the two
_ROWS = 256  # images whose affinities [rows, n] are in memory at once

_product = functools.partial(jnp.matmul, precision="highest")  # beta multiplies rounding errors of cosines


@dataclasses.dataclass(frozen=True, eq=False)
class Cache:
    """Tip-Adapter's cache model with chosen alpha and beta.

    Attributes:
      keys: F [n, D].
      values: L [n, C].
    """

    keys: Floats
    values: Floats
    alpha: float
    beta: float

    def logits(self, features: Floats, clip_logits: Floats) -> Floats:
        """Logits [m, C] (Eq. 4) of normalised features [m, D] and CLIP's own logits s f W^T [m, C]."""
        return _added(clip_logits, self.alpha, cache_scores(features, self.keys, self.values, (self.beta,))[:, 0])


def _added(clip_logits: Floats, alpha: float, scores: Floats) -> Floats:
    return (clip_logits + alpha * scores).astype(np.float32)


def cache_scores(features: Floats, keys: Floats, values: Floats, betas: Sequence[float]) -> Floats:
    """A L of Eq. 3 and 4 for several beta, [m, len(betas), C]; `features` [m, D] are normalised."""
    compiled = cast(Callable[..., jax.Array], _cache_scores)
    return np.asarray(compiled(features, keys, values, np.asarray(betas, np.float32)))


@jax.jit
def _cache_scores(features: jax.Array, keys: jax.Array, values: jax.Array, betas: jax.Array) -> jax.Array:
    def of_image(feature: jax.Array) -> jax.Array:
        cosines = _product(keys, feature)  # [n]

        def of_beta(beta: jax.Array) -> jax.Array:
            return _product(jnp.exp(-beta * (1 - cosines)), values)

        return cast(jax.Array, jax.lax.map(of_beta, betas))

    return cast(jax.Array, jax.lax.map(of_image, features, batch_size=_ROWS))


def choose(keys: Floats, values: Floats, validation: FrozenFeatures, clip_logits: Floats, score: Score) -> Cache:
    """The cache with the alpha of `ALPHAS` and beta of `BETAS` that are best on validation.

    Args:
      clip_logits: s f W^T [m, C] of the validation images.
      score: of logits of these images; ties go to the smaller alpha, then to the smaller beta.
    """
    scores = cache_scores(_unit(validation), keys, values, BETAS)

    def score_of(setting: tuple[float, tuple[int, float]]) -> float:
        alpha, (index, _) = setting
        return score(_added(clip_logits, alpha, scores[:, index]))

    alpha, (_, beta) = max(itertools.product(ALPHAS, enumerate(BETAS)), key=score_of)  # the first of equal ones
    logging.debug("cache of %d images: alpha %.3g, beta %.3g", len(keys), alpha, beta)
    return Cache(keys, values, alpha, beta)


def tip_loss(keys: Arrays, rows: jax.Array, data: Arrays) -> jax.Array:
    """Cross-entropy of Tip-Adapter's logits, by its keys.

    Args:
      keys: 'keys' [n, D].
      rows: [b] training images.
      data: 'features' [n, D], 'clip_logits' and 'values' [n, C], 'alpha' and 'beta' [].
    """
    cosines = _product(data["features"][rows], keys["keys"].T)  # [b, n]
    cached = _product(jnp.exp(-data["beta"] * (1 - cosines)), data["values"])
    logits = data["clip_logits"][rows] + data["alpha"] * cached
    return jnp.mean(optax.softmax_cross_entropy(logits, data["values"][rows]))


def adapted(bottleneck: Arrays, features: jax.Array, ratio: jax.Array | float) -> jax.Array:
    """CLIP-Adapter's f* [m, D] (Eq. 5) of features [m, D]; `bottleneck`: 'down' [D, H] and 'up' [H, D]."""
    hidden = jax.nn.relu(_product(features, bottleneck["down"]))
    return ratio * jax.nn.relu(_product(hidden, bottleneck["up"])) + (1 - ratio) * features


def adapter_loss(bottleneck: Arrays, rows: jax.Array, data: Arrays) -> jax.Array:
    """Cross-entropy of CLIP-Adapter's logits.

    Args:
      bottleneck: see `adapted`.
      rows: [b] training images.
      data: 'features' [n, D], 'values' [n, C], 'texts' W [C, D], 'scale' s and 'ratio' [].
    """
    features = l2_normalize(adapted(bottleneck, data["features"][rows], data["ratio"]))
    logits = data["scale"] * _product(features, l2_normalize(data["texts"]).T)
    return jnp.mean(optax.softmax_cross_entropy(logits, data["values"][rows]))


def train(loss: Loss, params: Mapping[str, Floats], data: Mapping[str, Any], order: npt.NDArray[np.int64]) -> Arrays:
    """Minimises a loss by AdamW with cosine decay to 0, on the batches `order` [steps, b] of rows."""
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, len(order))
    optimizer = optax.adamw(schedule, eps=_EPSILON, weight_decay=_WEIGHT_DECAY)

    def run(params: Arrays, data: Arrays, order: jax.Array) -> Arrays:
        def step(carry: tuple[Arrays, Any], rows: jax.Array) -> tuple[tuple[Arrays, Any], None]:
            params, state = carry
            updates, state = optimizer.update(cast(Any, jax.grad(loss))(params, rows, data), state, cast(Any, params))
            return (cast(Arrays, optax.apply_updates(params, updates)), state), None

        return jax.lax.scan(step, (params, optimizer.init(cast(Any, params))), order)[0][0]

    here = ({name: jnp.asarray(value) for name, value in values.items()} for values in (params, data))
    return cast(Arrays, jax.jit(run)(*here, jnp.asarray(order)))


def _order(context: Context, train: FrozenFeatures, epochs: int) -> npt.NDArray[np.int64]:
    """Rows of each batch, in the run's order of images."""
    size = min(_BATCH_SIZE, len(train))
    steps = epochs * -(-len(train) // size)
    order = pipeline.train_order(train.labels, context.config.data.sampler, context.config.seed)
    return np.asarray(order(np.arange(steps * size))).reshape(steps, size)


def _unit(split: FrozenFeatures) -> Floats:
    return np.asarray(l2_normalize(jnp.asarray(split.image_features)))


def _texts(context: Context) -> jax.Array:
    return class_features(context.experiment.frozen.hard_text_features)


def _clip_logits(context: Context, split: FrozenFeatures) -> Floats:
    return frozen_logits(context.experiment, split.image_features, _texts(context))


def _chosen(context: Context, keys: Floats, values: Floats) -> Cache:
    validation = context.features["validation"]
    return choose(keys, values, validation, _clip_logits(context, validation), context.score)


def _tip_adapter(context: Context) -> Cache:
    train = context.features["train"].of_segments()
    return _chosen(context, _unit(train), train.label_distributions)


def _measured(context: Context, cache: Cache) -> Result:
    metrics = context.measure(lambda split: cache.logits(_unit(split), _clip_logits(context, split)))
    return metrics, {"alpha": cache.alpha, "beta": cache.beta}


@baseline("tip_adapter", "Tip-Adapter", features="all", check=needs_validation("tip_adapter", "alpha and beta are"))
def tip_adapter(context: Context) -> Result:
    """The cache of the run's training images, with alpha and beta selected by `eval.select_by`."""
    return _measured(context, context.once(_tip_adapter))


@baseline(
    "tip_adapter_f", "Tip-Adapter-F", features="all", check=needs_validation("tip_adapter_f", "alpha and beta are")
)
def tip_adapter_f(context: Context) -> Result:
    """Tip-Adapter with trained keys."""
    start, images = context.once(_tip_adapter), context.features["train"].of_segments()
    data = {
        "features": start.keys,
        "values": start.values,
        "clip_logits": _clip_logits(context, images),
        "alpha": np.float32(start.alpha),
        "beta": np.float32(start.beta),
    }
    keys = train(tip_loss, {"keys": start.keys}, data, _order(context, images, _TIP_EPOCHS))["keys"]
    return _measured(context, _chosen(context, np.asarray(keys), start.values))


@baseline("clip_adapter", "CLIP-Adapter", features="all", check=needs_validation("clip_adapter", "residual ratio is"))
def clip_adapter(context: Context) -> Result:
    """The bottleneck trained with each of `RATIOS`, of which `eval.select_by` selects one; ties go to the smaller."""
    images, texts = context.features["train"].of_segments(), _texts(context)
    features = _unit(images)
    bottleneck = initial_bottleneck(features.shape[1], context.config.seed)
    order = _order(context, images, _CLIP_EPOCHS)
    # On the host: arrays of several processes' devices do not mix with those of one.
    constants = {"texts": np.asarray(texts), "scale": np.asarray(_scale(context))}
    data = {"features": features, "values": images.label_distributions, **constants}

    def logits(ratio: float, split: FrozenFeatures) -> Floats:
        mixed = adapted(trained[ratio], jnp.asarray(_unit(split)), ratio)
        return frozen_logits(context.experiment, np.asarray(mixed), texts)

    trained = {ratio: train(adapter_loss, bottleneck, {**data, "ratio": np.float32(ratio)}, order) for ratio in RATIOS}

    def score(ratio: float) -> float:
        found = context.score(logits(ratio, context.features["validation"]))
        logging.debug("CLIP-Adapter: ratio %.1f: validation %.4f", ratio, found)
        return found

    ratio = max(RATIOS, key=score)  # the first of equal ones
    return context.measure(lambda split: logits(ratio, split)), {"ratio": ratio}


def initial_bottleneck(width: int, seed: int) -> dict[str, Floats]:
    """CLIP-Adapter's initial weights, U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), PyTorch's default for linear layers."""
    rng, hidden = np.random.default_rng(seed), max(1, width // _REDUCTION)
    shapes = {"down": (width, hidden), "up": (hidden, width)}
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) * shape[0] ** -0.5 for name, shape in shapes.items()}


def _scale(context: Context) -> jax.Array:
    def scale(model: PromptedModel) -> jax.Array:
        return model.backbone.temperature_scale()

    experiment = context.experiment
    return cast(jax.Array, experiment.model.apply(variables(experiment.frozen.backbone, {}), method=scale))
