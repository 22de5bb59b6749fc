"""CoOp baseline: text context only (Zhou et al., "Learning to Prompt for Vision-Language Models", 2022).

The context is trained with the cross-entropy of CLIP's global logits: no alignment, prototypes, local score or visual
prompts. Image features are constant, so they are computed once, without augmentation. Optimizer, steps, batch size,
image order and checkpoint selection are those of the run.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data import pipeline
from mpafer_jax.data.splits import Dataset
from mpafer_jax.evaluation.baselines.registry import Context, Metrics, Result, baseline
from mpafer_jax.evaluation.baselines.zero_shot import frozen_logits
from mpafer_jax.method import build, optim, steps
from mpafer_jax.method.features import FrozenFeatures
from mpafer_jax.method.forward import Forward, forward_features
from mpafer_jax.method.losses import Objective
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices, progress
from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.finite import check_metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The selected checkpoint of the context.

    Attributes:
      step: number of updates: the best on the run's selection split, or the last without one.
      metrics: by name of the held-out split.
    """

    step: int
    metrics: Metrics


def train(context: Context) -> Trained:
    """Trains fresh context vectors."""
    config, experiment, num_steps = context.config, context.experiment, context.num_steps
    learner = MpaPrompts.configured(config, experiment.model.backbone.spec, len(experiment.class_names))
    alone = experiment.with_learner(learner.clone(num_visual=0))
    tx, _ = optim.configured_optimizer(config, alone.model.learner, num_steps)
    train_step = devices.data_parallel(
        steps.make_train_step(
            forward=forward_features(build.training_model(config, alone.model)),
            tx=tx,
            objective=Objective.of(config.loss, only=("cross_entropy",)),
            accumulate=config.train.accumulate,
        ),
        donate=(0,),
    )
    encode_texts = jax.jit(Forward.configured(alone.model, config.data).encode_texts)
    params = build.initial_prompts(config, alone)
    state = devices.replicate(TrainState(jnp.zeros((), jnp.int32), params, tx.init(params)))

    def evaluate(params: dict[str, jax.Array]) -> Metrics:
        texts = cast(jax.Array, encode_texts(params, alone.frozen))
        return context.measure(lambda split: frozen_logits(alone, split.image_features, texts))

    selecting = "test" if config.eval.select_on_test_split else "validation"
    measured: dict[int, Metrics] = {}  # by step
    interval: list[steps.Metrics] = []
    seen = context.features["train"].of_segments()
    order = pipeline.train_order(seen.labels, config.data.sampler, config.seed)
    for step in progress.track(range(1, num_steps + 1), "training the context", num_steps, "steps"):
        batch = devices.shard_batch(batch_of_step(seen, order, step - 1, config.train.batch_size))
        state, metrics = train_step(state, alone.frozen, batch)
        interval.append(metrics)
        if step % config.train.eval_every and step != num_steps:
            continue
        check_metrics(devices.to_host(interval), step)
        interval = []
        measured[step] = evaluate(state.params)

    def score(step: int) -> float:
        metrics = measured[step]
        # Without a selection split the last step wins.
        return metrics[selecting].scalars()[config.eval.select_by] if selecting in metrics else float(step)

    best = max(measured, key=score)  # the first of equal ones
    logging.debug("text context: step %d of %d", best, num_steps)
    return Trained(best, measured[best])


def batch_of_step(
    split: FrozenFeatures, order: pipeline.Order, step: int, batch_size: int
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """This process's part of the batch of a step: the images that the run sees in that step."""
    local = pipeline.local_positions(batch_size, jax.process_index(), jax.process_count())
    chosen = order(step * batch_size + local)
    return {
        "image_features": split.image_features[chosen],
        "label": split.labels[chosen],
        "label_distribution": split.label_distributions[chosen],
        "mask": np.ones(len(chosen), np.float32),
    }


def _check(config: Config, dataset: Dataset) -> None:
    del dataset
    # Refused: a run that freezes the context gives no learning rate for it.
    try:
        trained = optim.trained(["ctx"], config.optimizer.lr_scales)
    except ConfigError as error:
        raise ConfigError(
            f"config.eval.baselines names text_context, which trains the parameter ctx: {error}; leave text_context "
            "out, or give 'ctx' a factor too"
        ) from error
    if not trained:
        raise ConfigError(
            "config.eval.baselines names text_context, which trains the context as the run beside it does, but "
            f"config.optimizer.lr_scales {config.optimizer.lr_scales} freezes ctx there; leave text_context out, or "
            "make it a run of its own (config argument coop)"
        )


@baseline("text_context", "text context alone (CoOp)", features="all", check=_check)
def compute(context: Context) -> Result:
    """Metrics of the context selected by `train`."""
    trained = train(context)
    return trained.metrics, {"step": trained.step}
