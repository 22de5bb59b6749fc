"""Steps of training, evaluation, frozen image features and sums over patches.

Each `make_` function returns the step of one device, on its part of the batch; `devices.data_parallel` compiles it and
runs it on all. Losses are reduced over batch and devices here.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.base import Outputs, l2_normalize
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.method import losses
from mpafer_jax.method.forward import Batch, Forward, Params, TrainForward
from mpafer_jax.method.optim import trained_params
from mpafer_jax.method.outliers import mean_patch
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices

T = TypeVar("T")
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), both over all devices
TrainStep = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]
GroupStep = Callable[[Sequence[TrainState], Sequence[Frozen], Batch], tuple[tuple[TrainState, Metrics], ...]]
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
    """The training step.

    Args:
      forward: `Forward` or `forward_features`.
      tx: the optimizer; gets the argument 'numbers' of `Frozen` (`optim.configured_optimizer`).
      objective: the loss.
      accumulate: number of sequential parts of each device's batch, to save memory; the update is that of the whole
        batch.
      trained: names of trained parameters (`optim.trained`), None for all. The others get zero gradients and do not
        count for 'grad_norm'.

    Returns:
      step(state, frozen, batch) -> (state, metrics), to be compiled with `donate=(0,)`. `batch` comes from
      `devices.shard_batch`: inputs of `forward`, label int32, label_distribution float32 [.., C], mask float32.
      `metrics` maps every term, 'loss', 'accuracy' and 'grad_norm' to (sum, count).
    """

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        weighted = objective.with_numbers(frozen.numbers)
        examples = devices.sum_over_devices(jnp.sum(batch["mask"]))
        # Terms without a batch axis are equal for all devices and parts: each adds its share, or the sum would count
        # them several times.
        share = 1 / (devices.num_devices() * accumulate)

        def part_loss(params: Params, part: Batch) -> tuple[jax.Array, Metrics]:
            if trained is not None:
                params = {name: x if name in trained else jax.lax.stop_gradient(x) for name, x in params.items()}
            logits, out = forward(params, frozen, part)
            context = losses.Context(
                options=weighted.options,
                logits=logits,
                targets=part["label_distribution"],
                labels=part["label"],
                outputs=out,
                params=params,
                frozen=frozen,
                step=state.step,
            )
            per_example, per_class = weighted.values(context, "example"), weighted.values(context, "class")
            example_sums = {name: jnp.sum(values * part["mask"]) for name, values in per_example.items()}
            class_sums = {name: jnp.mean(values) * share for name, values in per_class.items()}
            # Divided by the count of the whole batch, so that gradients of parts and devices add up.
            loss = weighted.total({**{name: value / examples for name, value in example_sums.items()}, **class_sums})
            count = jnp.sum(part["mask"])
            correct = jnp.sum((jnp.argmax(logits, axis=-1) == part["label"]) * part["mask"])
            metrics = {name: (value, count) for name, value in {**example_sums, "accuracy": correct}.items()}
            return loss, {**metrics, **{name: (value, share) for name, value in class_sums.items()}}

        parts = {name: x.reshape(accumulate, -1, *x.shape[1:]) for name, x in batch.items()}  # [b, ..] -> [A, b / A,..]
        gradient = cast(Callable[[Params, Batch], tuple[Params, Metrics]], jax.grad(part_loss, has_aux=True))
        at = trained_params(state.params, state.opt_state)
        grads, metrics = devices.sum_over_devices(_sum_over_parts(gradient, at, parts))
        update = optax.with_extra_args_support(tx).update
        updates, opt_state = update(grads, state.opt_state, state.params, numbers=frozen.numbers)
        params = optax.apply_updates(state.params, updates)
        one = jnp.ones((), jnp.float32)
        loss = weighted.total({name: metrics[name][0] / metrics[name][1] for name in weighted.weights})
        metrics = {**metrics, "loss": (loss, one), "grad_norm": (optax.tree.norm(grads), one)}
        return TrainState(step=state.step + 1, params=cast(Params, params), opt_state=opt_state), metrics

    return step


def make_group_step(step: TrainStep, *, shared_batch: bool, in_turn: bool = False) -> GroupStep:
    """The training step of several runs at once: `step` vectorised over their states and constants.

    Args:
      step: from `make_train_step`, for runs that differ in states, in constants other than the backbone, and in the
        numbers of `Frozen`; all of one shape.
      shared_batch: whether all runs see the same batch, as `step` takes it. Otherwise its arrays are [b, runs, ..].
      in_turn: whether to loop over the runs in place of vectorising: it takes the memory of one run's step.

    Returns:
      step(states, constants, batch) -> (state, metrics) of each run, to be compiled as `make_train_step`'s. All runs
      take the first one's backbone.
    """

    def of_group(
        states: Sequence[TrainState], frozen: Sequence[Frozen], batch: Batch
    ) -> tuple[tuple[TrainState, Metrics], ...]:
        backbone = frozen[0].backbone
        state, others = _stack(states), _stack([dataclasses.replace(of_one, backbone={}) for of_one in frozen])
        batches = {} if shared_batch else {name: jnp.moveaxis(x, 1, 0) for name, x in batch.items()}

        def of_run(run: tuple[TrainState, Frozen, Batch]) -> tuple[TrainState, Metrics]:
            state, constants, own = run
            return step(state, dataclasses.replace(constants, backbone=backbone), own or batch)

        runs = (state, others, batches)
        result = cast(Any, jax.lax.map)(of_run, runs) if in_turn else jax.vmap(of_run)(runs)
        return tuple(jax.tree.map(operator.itemgetter(run), result) for run in range(len(states)))

    return of_group


def _stack(trees: Sequence[T]) -> T:
    """Joins arrays of trees of one structure along a new first axis."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def _sum_over_parts(function: Callable[[Params, Batch], T], params: Params, parts: Batch) -> T:
    """Sums function(params, part) over the leading axis of `parts`, one part at a time."""
    first = {name: x[0] for name, x in parts.items()}
    zeros = jax.tree.map(cast(Any, jnp.zeros_like), jax.eval_shape(function, params, first))

    def add(total: T, part: Batch) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def make_eval_step(forward: Forward) -> EvalStep:
    """The evaluation step.

    Returns:
      step(params, frozen, text_features [C, D], batch) -> outputs of the global batch on every process: 'logits'
      [B, C], 'image_features' z^g [B, D] normalised, 'mean_patch' [B, D] (`outliers`), with a local score
      'patch_scores' [B, N, C], and 'index' and 'mask' [B]. The order may differ from the batch's.
    """

    def step(params: Params, frozen: Frozen, text_features: jax.Array, batch: Batch) -> Outputs:
        prompts, merged = forward.image_prompts(params), forward.merged(params, frozen)
        logits, out = forward.classify(prompts, merged, batch["image"], text_features)
        features = {
            "image_features": l2_normalize(out["image_features"]),
            "mean_patch": mean_patch(out["patch_features"]),
        }
        local = {"patch_scores": out["patch_scores"]} if "patch_scores" in out else {}
        return _gather(batch, logits=logits, **features, **local)

    return step


