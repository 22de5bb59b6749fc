"""What a step reads and writes."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import struct

from mpafer_jax.method.prompts import TextEmbeddings


@struct.dataclass
class TrainState:
    """All that training changes, and all that a checkpoint must hold to resume.

    Attributes:
      step: [] int32, how many updates were made.
      params: what is trained, float32: a prompt learner's parameters; in pre-training a whole CLIP.
      opt_state: the optimizer's state for them.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: optax.OptState


@struct.dataclass
class Frozen:
    """What the steps read and never change: kept beside the state, never donated, never saved.

    Attributes:
      backbone: its parameters.
      soft_prompts: the class prompts, embedded once, with their context still missing.
      hard_text_features: theta(t*) [G, C, D], in G groups of hard prompts; G is 0 where nothing is trained.
      hard_token_features: t* [G, C, W].
      prototypes: p [C, D]; None where no loss reads them.
      patch_weights: w [C, N] of the local scores (`motion_prior`), None for equal ones.
    """

    backbone: dict[str, Any]
    soft_prompts: TextEmbeddings
    hard_text_features: jax.Array
    hard_token_features: jax.Array
    prototypes: jax.Array | None = None
    patch_weights: jax.Array | None = None
