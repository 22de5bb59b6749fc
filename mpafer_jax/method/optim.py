"""Optimizer, learning-rate schedule, and the average of prompts over training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from mpafer_jax.config.schema import Config, OptimizerSection
from mpafer_jax.method.prompts import PromptLearner
from mpafer_jax.runtime.errors import ConfigError


def make_schedule(*, learning_rate: float, warmup_steps: int, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to zero at `num_steps`.

    Args:
      learning_rate: the peak, reached after the warm-up.
      warmup_steps: the first has 1 / (warmup_steps + 1) of the peak, not 0.
      num_steps: all updates, warm-up included.
    """
    check_length(warmup_steps=warmup_steps, num_steps=num_steps)
    warmup = optax.linear_schedule(learning_rate / (warmup_steps + 1), learning_rate, warmup_steps)
    decay = optax.cosine_decay_schedule(learning_rate, num_steps - warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def check_length(*, warmup_steps: int, num_steps: int) -> None:
    """Refuses a run without steps, or none after its warm-up; arguments as for `make_schedule`.

    Raises:
      ConfigError: names the field.
    """
    if num_steps < 1:
        raise ConfigError(
            f"the run has {num_steps} steps, so nothing would be trained; train longer (train.num_epochs, or "
            "train.num_steps with num_epochs 0)"
        )
    if warmup_steps >= num_steps:
        raise ConfigError(
            f"optimizer.warmup_steps is {warmup_steps}, which must be less than the run's {num_steps} steps; lower it, "
            "or train longer (train.num_epochs, or train.num_steps with num_epochs 0)"
        )


def trained(names: Iterable[str], lr_scales: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """Names of parameters that are trained, i.e. whose factor in `lr_scales` is not 0; see `make_optimizer`."""
    factors, patterns = dict(lr_scales), [pattern for pattern, _ in lr_scales]
    return tuple(name for name in names if factors[_first_match(name, patterns)])


def check_patterns(names: Iterable[str], lr_scales: Sequence[tuple[str, float]]) -> None:
    """Refuses a pattern that matches none of a learner's parameters: what it should freeze would be trained.

    Those of the defaults are allowed, since methods leave out the parameters that they do not have.

    Raises:
      ConfigError: names the patterns and the parameters.
    """
    names, usual = tuple(names), [pattern for pattern, _ in OptimizerSection().lr_scales]
    if idle := [
        pattern
        for pattern, _ in lr_scales
        if pattern not in usual and not any(re.fullmatch(pattern, name) for name in names)
    ]:
        raise ConfigError(
            f"optimizer.lr_scales: {', '.join(map(repr, idle))} matches none of the parameters {', '.join(names)}; a "
            "pattern has to match the whole of a name"
        )


def _first_match(name: str, patterns: Sequence[str]) -> str:
    for pattern in patterns:
        if re.fullmatch(pattern, name):
            return pattern
    raise ConfigError(f"optimizer.lr_scales: no pattern of {list(patterns)} matches the parameter {name!r}")


def make_optimizer(
    names: Iterable[str],
    *,
    name: str,
    schedule: optax.Schedule,
    lr_scales: Sequence[tuple[str, float]],
    momentum: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """The optimizer.

    Args:
      names: of all parameters.
      name: 'sgd' (weight decay added to the gradient, as in PyTorch) or 'adamw' (decoupled).
      schedule: learning rate by step.
      lr_scales: ordered (regex, factor) pairs; the first that matches a parameter's whole name scales its learning
        rate. 0 freezes it, and its gradient does not count for the norm. Every parameter must match.
      momentum: of SGD, or Adam's b1.
      weight_decay: see `name`.
      clip_norm: maximum global norm of the trained parameters' gradient, 0 for no limit.
    """

    def rule(scale: float) -> optax.GradientTransformation:
        if not scale:
            return optax.set_to_zero()

        def scaled(step: Any) -> Any:
            return scale * schedule(step)

        if name == "sgd":
            return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(scaled, momentum=momentum))
        return optax.adamw(scaled, b1=momentum, weight_decay=weight_decay)

    labels = {name: _first_match(name, [pattern for pattern, _ in lr_scales]) for name in names}
    frozen = {name: not dict(lr_scales)[pattern] for name, pattern in labels.items()}
    if all(frozen.values()):
        raise ConfigError(
            f"optimizer.lr_scales {tuple(lr_scales)} freezes every parameter that there is, so that nothing would be "
            "trained; give one of them a factor above 0"
        )
    update = optax.partition({pattern: rule(scale) for pattern, scale in lr_scales}, labels)
    if not clip_norm:
        return update
    limit = optax.clip_by_global_norm(clip_norm)
    if any(frozen.values()):
        return optax.chain(optax.masked(optax.set_to_zero(), frozen), limit, update)
    return optax.chain(limit, update)


class Averaged(NamedTuple):
    """State of `gaussian_average`.

    Attributes:
      trained: the parameters that gradients update; the ones outside are their average.
      inner: state of the optimizer.
      step: [] int32, number of updates.
    """

    trained: Any
    inner: optax.OptState
    step: jax.Array


def gaussian_shares(num_steps: int, parts: int, mean: float, deviation: float) -> npt.NDArray[np.float32]:
    """Share [num_steps] of the prompts after each update in their running average: a_t = a_{t-1} + s_t (P_t - a_{t-1}).

    PromptSRC's average (Khattak et al., 2023) is sum_i w_i P_i / sum_i w_i over the prompts P_i after each part
    i = 1..E of training, w_i ~ exp(-(i - mean)^2 / (2 deviation^2)). With s = w_i / (w_1 + .. + w_i) after part i and 0
    elsewhere, the running average ends as that, and is at any time that of the parts so far; until the end of the first
    part it is the prompts themselves.

    Args:
      num_steps: updates of the run.
      parts: E; the authors' code takes an epoch for each.
      mean, deviation: of the Gaussian, in parts.
    """
    part = np.arange(1, parts + 1)
    log_weights = -0.5 * ((part - mean) / deviation) ** 2
    shares = np.exp(log_weights - np.logaddexp.accumulate(log_weights))  # the weights alone would underflow
    ends = -(-part * num_steps // parts)
    rest = np.ones(num_steps)  # product of 1 - s over the parts that end with an update
    np.multiply.at(rest, ends - 1, 1 - shares)
    rest[: ends[0]] = 0
    return (1 - rest).astype(np.float32)


def gaussian_average(tx: optax.GradientTransformation, shares: npt.NDArray[np.float32]) -> optax.GradientTransformation:
    """An optimizer whose parameters are the running average of those that it trains.

    Gradients are to be taken at `trained_params`. What is evaluated, exported and saved as parameters is the average;
    the trained ones are in the optimizer's state, with which a run resumes. For `shares` see `gaussian_shares`.
    """

    def init(params: Any) -> Averaged:
        copies = jax.tree.map(cast(Any, jnp.array), params)  # donated beside the parameters
        return Averaged(copies, tx.init(params), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Averaged]:
        updates, inner = tx.update(updates, state.inner, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        share = jnp.asarray(shares)[state.step]

        def towards(new: jax.Array, average: jax.Array) -> jax.Array:
            return share * (new - average)

        change = jax.tree.map(towards, trained, params)
        return change, Averaged(trained, inner, state.step + 1)

    return optax.GradientTransformation(init, update)


def trained_params(params: Any, opt_state: optax.OptState) -> Any:
    """The parameters to take gradients at: `params`, or the trained ones of which they are an average."""
    return opt_state.trained if isinstance(opt_state, Averaged) else params


def configured_optimizer(
    config: Config, learner: PromptLearner, num_steps: int
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule]:
    """Optimizer of a learner's parameters, and the learning rate by step.

    The optimizer's update takes `numbers` (`Frozen.numbers`), whose section 'optimizer' replaces the configured values.

    Raises:
      ConfigError: the warm-up is longer than the run, or a parameter has no learning rate.
    """
    names = tuple(learner.param_shapes())

    def make(section: OptimizerSection) -> tuple[optax.GradientTransformation, optax.Schedule]:
        schedule = make_schedule(
            learning_rate=section.learning_rate, warmup_steps=section.warmup_steps, num_steps=num_steps
        )
        tx = make_optimizer(
            names,
            name=section.name,
            schedule=schedule,
            lr_scales=section.lr_scales,
            momentum=section.momentum,
            weight_decay=section.weight_decay,
            clip_norm=section.clip_norm,
        )
        if section.average:
            shares = gaussian_shares(num_steps, section.average, section.average_mean, section.average_std)
            tx = gaussian_average(tx, shares)
        return tx, schedule

    def update(
        updates: Any, state: Any, params: Any = None, *, numbers: Mapping[str, Mapping[str, Any]] | None = None
    ) -> tuple[Any, Any]:
        changed, _ = make(config.optimizer.model_copy(update=(numbers or {}).get("optimizer")))
        return changed.update(updates, state, params)

    configured, schedule = make(config.optimizer)
    return optax.GradientTransformationExtraArgs(configured.init, cast(Any, update)), schedule
