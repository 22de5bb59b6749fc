"""Registry of baselines, and the context from which they are computed."""

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
from mpafer_jax.runtime.errors import ConfigError

Metrics = Mapping[str, ClassificationMetrics]  # by the split's name
Result = tuple[Metrics, dict[str, Any]]  # metrics, and details of the baseline
Score = Callable[[npt.NDArray[np.float32]], float]  # of logits, as `Context.score`
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """Input of baselines.

    Attributes:
      config, dataset, experiment: of the run.
      num_steps: updates of the run, for baselines that are trained likewise.
      features: of the frozen CLIP by split name: held-out splits, and "train" if a baseline is trained.
    """

    config: Config
    dataset: Dataset
    experiment: Experiment
    num_steps: int
    features: Mapping[str, FrozenFeatures]
    _made: dict[Any, Any] = dataclasses.field(default_factory=dict[Any, Any])

    def measure(self, logits_of: Callable[[FrozenFeatures], npt.NDArray[np.float32]]) -> Metrics:
        """Metrics of every held-out split, with logits [m, C] of its images from `logits_of`."""
        return {
            name: from_logits(*split.of_examples(logits_of(split)), self.experiment.class_names)
            for name, split in self.features.items()
            if name != "train"
        }

    def score(self, logits: npt.NDArray[np.float32]) -> float:
        """How good logits [m, C] of the validation images are, by `eval.select_by`: war, uar or macro_f1."""
        examples = self.features["validation"].of_examples(logits)
        return from_logits(*examples, self.experiment.class_names).scalars()[self.config.eval.select_by]

    def once(self, make: Callable[[Context], T]) -> T:
        """`make(self)`, computed once for all baselines that share it."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(T, self._made[make])


Compute = Callable[[Context], Result]
Check = Callable[[Config, Dataset], None]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline that `config.eval.baselines` may name.

    Attributes:
      title: of its row in tables.
      compute: its metrics on every held-out split, and details.
      features: splits whose frozen CLIP features it reads.
      reads_bank: whether it reads descriptions of `config.hard_prompts.bank`.
      check: raises ConfigError, before training, for a run with which it cannot be computed.
    """

    title: str
    compute: Compute
    features: Literal["no split", "held out", "all"]
    reads_bank: bool
    check: Check | None


def needs_validation(name: str, chosen: str) -> Check:
    """Check of a baseline that chooses something on validation; `chosen` says what, as in 'penalty is'."""

    def check(config: Config, dataset: Dataset) -> None:
        del config
        if dataset.validation is None:
            raise ConfigError(
                f"config.eval.baselines names {name}, whose {chosen} chosen on validation, but there is no validation "
                f"split; set data.validation_split or data.validation_fraction, or leave {name} out"
            )

    return check


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
