"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from absl import logging

from mpafer_jax.config import ConfigError


def make_schedule(*, learning_rate: float, warmup_steps: int, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to zero at `num_steps`.

    Args:
      learning_rate: the peak, reached after the warm-up.
      warmup_steps: updates of warm-up; the first one already moves, at 1 / (warmup_steps + 1) of the peak.
      num_steps: updates in all.

    Raises:
      ConfigError: the warm-up would not end before the run does.
    """
    if warmup_steps >= num_steps:
        raise ConfigError(
            f"optimizer.warmup_steps is {warmup_steps}, which must be less than the run's {num_steps} steps; lower it, "
            "or train longer (train.num_epochs, or train.num_steps with num_epochs 0)"
        )
    warmup = optax.linear_schedule(learning_rate / (warmup_steps + 1), learning_rate, warmup_steps)
    decay = optax.cosine_decay_schedule(learning_rate, num_steps - warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def factor_of(name: str, lr_scales: Sequence[tuple[str, float]]) -> float:
    """The factor of a parameter's learning rate, 0 where it is frozen.

    Args:
      name: its path ('ctx', 'visual_prompts').
      lr_scales: see `make_optimizer`.

    Raises:
      ConfigError: no pattern matches it.
    """
    pattern = _first_match(name, [pattern for pattern, _ in lr_scales])
    return dict(lr_scales)[pattern]


def _first_match(name: str, patterns: Sequence[str]) -> str:
    for pattern in patterns:
        if re.fullmatch(pattern, name):
            return pattern
    raise ConfigError(f"optimizer.lr_scales: no pattern of {list(patterns)} matches the parameter {name!r}")


def match_patterns(params: Any, patterns: Sequence[str]) -> Any:
    """For each parameter the first pattern that matches its whole path ('ctx', 'visual_prompts').

    Raises:
      ConfigError: a parameter that no pattern matches.
    """

    def matching(path: Any, leaf: Any) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        pattern = _first_match(name, patterns)
        logging.info("optimizer: %s %s is matched by %r", name, tuple(leaf.shape), pattern)
        return pattern

    return jax.tree_util.tree_map_with_path(matching, params)


def make_optimizer(
    params: Any,
    *,
    name: str,
    schedule: optax.Schedule,
    lr_scales: Sequence[tuple[str, float]],
    momentum: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """The whole update rule.

    Args:
      params: the parameters, for their names.
      name: 'sgd' (weight decay added to the gradient, as in PyTorch) or 'adamw' (decoupled).
      schedule: learning rate by step.
      lr_scales: ordered (pattern, factor) pairs; the first that matches a parameter's path scales its learning rate,
        0 leaves it as it is. Every parameter must be matched.
      momentum: of SGD, or Adam's b1.
      weight_decay: see `name`.
      clip_norm: largest global norm of the gradient, 0 for no limit.
    """

    def rule(scale: float) -> optax.GradientTransformation:
        if not scale:
            return optax.set_to_zero()

        def scaled(step: Any) -> Any:
            return scale * schedule(step)

        if name == "sgd":
            return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(scaled, momentum=momentum))
        return optax.adamw(scaled, b1=momentum, weight_decay=weight_decay)

    labels = match_patterns(params, [pattern for pattern, _ in lr_scales])
    update = optax.partition({pattern: rule(scale) for pattern, scale in lr_scales}, labels)
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update
