"""Writes the frozen CLIP's image features of a dataset, for linear probes and other experiments outside this package.

    python -m mpafer_jax.cli.cache_features --config=configs/quickstart.py --out=features

writes `<out>/train.npz`, `validation.npz` and `test.npz`, those of them that the configuration has, each with

    image_features       float32[n, D], z^g of the un-prompted image tower, not normalised, without augmentation
    labels               int32[n], positions in class_names
    label_distributions  float32[n, C]
    names                str[n], the owner's names of the images
    pixel_hashes         str[n], equal for pixel-identical images
    class_names          str[C]

and `<out>/features.json`, which says of which CLIP and which images. The features are those that prototypes and
baselines read: what a run has computed is not computed again, and the other way round (`data.features_dir`).

Exit code 0: done. 2: a mistake in the configuration or the data.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

from collections.abc import Sequence

from absl import flags

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation.baselines import feature_files
from mpafer_jax.runtime.errors import ConfigError, DataError

_CONFIG = define_config()
runner.define_distributed()
_OUT = flags.DEFINE_string("out", None, "Folder for the features.")
_SPLITS = flags.DEFINE_multi_enum(
    "split", ["train", "validation", "test"], ["train", "validation", "test"], "Of which splits; may be repeated."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    runner.import_libraries_without_torch()

    def job() -> None:
        out = runner.folder(str(_OUT.value), "--out")
        feature_files.write(Config.from_config_dict(_CONFIG.value), _SPLITS.value, out)

    runner.run(job, (ConfigError, DataError))


if __name__ == "__main__":
    runner.start(main, required=["config", "out"])
