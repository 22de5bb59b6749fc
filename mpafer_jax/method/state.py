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
      params: what is trained, float32: the prompts {'ctx': .., 'visual_prompts': ..}; in pre-training a whole CLIP.
      opt_state: the optimizer's state for them.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: optax.OptState


@struct.dataclass
class Frozen:
    """What the steps read and never change: kept beside the state, never donated, never saved.

    Attributes:
      clip: CLIP's parameters.
      soft_prompts: the class prompts, embedded once, with their context still missing.
      hard_text_features: theta(t*) [G, C, D], in G groups of hard prompts.
      hard_token_features: t* [G, C, W].
      prototypes: p [C, D]; None where no loss reads them.
    """

    clip: dict[str, Any]
    soft_prompts: TextEmbeddings
    hard_text_features: jax.Array
    hard_token_features: jax.Array
    prototypes: jax.Array | None = None
