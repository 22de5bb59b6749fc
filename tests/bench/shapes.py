"""Training and evaluation steps of a configuration on abstract arrays; needs neither data nor weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpafer_jax.backbones.clip.load import read_config
from mpafer_jax.backbones.clip.model import CLIP, ClipConfig
from mpafer_jax.backbones.clip.rules import param_shapes, param_type, unflatten
from mpafer_jax.backbones.files import OPENAI, find_files
from mpafer_jax.config.schema import Config
from mpafer_jax.data.readers import READERS
from mpafer_jax.method import build, optim, steps
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.losses import Objective
from mpafer_jax.method.prompts import TextEmbeddings
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError
from tests.bench.sizes import PUBLISHED

_NUM_STEPS = 1000  # no shape depends on it


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """A step to trace, lower and compile.

    Attributes:
      function: jitted.
      arguments: shapes and types, global for sharded arrays.
      images: per call, over all devices.
    """

    function: Any
    arguments: tuple[Any, ...]
    images: int


def find_clip_config(config: Config) -> ClipConfig:
    """The shape of the configured CLIP: known for OpenAI's, else read from config.json."""
    section = config.clip
    name = OPENAI[section.name].repository if section.name in OPENAI else section.name
    if name in PUBLISHED:
        return PUBLISHED[name]
    try:
        path = find_files(name, revision=section.revision, cache_dir=section.cache_dir).config
        if path is None:
            raise ValueError("a file of weights alone does not say its shape here; `mpafer-jax clip convert` it")
        return read_config(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.clip.name is {section.name!r}: {error}") from error


def count_classes(config: Config, num_classes: int | None = None) -> int:
    """Number of classes of the configuration; `num_classes` if only the dataset knows."""
    if num_classes is not None:
        return num_classes
    names: Sequence[str] = config.data.class_names or READERS[config.data.dataset].class_names
    if not names:
        raise ConfigError(
            f"the classes of dataset {config.data.dataset!r} are known from its files alone; give --num_classes"
        )
    return len(names)


def train_step(config: Config, clip: ClipConfig, num_classes: int, on: Sequence[Any]) -> AbstractStep:
    model = build.make_model(config, CLIP(clip), num_classes)
    params = model.learner.param_shapes()
    tx, _ = optim.configured_optimizer(config, model.learner, _NUM_STEPS)
    step = steps.make_train_step(
        forward=Forward(build.training_model(config, model), config.data.mean, config.data.std),
        tx=tx,
        objective=Objective.of(config.loss),
        accumulate=config.train.accumulate,
        trained=optim.trained(params, config.optimizer.lr_scales),
    )
    state = TrainState(_abstract((), jnp.int32), params, jax.eval_shape(tx.init, params))
    batch = _batch(config.train.batch_size, clip, num_classes)
    frozen = _frozen(config, clip, num_classes)
    function = devices.data_parallel(step, donate=(0,), on=on)
    return AbstractStep(function, (state, frozen, batch), config.train.batch_size)


def eval_step(config: Config, clip: ClipConfig, num_classes: int, on: Sequence[Any]) -> AbstractStep:
    model = build.make_model(config, CLIP(clip), num_classes)
    step = steps.make_eval_step(Forward(model, config.data.mean, config.data.std))
    params = model.learner.param_shapes()
    batch = _batch(config.eval.batch_size, clip, num_classes)
    batch = {"image": batch["image"], "index": batch["label"], "mask": batch["mask"]}
    text = _abstract((num_classes, clip.projection_dim), jnp.float32)
    function = devices.data_parallel(step, on=on)
    return AbstractStep(function, (params, _frozen(config, clip, num_classes), text, batch), config.eval.batch_size)


def _abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    """A `jax.ShapeDtypeStruct`, typed as an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _batch(size: int, clip: ClipConfig, num_classes: int) -> dict[str, Any]:
    side = clip.vision.image_size
    return {
        "image": _abstract((size, side, side, 3), jnp.uint8),
        "label": _abstract((size,), jnp.int32),
        "label_distribution": _abstract((size, num_classes), jnp.float32),
        "mask": _abstract((size,), jnp.float32),
    }


def _frozen(config: Config, clip: ClipConfig, num_classes: int) -> Frozen:
    flat = {path: _abstract(shape, param_type(path, config.clip.dtype)) for path, shape in param_shapes(clip).items()}
    # SOS, context, a name of one token, full stop, EOS. Longer names add one or two positions.
    length = config.ctx.num_ctx + 4
    section = config.hard_prompts
    groups = len(section.granularity) if section.type == 3 and section.combine == "separate" else 1
    per_class = functools.partial(_abstract, dtype=jnp.float32)
    prototypes = per_class((num_classes, clip.projection_dim)) if Objective.of(config.loss).reads_prototypes else None
    return Frozen(
        backbone=unflatten(flat),
        soft_prompts=TextEmbeddings(
            embeddings=_abstract((num_classes, length, clip.text.hidden_size), jnp.float32),
            ends=_abstract((num_classes,), jnp.int32),
            content=_abstract((num_classes, length), np.bool_),
        ),
        hard_text_features=per_class((groups, num_classes, clip.projection_dim)),
        hard_token_features=per_class((groups, num_classes, clip.text.hidden_size)),
        prototypes=prototypes,
    )
