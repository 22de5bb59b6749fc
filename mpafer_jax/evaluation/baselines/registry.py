"""What a baseline says of itself, and what it is computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Dataset
from mpafer_jax.evaluation.metrics import ClassificationMetrics, from_logits
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.features import FrozenFeatures

Metrics = Mapping[str, ClassificationMetrics]  # by the split's name
Result = tuple[Metrics, dict[str, Any]]  # and what else is worth knowing of a baseline
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What baselines are computed from.

    Attributes:
      config, dataset, experiment: of the run beside them.
      num_steps: its length in updates, for baselines that are trained as it is.
      features: the frozen CLIP's, by the split's name: of the held-out splits, and of "train" where one is trained.
    """

    config: Config
    dataset: Dataset
    experiment: Experiment
    num_steps: int
    features: Mapping[str, FrozenFeatures]
    _made: dict[Any, Any] = dataclasses.field(default_factory=dict[Any, Any])

    def measure(self, logits_of: Callable[[FrozenFeatures], npt.NDArray[np.float32]]) -> Metrics:
        """The metrics of every held-out split, whose logits [n, C] a function gives."""
        return {
            name: from_logits(logits_of(split), split.labels, self.experiment.class_names)
            for name, split in self.features.items()
            if name != "train"
        }

    def once(self, make: Callable[[Context], T]) -> T:
        """`make(self)`, made at the first call for all baselines that share it."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(T, self._made[make])


Compute = Callable[[Context], Result]
Check = Callable[[Config, Dataset], None]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A row of a table that `config.eval.baselines` may name.

    Attributes:
      title: of the row.
      compute: its metrics on every held-out split, and what was chosen or read.
      features: of which splits it reads the frozen CLIP's features.
      reads_bank: whether it reads descriptions of `config.hard_prompts.bank`.
      check: refuses, before anything is computed, a run that it cannot stand beside.
    """

    title: str
    compute: Compute
    features: Literal["no split", "held out", "all"]
    reads_bank: bool
    check: Check | None


BASELINES: dict[str, Baseline] = {}  # by name, in the order of the tables' rows


def baseline(
    name: str,
    title: str,
    *,
    features: Literal["no split", "held out", "all"] = "held out",
    reads_bank: bool = False,
    check: Check | None = None,
) -> Callable[[Compute], Compute]:
    """Registers a function under a name; the arguments are the attributes of `Baseline`.

    Raises:
      ValueError: the name is taken.
    """

    def register(compute: Compute) -> Compute:
        if name in BASELINES:
            raise ValueError(f"there is a baseline {name!r} already")
        BASELINES[name] = Baseline(title, compute, features, reads_bank, check)
        return compute

    return register
