"""Optimizer of pre-training."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

# The kernels of the towers' layers, each [layers, in, out].
_LAYERS = re.compile(r"clip/(visual|text)/blocks/.*/kernel")


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, clip_norm: float, matrices: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Muon for the layers' matrices, AdamW without weight decay for all else, after gradient clipping.

    Muon (Jordan et al., 2024) orthogonalizes the update of a matrix; scaled as in Liu et al. (2025, "Muon is Scalable
    for LLM Training", section 2.2) it uses AdamW's learning rates.

    Args:
      schedule: learning rate by update, of both.
      weight_decay: of the layers' matrices, times the learning rate.
      clip_norm: maximum global norm of the gradient, 0 for none.
      matrices: parameters -> Muon's axes of each, None for AdamW; by default those of the towers' layers.
    """
    muon = optax.contrib.muon(
        schedule,
        weight_decay=weight_decay,
        adam_b2=0.98,
        muon_weight_dimension_numbers=matrices or _layer_matrices,
        consistent_rms=0.2,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), muon) if clip_norm else muon


def _layer_matrices(params: Any) -> Any:
    """Muon's axes of each parameter; None for AdamW."""
    stacked = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)

    def dimensions(path: Any, _: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        return stacked if _LAYERS.fullmatch(jax.tree_util.keystr(path, simple=True, separator="/")) else None

    return jax.tree_util.tree_map_with_path(dimensions, params)
