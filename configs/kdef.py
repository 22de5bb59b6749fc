"""KDEF: 7 posed expressions of 70 persons, photographed twice; 980 frontal images.

    python -m mpafer_jax.main --config=configs/kdef.py --workdir=runs/kdef --config.data.dir=/data/KDEF

The paper has no numbers on it; it serves as another dataset to evaluate on: all of it with
`--config=configs/kdef.py:whole`. Other angles: `--config.data.where="('angle=half left|half right',)"`, or `"()"` for
all five. The owners give no splits. To train on it, a fifth of the persons is held out for the test and a tenth for
choosing the checkpoint, by config.data.split_seed.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "kdef"
    config.data.where = ("angle=straight",)
    config.data.test_split, config.data.test_fraction = "", 0.2
    return common.apply_arguments(config, arg)
