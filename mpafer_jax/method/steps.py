"""The compiled functions: training step, evaluation step, and those that run once (text features, frozen image
features).

The losses give values per example and per class; here they are reduced over the batch and over the devices, and
differentiated with respect to the prompts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpafer_jax.backbones.clip.model import Outputs
from mpafer_jax.backbones.clip.model import normalize as normalize_features
from mpafer_jax.data.normalize import normalize as normalize_images
from mpafer_jax.method import losses
from mpafer_jax.method.model import MPAFER, variables
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import NonFiniteError

T = TypeVar("T")
Params = dict[str, jax.Array]
Batch = Mapping[str, jax.Array]
Rgb = tuple[float, float, float]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), both over all devices
HostMetrics = Mapping[str, tuple[Any, Any]]  # the same on the host, as NumPy's or Python's numbers
TrainStep = Callable[[TrainState, Frozen, Any], tuple[TrainState, Metrics]]
# (params, frozen, batch) -> logits [B, C] and every intermediate that the objective's terms read.
Forward = Callable[[Params, Frozen, Batch], tuple[jax.Array, Outputs]]


def forward_images(model: MPAFER, mean: Rgb, std: Rgb) -> Forward:
    """The whole model on a batch's 'image' [B, S, S, 3] uint8; mean and std as in `make_train_step`."""

    def forward(params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, Outputs]:
        images = normalize_images(batch["image"], mean, std)
        result = model.apply(variables(frozen.clip, params), images, frozen.soft_prompts)
        return cast(tuple[jax.Array, Outputs], result)

    return forward


def forward_features(model: MPAFER) -> Forward:
    """The text side alone, on a batch's 'image_features' z^g [B, D] of the un-prompted tower, global logits only.

    It equals `forward_images` of a model without visual prompts and without local score, whose image features no
    update changes; only 'patch_features' are missing.
    """

    def forward(params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, Outputs]:
        both = variables(frozen.clip, params)
        encoded = model.apply(both, frozen.soft_prompts, method="encode_soft_prompts")
        text_features, token_features = cast(tuple[jax.Array, jax.Array], encoded)
        image_features = batch["image_features"]
        logits = cast(jax.Array, model.apply(both, image_features, text_features, method="classify_frozen"))
        out = {"image_features": image_features, "text_features": text_features, "token_features": token_features}
        return logits, out

    return forward


def make_train_step(
    *,
    forward: Forward,
    tx: optax.GradientTransformation,
    objective: losses.Objective,
    accumulate: int = 1,
    trained: Collection[str] | None = None,
) -> TrainStep:
    """Compiles one update of the prompts.

    Args:
      forward: from prompts and a batch to logits, `forward_images` or `forward_features`.
      tx: the update rule.
      objective: the loss.
      accumulate: into how many parts each device's share of the batch is split, one after the other, to save memory.
        The update is that of the whole batch.
      trained: names of the parameters that are trained (`optim.trained`), None for all. The gradient of any other is
        not computed: `tx` is given zeros for it, and 'grad_norm' is without it.

    Returns:
      step(state, frozen, batch) -> (state, metrics). `state` is donated. `batch` comes from `devices.shard_batch`:
      what `forward` reads, label int32, label_distribution float32 [.., C], mask float32. `metrics` maps the name of
      every term, 'loss', 'accuracy' and 'grad_norm' to (sum, count).
    """

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        return train_step_body(
            state, frozen, batch, forward=forward, tx=tx, objective=objective, accumulate=accumulate, trained=trained
        )

    return devices.data_parallel(step, replicated=2, donate=(0,))


