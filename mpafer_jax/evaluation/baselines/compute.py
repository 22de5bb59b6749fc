"""Computes the baselines of a run (`config.eval.baselines`) on its held-out splits."""

from __future__ import annotations

from typing import Any

from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Dataset
from mpafer_jax.evaluation.baselines import BASELINES
from mpafer_jax.evaluation.baselines.registry import Context
from mpafer_jax.evaluation.metrics import ClassificationMetrics
from mpafer_jax.method import build
from mpafer_jax.method.features import FrozenFeatures, encode_splits
from mpafer_jax.method.hard_prompts.bank import load_banks
from mpafer_jax.runtime import progress
from mpafer_jax.runtime.errors import ConfigError, did_you_mean


def check_names(config: Config) -> None:
    """Raises ConfigError for an unknown baseline."""
    for name in config.eval.baselines:
        if name not in BASELINES:
            raise ConfigError(
                f"config.eval.baselines names {name!r}{did_you_mean(name, BASELINES)}; known are {', '.join(BASELINES)}"
            )


def check_banks(config: Config) -> None:
    """Raises PromptError if a description bank that a baseline reads is missing."""
    if any(BASELINES[name].reads_bank for name in config.eval.baselines):
        load_banks(config.hard_prompts.bank, config.hard_prompts.paraphrases)


def check(config: Config, dataset: Dataset) -> None:
    """Raises ConfigError, before training, for a baseline that cannot be computed on these data."""
    names = config.eval.baselines
    if names and not dataset.held_out:
        raise ConfigError(
            f"config.eval.baselines names {', '.join(names)}, but there is neither a validation nor a test split to "
            "measure them on; set data.test_split or data.test_fraction, or leave eval.baselines empty"
        )
    for name in names:
        if (refuse := BASELINES[name].check) is not None:
            refuse(config, dataset)


def compute(config: Config, dataset: Dataset, experiment: build.Experiment, num_steps: int) -> dict[str, Any]:
    """Computes every configured baseline. They share the frozen features of the splits.

    Args:
      dataset: accepted by `check`.
      num_steps: updates of the run, for baselines that are trained likewise.

    Returns:
      By baseline: for each held-out split its 'war', 'uar' and 'macro_f1'; and its details ('l2', 'step', 'texts').
    """
    names = config.eval.baselines
    read = {BASELINES[name].features for name in names}
    features: dict[str, FrozenFeatures] = {}
    if read & {"held out", "all"}:
        features = encode_splits(config, experiment, [*([dataset.train] if "all" in read else []), *dataset.held_out])
    context = Context(config, dataset, experiment, num_steps, features)
    results: dict[str, Any] = {}
    for name in names:
        with progress.task(f"baseline {name}"):
            metrics, details = BASELINES[name].compute(context)
        results[name] = {**{split: _scores(measured) for split, measured in metrics.items()}, **details}
        shown = ", ".join(f"{split} WAR {100 * m.war:.2f}% UAR {100 * m.uar:.2f}%" for split, m in metrics.items())
        logging.debug("baseline %s: %s", name, shown)
    return results


def _scores(metrics: ClassificationMetrics) -> dict[str, float]:
    return {"war": metrics.war, "uar": metrics.uar, "macro_f1": metrics.macro_f1}
