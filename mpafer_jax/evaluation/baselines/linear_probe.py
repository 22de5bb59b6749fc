"""Linear probe: multinomial logistic regression on frozen image features z^g, as in the CLIP paper.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.2 and appendix
A.3: L2 penalty chosen on the validation split from a logarithmic grid, L-BFGS for at most 1,000 iterations. Features
are standardised over the training images, so that L-BFGS converges and the penalty treats all dimensions alike.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from absl import logging

from mpafer_jax.evaluation.baselines.registry import Context, Result, Score, baseline, needs_validation
from mpafer_jax.method.features import FrozenFeatures

# Strength of the penalty, per image: half-decades, strongest first; each fit starts from the previous one.
L2_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-4  # of the largest entry of the gradient; as in scikit-learn


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted classifier.

    Attributes:
      weights: [D, C], of standardised features.
      bias: [C].
      mean: [D], of the training features.
      scale: [D], their standard deviation; 1 where all features are equal.
      l2: strength of the penalty.
    """

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    l2: float

    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits [n, C] of features [n, D]."""
        return ((features - self.mean) / self.scale @ self.weights + self.bias).astype(np.float32)


def fit(
    train: FrozenFeatures, validation: npt.NDArray[np.float32], score: Score, grid: Sequence[float] = L2_GRID
) -> LinearProbe:
    """Fits one probe per strength on train; returns the best on validation.

    Args:
      validation: features [m, D] of the validation images.
      score: of their logits; ties go to the strongest penalty.
      grid: strengths, strongest first.
    """
    mean, deviation = train.image_features.mean(axis=0), train.image_features.std(axis=0)
    # The deviation of equal values is a rounding error, not 0: their range is.
    scale = np.where(np.ptp(train.image_features, axis=0) > 0, deviation, np.float32(1))
    standardised = jnp.asarray((train.image_features - mean) / scale, jnp.float32)
    targets = jnp.asarray(train.label_distributions, jnp.float32)
    shapes = {"weights": (standardised.shape[1], targets.shape[1]), "bias": targets.shape[1:]}
    params = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    solve = cast(Callable[..., tuple[dict[str, jax.Array], jax.Array, jax.Array]], jax.jit(minimize))
    found: list[tuple[float, LinearProbe]] = []
    for l2 in grid:
        params, iterations, gradient = solve(params, standardised, targets, jnp.asarray(l2, jnp.float32))
        if float(gradient) > _TOLERANCE:
            logging.warning("linear probe: l2 %.1e stopped at a gradient of %.1e", l2, float(gradient))
        probe = LinearProbe(np.asarray(params["weights"]), np.asarray(params["bias"]), mean, scale, l2)
        found.append((score(probe.logits(validation)), probe))
        logging.debug("linear probe: l2 %.1e: validation %.4f, %d iterations", l2, found[-1][0], int(iterations))
    return max(found, key=operator.itemgetter(0))[1]  # the first of equal ones


_Carry = tuple[dict[str, jax.Array], Any, jax.Array, jax.Array]  # params, L-BFGS state, iterations, gradient


def minimize(
    params: dict[str, jax.Array], features: jax.Array, targets: jax.Array, l2: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Minimises mean cross-entropy + l2 / 2 * |weights|^2 by L-BFGS; the bias is not penalised.

    Args:
      params: initial weights [D, C] and bias [C].
      features: [n, D].
      targets: [n, C], rows sum to 1.
      l2: scalar.

    Returns:
      The minimum, the number of iterations, and the largest entry of the gradient at the minimum.
    """

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        # Full float32 precision on accelerators too: otherwise the line search sees noise near the minimum.
        logits = jnp.matmul(features, params["weights"], precision="highest") + params["bias"]
        penalty = 0.5 * l2 * jnp.sum(params["weights"] ** 2)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets)) + penalty

    solver = optax.lbfgs()
    value_and_grad = cast(Any, optax.value_and_grad_from_state(loss))
    largest = functools.partial(optax.tree.norm, ord=jnp.inf)

    def goes_on(carry: _Carry) -> jax.Array:
        _, _, iterations, gradient = carry
        return (gradient > _TOLERANCE) & (iterations < _MAX_ITERATIONS)

    def iterate(carry: _Carry) -> _Carry:
        params, state, iterations, _ = carry
        value, grads = value_and_grad(params, state=state)
        updates, state = solver.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        params = cast(dict[str, jax.Array], optax.apply_updates(params, updates))
        gradient = largest(optax.tree.get(state, "grad"))  # at the new point, computed by the line search
        return params, state, iterations + 1, jnp.asarray(gradient)

    start = (params, solver.init(cast(Any, params)), jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, jnp.float32))
    params, _, iterations, gradient = jax.lax.while_loop(goes_on, iterate, start)
    return params, iterations, gradient


_check = needs_validation("linear_probe", "penalty is")


@baseline("linear_probe", "linear probe on frozen features", features="all", check=_check)
def compute(context: Context) -> Result:
    """The probe fitted on the run's training images, with the penalty selected by `eval.select_by`."""
    probe = fit(context.features["train"], context.features["validation"].image_features, context.score)
    return context.measure(lambda split: probe.logits(split.image_features)), {"l2": probe.l2}