def _gather(batch: Batch, **rows: jax.Array) -> Outputs:
    """Gathers rows [b, ..] of all devices with their 'index' in the split and 'mask'."""
    return devices.gather_over_devices({**rows, "index": batch["index"], "mask": batch["mask"]})


def make_feature_step(forward: Forward) -> BackboneStep:
    """Encodes a batch with the frozen, un-prompted image tower.

    Returns:
      step(backbone, batch) -> outputs of the global batch on every process: 'image_features' z^g [B, D], not
      normalised, 'index' and 'mask' as in `make_eval_step`.
    """

    def step(backbone: dict[str, Any], batch: Batch) -> Outputs:
        return _gather(batch, image_features=forward.frozen_features(backbone, batch["image"]))

    return step


def make_patch_sum_step(forward: Forward, num_classes: int, of: Literal["features", "images"]) -> BackboneStep:
    """Sums patch descriptors by class (`motion_prior`).

    Args:
      forward: only its frozen image tower is used.
      num_classes: C.
      of: descriptor of size K: the normalised un-prompted feature z^l (K = D), or pixels in 0..1 as the CLIP sees
        them (K = 3 P^2, P the patch size; grey ones three times).

    Returns:
      step(backbone, batch) -> sums over the global batch: 'sum' [C, N, K] of the descriptors x, 'squares' [C, N] of
      |x|^2, 'count' [C].
    """
    patch_size = forward.model.backbone.spec.patch_size

    def step(backbone: dict[str, Any], batch: Batch) -> Outputs:
        images = batch["image"]
        if of == "images":
            pixels = normalize_images(images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), grayscale=forward.grayscale)
            described = split_into_patches(pixels, patch_size)  # [b, N, K]
        else:
            described = l2_normalize(forward.frozen_patches(backbone, images))
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
    """Images [B, S, S, 3] -> patches [B, N, 3 P^2], in row-major order as CLIP's."""
    batch, size, _, colors = images.shape
    side = size // patch_size
    cut = images[:, : side * patch_size, : side * patch_size].reshape(
        batch, side, patch_size, side, patch_size, colors
    )  # [B, rows, P, columns, P, 3]
    return jnp.swapaxes(cut, 2, 3).reshape(batch, side * side, patch_size * patch_size * colors)
