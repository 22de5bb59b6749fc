"""RaFD: 8 posed expressions of 67 persons, with three directions of gaze; 1,608 frontal images.

    python -m mpafer_jax.main --config=configs/rafd.py --workdir=runs/rafd --config.data.dir=/data/RaFD

The paper has no numbers on it; it serves as another dataset to evaluate on: all of it with
`--config=configs/rafd.py:whole`. Other angles and directions:
`--config.data.where="('angle=045|135', 'gaze=frontal')"`, or `"()"` for all. The owners give no splits. To train on it,
a fifth of the persons is held out for the test and a tenth for choosing the checkpoint, by config.data.split_seed.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "rafd"
    config.data.where = ("angle=090",)
    config.data.test_split, config.data.test_fraction = "", 0.2
    return common.apply_arguments(config, arg)
