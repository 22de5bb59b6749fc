"""The steps: training, evaluation, and those that run once (frozen image features, sums over patches).

Each `make_` function returns a step as one device computes it, on its part of the batch; `devices.data_parallel`
compiles it and runs it on all. The losses give values per example and per class; here they are reduced over the batch
and over the devices, and differentiated with respect to the prompts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.base import Outputs
from mpafer_jax.backbones.base import normalize as normalize_features
from mpafer_jax.method import losses
from mpafer_jax.method.forward import Batch, Forward, Params, TrainForward
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices

T = TypeVar("T")
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), both over all devices
TrainStep = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Params, Frozen, jax.Array, Batch], Outputs]
BackboneStep = Callable[[dict[str, Any], Batch], Outputs]


def make_train_step(
    *,
    forward: TrainForward,
    tx: optax.GradientTransformation,
    objective: losses.Objective,
    accumulate: int = 1,
    trained: Collection[str] | None = None,
) -> TrainStep:
    """One update of the prompts.

    Args:
      forward: from prompts and a batch to logits, a `Forward` or `forward_features`.
      tx: the update rule.
      objective: the loss.
      accumulate: into how many parts each device's share of the batch is split, one after the other, to save memory.
        The update is that of the whole batch.
      trained: names of the parameters that are trained (`optim.trained`), None for all. The gradient of any other is
        not computed: `tx` is given zeros for it, and 'grad_norm' is without it.

    Returns:
      step(state, frozen, batch) -> (state, metrics), to be compiled with `donate=(0,)`. `batch` comes from
      `devices.shard_batch`: what `forward` reads, label int32, label_distribution float32 [.., C], mask float32.
      `metrics` maps the name of every term, 'loss', 'accuracy' and 'grad_norm' to (sum, count).
    """

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        examples = devices.sum_over_devices(jnp.sum(batch["mask"]))
        # Terms without a batch axis are the same on every device and for every part: each adds its share of one whole,
        # or a sum over devices would count them once per device.
        share = 1 / (devices.num_devices() * accumulate)

        def part_loss(params: Params, part: Batch) -> tuple[jax.Array, Metrics]:
            if trained is not None:
                params = {name: x if name in trained else jax.lax.stop_gradient(x) for name, x in params.items()}
            logits, out = forward(params, frozen, part)
            context = losses.Context(
                options=objective.options,
                logits=logits,
                targets=part["label_distribution"],
                labels=part["label"],
                outputs=out,
                params=params,
                frozen=frozen,
            )
            per_example, per_class = objective.values(context, "example"), objective.values(context, "class")
            example_sums = {name: jnp.sum(values * part["mask"]) for name, values in per_example.items()}
            class_sums = {name: jnp.mean(values) * share for name, values in per_class.items()}
            # Divided by the count of the whole batch, so that gradients of parts and devices simply add up.
            loss = objective.total({**{name: value / examples for name, value in example_sums.items()}, **class_sums})
            count = jnp.sum(part["mask"])
            correct = jnp.sum((jnp.argmax(logits, axis=-1) == part["label"]) * part["mask"])
            metrics = {name: (value, count) for name, value in {**example_sums, "accuracy": correct}.items()}
            return loss, {**metrics, **{name: (value, share) for name, value in class_sums.items()}}

        parts = {name: x.reshape(accumulate, -1, *x.shape[1:]) for name, x in batch.items()}  # [b, ..] -> [A, b / A,..]
        gradient = cast(Callable[[Params, Batch], tuple[Params, Metrics]], jax.grad(part_loss, has_aux=True))
        grads, metrics = devices.sum_over_devices(_sum_over_parts(gradient, state.params, parts))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        one = jnp.ones((), jnp.float32)
        loss = objective.total({name: metrics[name][0] / metrics[name][1] for name in objective.weights})
        metrics = {**metrics, "loss": (loss, one), "grad_norm": (optax.tree.norm(grads), one)}
        return TrainState(step=state.step + 1, params=cast(Params, params), opt_state=opt_state), metrics

    return step


def _sum_over_parts(function: Callable[[Params, Batch], T], params: Params, parts: Batch) -> T:
    """Adds up function(params, part) over the leading axis of `parts`, one part at a time."""
    first = {name: x[0] for name, x in parts.items()}
    zeros = jax.tree.map(cast(Any, jnp.zeros_like), jax.eval_shape(function, params, first))

    def add(total: T, part: Batch) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def make_eval_step(forward: Forward) -> EvalStep:
    """The evaluation of one batch.

    Returns:
      step(params, frozen, text_features [C, D], batch) -> of the whole batch, on every process: 'logits' [B, C],
      'image_features' z^g [B, D] normalised, 'patch_scores' [B, N, C] where the model has a local score, and the
      batch's own 'index' and 'mask' [B] in the same order, which need not be the batch's.
    """

    def step(params: Params, frozen: Frozen, text_features: jax.Array, batch: Batch) -> Outputs:
        logits, out = forward.classify(forward.visual_prompts(params), frozen, batch["image"], text_features)
        local = {"patch_scores": out["patch_scores"]} if "patch_scores" in out else {}
        return _gather(batch, logits=logits, image_features=normalize_features(out["image_features"]), **local)

    return step


def _gather(batch: Batch, **rows: jax.Array) -> Outputs:
    """Rows [b, ..] of all devices with the position of each in the split, and its mask."""
    return devices.gather_over_devices({**rows, "index": batch["index"], "mask": batch["mask"]})


def make_feature_step(forward: Forward) -> BackboneStep:
    """The encoding of one batch by the frozen, un-prompted image tower.

    Returns:
      step(backbone, batch) -> of the whole batch, on every process: 'image_features' z^g [B, D], not normalised,
      'index' and 'mask' as in `make_eval_step`.
    """

    def step(backbone: dict[str, Any], batch: Batch) -> Outputs:
        return _gather(batch, image_features=forward.frozen_features(backbone, batch["image"]))

    return step


def make_patch_sum_step(forward: Forward, num_classes: int, of: Literal["features", "images"]) -> BackboneStep:
    """One batch's part of what a class's patches look like on average (`motion_prior`).

    Args:
      forward: the model, of which only the frozen image tower is used.
      num_classes: C.
      of: what a patch is described by, K numbers: its feature z^l under the un-prompted tower, normalised (K = D), or
        its pixels on the scale 0..1 (K = 3 P^2, P pixels its side).

    Returns:
      step(backbone, batch) -> sums over the whole batch: 'sum' [C, N, K] of the descriptions of each class's patches
      x, 'squares' [C, N] of |x|^2, 'count' [C].
    """
    patch_size = forward.model.backbone.spec.patch_size

    def step(backbone: dict[str, Any], batch: Batch) -> Outputs:
        images = batch["image"]
        if of == "images":
            described = split_into_patches(images.astype(jnp.float32) / 255, patch_size)  # [b, N, K]
        else:
            described = normalize_features(forward.frozen_patches(backbone, images))
        members = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32) * batch["mask"][:, None]  # [b, C]
        return devices.sum_over_devices(
            {
                "sum": jnp.einsum("bc,bnk->cnk", members, described),
                "squares": jnp.einsum("bc,bn->cn", members, jnp.sum(jnp.square(described), axis=-1)),
                "count": jnp.sum(members, axis=0),
            }
        )

    return step


def split_into_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Images [B, S, S, 3] -> patches [B, N, 3 P^2], in the order in which CLIP takes them: row by row."""
    batch, size, _, colors = images.shape
    side = size // patch_size
    cut = images[:, : side * patch_size, : side * patch_size].reshape(
        batch, side, patch_size, side, patch_size, colors
    )  # [B, rows, P, columns, P, 3]
    return jnp.swapaxes(cut, 2, 3).reshape(batch, side * side, patch_size * patch_size * colors)