def train_step_body(
    state: TrainState,
    frozen: Frozen,
    batch: Batch,
    *,
    forward: Forward,
    tx: optax.GradientTransformation,
    objective: losses.Objective,
    accumulate: int,
    trained: Collection[str] | None = None,
) -> tuple[TrainState, Metrics]:
    """One update as one device sees it; `make_train_step` says what goes in and out."""
    examples = devices.sum_over_devices(jnp.sum(batch["mask"]))
    # Terms without a batch axis are the same on every device and for every part: each adds its share of one whole,
    # or a sum over devices would count them once per device.
    share = 1 / (devices.num_devices() * accumulate)

    def part_loss(params: Params, part: Batch) -> tuple[jax.Array, Metrics]:
        if trained is not None:
            params = {name: x if name in trained else jax.lax.stop_gradient(x) for name, x in params.items()}
        logits, out = forward(params, frozen, part)
        per_example, per_class = _terms(objective, frozen, part, logits, out)
        example_sums = {name: jnp.sum(values * part["mask"]) for name, values in per_example.items()}
        class_sums = {name: jnp.mean(values) * share for name, values in per_class.items()}
        # Divided by the count of the whole batch, so that gradients of parts and devices simply add up.
        loss = objective.total({**{name: value / examples for name, value in example_sums.items()}, **class_sums})
        count = jnp.sum(part["mask"])
        correct = jnp.sum((jnp.argmax(logits, axis=-1) == part["label"]) * part["mask"])
        metrics = {name: (value, count) for name, value in {**example_sums, "accuracy": correct}.items()}
        return loss, {**metrics, **{name: (value, share) for name, value in class_sums.items()}}

    parts = {name: x.reshape(accumulate, -1, *x.shape[1:]) for name, x in batch.items()}  # [b, ..] -> [A, b / A, ..]
    gradient = cast(Callable[[Params, Batch], tuple[Params, Metrics]], jax.grad(part_loss, has_aux=True))
    grads, metrics = devices.sum_over_devices(_sum_over_parts(gradient, state.params, parts))
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    one = jnp.ones((), jnp.float32)
    loss = objective.total({name: metrics[name][0] / metrics[name][1] for name in objective.weights})
    metrics = {**metrics, "loss": (loss, one), "grad_norm": (optax.tree.norm(grads), one)}
    return TrainState(step=state.step + 1, params=cast(Params, params), opt_state=opt_state), metrics


def _terms(
    objective: losses.Objective, frozen: Frozen, batch: Batch, logits: jax.Array, out: Outputs
) -> tuple[Outputs, Outputs]:
    """The loss's terms by name: those with one value per image [b], and those with one per class [C]."""
    per_example = objective.per_example_terms(
        logits=logits,
        targets=batch["label_distribution"],
        image_features=out["image_features"],
        labels=batch["label"],
        prototypes=frozen.prototypes,
    )
    per_class = objective.per_class_terms(
        token_features=out["token_features"],
        text_features=out["text_features"],
        hard_token_features=frozen.hard_token_features,
        hard_text_features=frozen.hard_text_features,
    )
    return per_example, per_class


def _sum_over_parts(function: Callable[[Params, Batch], T], params: Params, parts: Batch) -> T:
    """Adds up function(params, part) over the leading axis of `parts`, one part at a time."""
    first = {name: x[0] for name, x in parts.items()}
    zeros = jax.tree.map(cast(Any, jnp.zeros_like), jax.eval_shape(function, params, first))

    def add(total: T, part: Batch) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def check_finite(metrics: Sequence[HostMetrics], last_step: int) -> None:
    """Refuses metrics that are not finite.

    Args:
      metrics: of consecutive steps, on the host.
      last_step: the last of them.

    Raises:
      NonFiniteError: names the first such step and all its terms that are not finite.
    """
    for step, terms in enumerate(metrics, start=last_step - len(metrics) + 1):
        broken = {name: float(total) for name, (total, _) in terms.items() if not np.isfinite(total)}
        if broken:
            raise NonFiniteError(
                f"step {step}: not finite: {broken}; nothing was saved since. Lower optimizer.learning_rate, set "
                "optimizer.clip_norm, or compute in float32 (clip.dtype)"
            )


