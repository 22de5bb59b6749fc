"""A convolutional teacher, trained on the images that the CLIP is trained on afterwards, and then left behind.

From few images a ViT learns neighbourhoods of pixels slowly; convolutions have them built in. The teacher's answers
join the truth of the statements (Touvron et al., DeiT, ICML 2021), and its maps guide the patches (Li et al., Locality
Guidance for Improving Vision Transformers on Tiny Datasets, ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.jobs.pretraining import losses
from mpafer_jax.method.forward import Rgb
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices

_MOMENTUM = 0.97  # of the running means and variances
_GUIDES = 2  # the last so many stages

Variables = dict[str, Any]
Teacher = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""Images uint8 [B, S, S, 3] -> logits of the statements [B, A], and the maps at each patch, [B, N, F]; the F of a stage
have mean 0 and variance 1."""


class ConvNet(nn.Module):
    """A small residual network: a stem of stride 2, and stages of 3 x 3 convolutions, each but the first of stride 2.

    Attributes:
      widths: channels of each stage.
      layers: convolutions of each stage.
      num_outputs: A.
    """

    widths: tuple[int, ...]
    layers: int
    num_outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        """Logits [B, A] and the maps [B, H, W, F] of each stage, for normalised images [B, S, S, 3]."""

        def layer(x: jax.Array, width: int, side: int, stride: int) -> jax.Array:
            he = nn.initializers.he_normal()
            x = nn.Conv(width, (side, side), (stride, stride), use_bias=False, kernel_init=he)(x)
            axis = devices.AXIS if train else None
            return nn.BatchNorm(use_running_average=not train, momentum=_MOMENTUM, axis_name=axis)(x)

        x, maps = nn.relu(layer(images, self.widths[0], 5, 2)), list[jax.Array]()
        for stage, width in enumerate(self.widths):
            for number in range(self.layers):
                stride = 2 if stage and not number else 1
                y = nn.relu(layer(x, width, 3, stride))
                x = x + y if number else y
            maps.append(x)
        logits = nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros)(x.mean((1, 2)))
        return logits, maps


def init(net: ConvNet, image_size: int, seed: int) -> Variables:
    """Variables 'params' and 'batch_stats'."""
    images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return cast(Variables, net.init(jax.random.key(seed), images, train=False))


def kernels(params: Any) -> Any:
    """Muon's axes of the kernels of 3 x 3 convolutions; None for the rest, see `optimizer.make_optimizer`."""
    wide = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)

    def dimension(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        return wide if leaf.ndim == 4 and leaf.shape[0] == 3 else None

    return jax.tree.map(dimension, params)


def make_train_step(
    net: ConvNet, tx: optax.GradientTransformation, groups: losses.Groups, mean: Rgb, std: Rgb
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Compiles one update: step(state, batch) -> (state, metrics), with the batches of `steps.make_train_step`.

    `state` is donated; its params are `init`'s variables.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        count = devices.sum_over_devices(jnp.asarray(batch["image"].shape[0], jnp.float32))
        images = normalize_images(batch["image"], mean, std)

        def loss_fn(params: Variables) -> tuple[jax.Array, Variables]:
            variables = {"params": params, "batch_stats": state.params["batch_stats"]}
            (logits, _), changed = cast(Any, net.apply(variables, images, train=True, mutable=["batch_stats"]))
            return jnp.sum(losses.statements(logits, batch["truth"], groups)) / count, changed

        (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params["params"])
        loss, grads = devices.sum_over_devices((loss, grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params["params"])
        params = {"params": optax.apply_updates(state.params["params"], updates), **changed}
        one = jnp.ones((), jnp.float32)
        metrics: Metrics = {"loss": (loss, one), "grad_norm": (optax.tree.norm(grads), one)}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return devices.data_parallel(step, donate=(0,))


def make_teacher(net: ConvNet, variables: Variables, mean: Rgb, std: Rgb, side: int) -> Teacher:
    """The trained network as a function.

    Args:
      side: patches along a side of an image; maps are resized to as many points.
    """

    def teacher(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        answer = net.apply(variables, normalize_images(image, mean, std), train=False)
        logits, maps = cast(tuple[jax.Array, list[jax.Array]], answer)
        guides: list[jax.Array] = []
        for part in maps[-_GUIDES:]:
            size = (len(image), side, side, part.shape[-1])
            points = cast(jax.Array, cast(Any, jax).image.resize(part, size, "linear"))
            guides.append(jax.nn.standardize(points.reshape(len(image), side * side, -1), axis=-1, epsilon=1e-3))
        return logits, jnp.concatenate(guides, axis=-1)

    return teacher


def num_maps(widths: Sequence[int]) -> int:
    """F, channels of the maps that guide."""
    return sum(widths[-_GUIDES:])
