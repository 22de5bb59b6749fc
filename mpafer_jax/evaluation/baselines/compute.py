"""The baselines of a run (`config.eval.baselines`), each measured on the run's own held-out splits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Dataset, Split
from mpafer_jax.evaluation.baselines import linear_probe, text_context, zero_shot
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.metrics import ClassificationMetrics, from_confusion, from_logits
from mpafer_jax.method import build, optim
from mpafer_jax.method.features import FrozenFeatures, encode_splits
from mpafer_jax.method.hard_prompts.bank import load_banks
from mpafer_jax.method.hard_prompts.features import class_features
from mpafer_jax.method.prompts import init_prompts, seed_key
from mpafer_jax.runtime import progress
from mpafer_jax.runtime.errors import ConfigError, did_you_mean

Metrics = Mapping[str, ClassificationMetrics]  # by the split's name
Result = tuple[Metrics, dict[str, Any]]  # and what else is worth knowing of a baseline
NAMES = ("majority", *zero_shot.NAMES, "zero_shot_global_local", "linear_probe", "text_context")
_READ_FEATURES = (*zero_shot.NAMES, "linear_probe", "text_context")
_TRAINED = ("linear_probe", "text_context")


def check_names(config: Config) -> None:
    """Refuses a name that no baseline has.

    Raises:
      ConfigError: names it, and one that is near.
    """
    for name in config.eval.baselines:
        if name not in NAMES:
            raise ConfigError(
                f"config.eval.baselines names {name!r}{did_you_mean(name, NAMES)}; known are {', '.join(NAMES)}"
            )


def check_banks(config: Config) -> None:
    """Refuses, before data are prepared, descriptions that are not there.

    Raises:
      PromptError: a baseline reads a bank that is not there.
    """
    if any(zero_shot.reads_bank(name) for name in config.eval.baselines):
        load_banks(config.hard_prompts.bank, config.hard_prompts.paraphrases)


def check(config: Config, dataset: Dataset) -> None:
    """Refuses, before anything is computed, what could not be computed after hours of training.

    Raises:
      ConfigError: a baseline lacks the split that it chooses on, or all lack one to be measured on; or the context,
        which one trains, is frozen.
      PromptError: one lacks a class's description.
    """
    names = config.eval.baselines
    if names and dataset.validation is None and dataset.test is None:
        raise ConfigError(
            f"config.eval.baselines names {', '.join(names)}, but there is neither a validation nor a test split to "
            "measure them on; set data.test_split or data.test_fraction, or leave eval.baselines empty"
        )
    if "linear_probe" in names and dataset.validation is None:
        raise ConfigError(
            "config.eval.baselines names linear_probe, whose penalty is chosen on validation, but there is no "
            "validation split; set data.validation_split or data.validation_fraction, or leave linear_probe out"
        )
    # Refused, and not trained at some rate: which one suits a context, such a run does not say.
    if "text_context" in names and not optim.trained(["ctx"], config.optimizer.lr_scales):
        raise ConfigError(
            "config.eval.baselines names text_context, which trains the context as the run beside it does, but "
            f"config.optimizer.lr_scales {config.optimizer.lr_scales} freezes ctx there; leave text_context out, or "
            "make it a run of its own (config argument coop)"
        )
    for name in names:
        if name in zero_shot.NAMES:
            zero_shot.hard_prompts(name, config, dataset.class_names)


def compute(config: Config, dataset: Dataset, experiment: build.Experiment, num_steps: int) -> dict[str, Any]:
    """Every baseline that the configuration names.

    The frozen features of train, validation and test are computed once for all of them.

    Args:
      config: of the run.
      dataset: its splits; `check` has accepted them.
      experiment: its model.
      num_steps: its length in updates, for baselines that are trained as it is.

    Returns:
      By the baseline's name: for each held-out split its 'war', 'uar' and 'macro_f1', and further what was chosen
      ('l2', 'step') or read ('texts').
    """
    names = config.eval.baselines
    held_out = dataset.held_out
    if not names:
        return {}
    features: dict[str, FrozenFeatures] = {}
    if any(name in _READ_FEATURES for name in names):
        trained = any(name in _TRAINED for name in names)
        features = encode_splits(config, experiment, [*([dataset.train] if trained else []), *held_out])
    texts = zero_shot.encode(
        experiment,
        {n: zero_shot.hard_prompts(n, config, experiment.class_names) for n in names if n in zero_shot.NAMES},
    )
    computed: dict[str, Callable[[], Result]] = {
        "majority": lambda: (majority(dataset.train, held_out), {}),
        "zero_shot_global_local": lambda: (_zero_shot_global_local(config, experiment, held_out), {}),
        "linear_probe": lambda: _linear_probe(config, experiment, features),
        "text_context": lambda: _text_context(config, experiment, features, num_steps),
        **{name: functools.partial(_zero_shot, experiment, texts, features) for name, texts in texts.items()},
    }
    results: dict[str, Any] = {}
    for name in names:
        with progress.task(f"baseline {name}"):
            metrics, details = computed[name]()
        results[name] = {**{split: _scores(measured) for split, measured in metrics.items()}, **details}
        shown = ", ".join(f"{split} WAR {100 * m.war:.2f}% UAR {100 * m.uar:.2f}%" for split, m in metrics.items())
        logging.debug("baseline %s: %s", name, shown)
    return results


def _scores(metrics: ClassificationMetrics) -> dict[str, float]:
    return {"war": metrics.war, "uar": metrics.uar, "macro_f1": metrics.macro_f1}


def majority(train: Split, held_out: Sequence[Split]) -> Metrics:
    """Always the most frequent class of train; of equals, the first."""
    answer = int(np.argmax(train.class_counts()))
    results: dict[str, ClassificationMetrics] = {}
    for split in held_out:
        confusion = np.zeros((len(split.class_names),) * 2)
        confusion[:, answer] = split.class_counts()
        results[split.name] = from_confusion(confusion, 0.0, split.class_names)  # without logits there is no loss
    return results


def _held_out(features: Mapping[str, FrozenFeatures]) -> dict[str, FrozenFeatures]:
    return {name: split for name, split in features.items() if name != "train"}


def _zero_shot(
    experiment: build.Experiment, texts: zero_shot.EncodedTexts, features: Mapping[str, FrozenFeatures]
) -> Result:
    metrics = {
        split: from_logits(
            zero_shot.frozen_logits(experiment, frozen.image_features, texts.features),
            frozen.labels,
            experiment.class_names,
        )
        for split, frozen in _held_out(features).items()
    }
    of_class = [list(texts.prompts.of_class(index)) for index in range(len(experiment.class_names))]
    return metrics, {"texts": dict(zip(experiment.class_names, of_class, strict=True))}


def _zero_shot_global_local(config: Config, experiment: build.Experiment, held_out: Sequence[Split]) -> Metrics:
    """The run's own head on un-prompted features, with the hard prompts of `hard_prompts.type` as texts.

    Without the motion prior, which is made from training images and their labels.
    """
    bare = experiment.without_visual_prompts().with_patch_weights(None)

    def hard_text_features(_: Any, frozen: Any) -> jax.Array:
        return class_features(frozen.hard_text_features)

    evaluator = dataclasses.replace(make_evaluator(config, bare), encode_texts=hard_text_features)
    # The context, which these texts have no place for.
    unread = init_prompts(bare.model.prompt_shape, seed_key(0))
    return {split.name: evaluator(unread, split) for split in held_out}


def _linear_probe(config: Config, experiment: build.Experiment, features: Mapping[str, FrozenFeatures]) -> Result:
    probe = linear_probe.fit(
        features["train"], features["validation"], experiment.class_names, select_by=config.eval.select_by
    )
    metrics = {
        split: from_logits(probe.logits(frozen.image_features), frozen.labels, experiment.class_names)
        for split, frozen in _held_out(features).items()
    }
    return metrics, {"l2": probe.l2}


def _text_context(
    config: Config, experiment: build.Experiment, features: Mapping[str, FrozenFeatures], num_steps: int
) -> Result:
    trained = text_context.train(config, experiment, features, num_steps)
    return trained.metrics, {"step": trained.step}