def to_numbers(metrics: Sequence[HostMetrics], last_step: int) -> list[dict[str, tuple[float, float]]]:
    """The same as plain numbers, which JSON can hold; arguments and errors of `check_finite`."""
    check_finite(metrics, last_step)
    return [{name: (float(total), float(count)) for name, (total, count) in terms.items()} for terms in metrics]


def mean_metrics(metrics: Sequence[HostMetrics], last_step: int) -> dict[str, float]:
    """Each metric's mean over consecutive steps, weighted by its counts; arguments and errors of `check_finite`."""
    check_finite(metrics, last_step)
    return {
        name: sum(float(terms[name][0]) for terms in metrics) / sum(float(terms[name][1]) for terms in metrics)
        for name in metrics[0]
    }


def make_eval_step(*, model: MPAFER, mean: Rgb, std: Rgb) -> Callable[[Params, Frozen, jax.Array, Any], Outputs]:
    """Compiles the evaluation of one batch.

    Args:
      model: the model.
      mean: CLIP's mean of each colour, on the scale 0..1.
      std: likewise its standard deviation.

    Returns:
      step(params, frozen, text_features [C, D], batch) -> sums over the whole batch: 'confusion' [C, C] (rows are the
      true classes), 'cross_entropy' [] and 'count' []. Examples with mask 0 count nowhere.
    """

    def step(params: Params, frozen: Frozen, text_features: jax.Array, batch: Batch) -> Outputs:
        return eval_step_body(params, frozen, text_features, batch, model=model, mean=mean, std=std)

    return devices.data_parallel(step, replicated=3)


def eval_step_body(
    params: Params, frozen: Frozen, text_features: jax.Array, batch: Batch, *, model: MPAFER, mean: Rgb, std: Rgb
) -> Outputs:
    """The evaluation of one batch as one device sees it; `make_eval_step` says what goes in and out."""
    images = normalize_images(batch["image"], mean, std)
    logits = _classify(model, frozen, params, images, text_features)
    mask, classes = batch["mask"], logits.shape[-1]
    true = jax.nn.one_hot(batch["label"], classes, dtype=jnp.float32)  # [b, C]
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes, dtype=jnp.float32)
    per_example = losses.cross_entropy(logits, true)
    sums = {
        "confusion": (true * mask[:, None]).T @ predicted,
        "cross_entropy": jnp.sum(per_example * mask),
        "count": jnp.sum(mask),
    }
    return devices.sum_over_devices(sums)


def _classify(model: MPAFER, frozen: Frozen, params: Params, images: jax.Array, text_features: jax.Array) -> jax.Array:
    logits, _ = cast(
        tuple[jax.Array, Outputs],
        model.apply(variables(frozen.clip, params), images, text_features, method="classify"),
    )
    return logits


def make_text_step(*, model: MPAFER) -> Callable[[Params, Frozen], jax.Array]:
    """Compiles the encoding of the soft prompts, (params, frozen) -> theta(t) [C, D]: once per evaluation."""

    def step(params: Params, frozen: Frozen) -> jax.Array:
        features, _ = cast(
            tuple[jax.Array, jax.Array],
            model.apply(variables(frozen.clip, params), frozen.soft_prompts, method="encode_soft_prompts"),
        )
        return features

    return jax.jit(step)


