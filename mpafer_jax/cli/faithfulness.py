"""Measures how faithful heat maps are: deletion and insertion curves over a dataset's test split.

    python -m mpafer_jax.cli.faithfulness --config=configs/quickstart.py --checkpoint=runs/quickstart \
      --images=200 --curves=faithfulness.json

Prints a table of the curves' areas, each map against a random one and one from the centre outwards, and writes the
curves. Labels are not read: the curves follow the class that the model predicts. See docs/predict.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.inference import Predictor, faithfulness
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.runtime import console, files, progress
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError

_CONFIG = define_config()
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A workdir, its checkpoints folder, or one step_N folder.")
_IMAGES = flags.DEFINE_integer("images", 200, "Images of the test split, drawn by --curves_seed; 0 for all.", 0)
_STEPS = flags.DEFINE_integer("curve_steps", 16, "Parts in which patches are deleted and inserted.", lower_bound=2)
_SEED = flags.DEFINE_integer("curves_seed", 0, "Seed of the images' choice and of the random maps.", lower_bound=0)
_CURVES = flags.DEFINE_string("curves", "", "JSON file for the curves; empty: none.")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    runner.refuse_arguments(argv)
    runner.import_libraries_without_torch()
    try:
        curves = runner.folder(str(_CURVES.value), "--curves") if _CURVES.value else None
        config = Config.from_config_dict(_CONFIG.value)
        predictor = Predictor.from_checkpoint(str(_CHECKPOINT.value))
        test = load_dataset(config.data, without="validation").test
        if test is None:
            raise ConfigError("config.data names no test split; set data.test_split or data.test_fraction")
    except (CheckpointError, ConfigError, DataError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(2)
    chosen = np.random.default_rng(_SEED.value).permutation(len(test))[: _IMAGES.value or None]
    chosen_images = (test.source[int(index)] for index in sorted(chosen))
    images = progress.track(chosen_images, "deletion and insertion", len(chosen))
    measured = faithfulness.measure(predictor, Explainer(predictor), images, steps=_STEPS.value, seed=_SEED.value)
    summary = faithfulness.summarize(measured)
    console.markdown(faithfulness.table(summary))
    print(f"{len(chosen)} images of test, {_STEPS.value} steps; mean area under the curve ± standard error.")
    if curves:
        files.write_json(curves, {"images": len(chosen), "steps": _STEPS.value, "maps": summary})


if __name__ == "__main__":
    runner.start(main, required=["config", "checkpoint"])
