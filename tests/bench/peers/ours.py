"""Expressions by a checkpoint of ours, from Python, in batches; each image is taken as a face that fills it."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import numpy as np

from mpafer_jax.runtime import without_torch


def main(images: str, answers: str, checkpoint: str) -> None:
    without_torch.prefer()
    import jax

    from mpafer_jax import __version__
    from mpafer_jax.inference import Predictor

    predictor = Predictor.from_checkpoint(checkpoint)
    grey = np.fromfile(images, np.uint8).reshape(-1, 48, 48)
    faces = np.repeat(grey[..., None], 3, axis=-1)
    predictor.predict_batch(faces[: predictor.batch_sizes[-1]])
    started = time.perf_counter()
    expressions = [prediction.expression for prediction in predictor.predict_batch(faces)]
    seconds = time.perf_counter() - started
    leaves = jax.tree.leaves((predictor.frozen.backbone, predictor.params))
    result = {
        "answers": expressions,
        "seconds": seconds,
        "timed": len(faces),
        "parameters": sum(leaf.size for leaf in leaves),
        "versions": {"mpafer-jax": __version__, "jax": jax.__version__},
    }
    pathlib.Path(answers).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