def make_patch_sum_step(
    *, model: MPAFER, num_classes: int, of: Literal["features", "images"], mean: Rgb, std: Rgb
) -> Callable[[dict[str, Any], Any], Outputs]:
    """Compiles one batch's part of what a class's patches look like on average (`motion_prior`).

    Args:
      model: the model, of which only the frozen image tower is used.
      num_classes: C.
      of: what a patch is described by, K numbers: its feature z^l under the un-prompted tower, normalised (K = D), or
        its pixels on the scale 0..1 (K = 3 P^2, P pixels its side).
      mean: CLIP's mean of each colour, on the scale 0..1; read for features alone, as is `std`.
      std: likewise its standard deviation.

    Returns:
      step(clip_params, batch) -> sums over the whole batch: 'sum' [C, N, K] of the descriptions of each class's patches
      x, 'squares' [C, N] of |x|^2, 'count' [C].
    """
    patch_size = model.clip_config.vision.patch_size

    def describe(clip_params: dict[str, Any], images: jax.Array) -> jax.Array:
        if of == "images":
            return split_into_patches(images.astype(jnp.float32) / 255, patch_size)
        normalized = normalize_images(images, mean, std)
        patches = model.apply(variables(clip_params, {}), normalized, method="encode_patches_frozen")
        return normalize_features(cast(jax.Array, patches))

    def step(clip_params: dict[str, Any], batch: Batch) -> Outputs:
        described = describe(clip_params, batch["image"])  # [b, N, K]
        members = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32) * batch["mask"][:, None]  # [b, C]
        return devices.sum_over_devices(
            {
                "sum": jnp.einsum("bc,bnk->cnk", members, described),
                "squares": jnp.einsum("bc,bn->cn", members, jnp.sum(jnp.square(described), axis=-1)),
                "count": jnp.sum(members, axis=0),
            }
        )

    return devices.data_parallel(step, replicated=1)


def split_into_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Images [B, S, S, 3] -> patches [B, N, 3 P^2], in the order in which CLIP takes them: row by row."""
    batch, size, _, colors = images.shape
    side = size // patch_size
    cut = images[:, : side * patch_size, : side * patch_size].reshape(
        batch, side, patch_size, side, patch_size, colors
    )  # [B, rows, P, columns, P, 3]
    return jnp.swapaxes(cut, 2, 3).reshape(batch, side * side, patch_size * patch_size * colors)


def make_feature_step(*, model: MPAFER, mean: Rgb, std: Rgb) -> Callable[[dict[str, Any], Any], Outputs]:
    """Compiles the encoding of one batch by the frozen, un-prompted image tower.

    Args:
      model: the model, of which only the frozen image tower is used.
      mean: CLIP's mean of each colour, on the scale 0..1.
      std: likewise its standard deviation.

    Returns:
      step(clip_params, batch) -> of the whole batch, on every process: 'image_features' z^g [B, D], not normalised,
      and the batch's own 'index' and 'mask' [B] in the same order, which need not be the batch's.
    """

    def step(clip_params: dict[str, Any], batch: Batch) -> Outputs:
        images = normalize_images(batch["image"], mean, std)
        features = cast(jax.Array, model.apply(variables(clip_params, {}), images, method="encode_image_frozen"))
        return devices.gather_over_devices({"image_features": features, "index": batch["index"], "mask": batch["mask"]})

    return devices.data_parallel(step, replicated=1)


def make_prediction_step(*, model: MPAFER, mean: Rgb, std: Rgb) -> Callable[[Params, Frozen, jax.Array, Any], Outputs]:
    """Compiles the prediction of one batch, with what explains it; arguments as for `make_eval_step`.

    Returns:
      step(params, frozen, text_features [C, D], batch) -> of the whole batch, on every process: 'logits' [B, C],
      'image_features' and 'frozen_features' [B, D] (z^g with prompts and without, normalised), 'patch_scores' [B, N, C]
      where the model has a local score, and the batch's own 'index' and 'mask' [B] in the same order, which need not
      be the batch's.
    """

    def step(params: Params, frozen: Frozen, text_features: jax.Array, batch: Batch) -> Outputs:
        images = normalize_images(batch["image"], mean, std)
        prompted = model.apply(variables(frozen.clip, params), images, text_features, method="classify")
        logits, out = cast(tuple[jax.Array, Outputs], prompted)
        bare = cast(jax.Array, model.apply(variables(frozen.clip, {}), images, method="encode_image_frozen"))
        local = {"patch_scores": out["patch_scores"]} if "patch_scores" in out else {}
        return devices.gather_over_devices(
            {
                "logits": logits,
                "image_features": normalize_features(out["image_features"]),
                "frozen_features": normalize_features(bare),
                "index": batch["index"],
                "mask": batch["mask"],
                **local,
            }
        )

    return devices.data_parallel(step, replicated=3)
