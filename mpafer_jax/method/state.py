"""State of training, and the constants of a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
from flax import struct

from mpafer_jax.method.prompts import TextEmbeddings

if TYPE_CHECKING:
    import optax


@struct.dataclass
class TrainState:
    """Everything that training changes and a checkpoint saves.

    Attributes:
      step: [] int32, number of updates.
      params: float32, of a prompt learner; in pre-training of a whole CLIP.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: optax.OptState


@struct.dataclass
class Frozen:
    """Constants of a step, never donated or saved.

    Attributes:
      backbone: parameters.
      soft_prompts: embedded class prompts, without context.
      hard_text_features: theta(t*) [G, C, D] of G groups of hard prompts; G is 0 without training.
      hard_token_features: t* [G, C, W].
      prototypes: p [C, D]; None if no loss reads them.
      class_counts: n_c [C] float32, training labels of each class; None if no loss reads them.
      patch_weights: w [C, N] of the local scores (`motion_prior`), None for equal weights.
      numbers: hyper-parameters by section of the configuration and field (`semantics.traced_numbers`), [] each. The
        training step reads them in place of the configured ones, which it would hold as constants, so that runs that
        differ in them share the compiled step.
    """

    backbone: dict[str, Any]
    soft_prompts: TextEmbeddings
    hard_text_features: jax.Array
    hard_token_features: jax.Array
    prototypes: jax.Array | None = None
    class_counts: jax.Array | None = None
    patch_weights: jax.Array | None = None
    numbers: dict[str, dict[str, jax.Array]] = dataclasses.field(default_factory=dict[str, dict[str, jax.Array]])
