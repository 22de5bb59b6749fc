"""Batches of a split for evaluation, at a model's size."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from mpafer_jax.config.schema import Config
from mpafer_jax.data import pipeline
from mpafer_jax.data.splits import Split
from mpafer_jax.method.build import Experiment
from mpafer_jax.runtime import preemption, progress


def eval_batches(config: Config, experiment: Experiment, split: Split, what: str) -> Iterator[pipeline.Batch]:
    """This process's part of the batches of a split, each image once, at the model's size.

    Args:
      what: label of the progress bar, such as "evaluating on".

    Raises:
      signals.Preempted: before a batch, after SIGTERM.
    """
    batches = pipeline.eval_batches(
        split,
        section=config.data,
        image_size=experiment.image_size,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in progress.track(batches, f"{what} {split.name}", len(split), size=lambda _: config.eval.batch_size):
        preemption.check()
        yield batch
