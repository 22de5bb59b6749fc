"""The update rule of pre-training."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

# The kernels of the towers' layers, each [layers, in, out].
_LAYERS = re.compile(r"clip/(visual|text)/blocks/.*/kernel")


def make_optimizer(schedule: optax.Schedule, *, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """Muon for the layers' matrices and AdamW without decay for all else, behind a limit on the gradient's norm.

    Muon makes the update of a matrix orthogonal (Jordan et al., 2024). In the scaling of Liu et al. (2025, "Muon is
    Scalable for LLM Training", section 2.2) it takes the learning rates of AdamW.

    Args:
      schedule: learning rate by update, of both.
      weight_decay: share of the learning rate by which the layers' matrices shrink at every update.
      clip_norm: largest global norm of the gradient, 0 for no limit.
    """
    muon = optax.contrib.muon(
        schedule,
        weight_decay=weight_decay,
        adam_b2=0.98,
        muon_weight_dimension_numbers=_layer_matrices,
        consistent_rms=0.2,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), muon) if clip_norm else muon


def _layer_matrices(params: Any) -> Any:
    """How Muon sees each parameter; None for what is AdamW's."""
    stacked = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def dimensions(path: Any, _: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        return stacked if _LAYERS.fullmatch(jax.tree_util.keystr(path, simple=True, separator="/")) else None

    return jax.tree_util.tree_map_with_path(dimensions, params)
