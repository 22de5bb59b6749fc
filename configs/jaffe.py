"""JAFFE: 7 posed expressions of 10 persons, 213 images.

    python -m mpafer_jax.main --config=configs/jaffe.py --workdir=runs/jaffe --config.data.dir=/data/JAFFE

The paper has no numbers on it; it serves as another dataset to evaluate on: all of it with
`--config=configs/jaffe.py:whole`. The owners give no splits. To train on it, two persons are held out for the test
and one for choosing the checkpoint, by config.data.split_seed.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "jaffe"
    config.data.test_split, config.data.test_fraction = "", 0.2
    return common.apply_arguments(config, arg)
