"""CK+: 7 posed expressions at their peak, 327 labelled sequences of 118 of its persons.

    python -m mpafer_jax.main --config=configs/ckplus.py --workdir=runs/ckplus --config.data.dir=/data/CK+

The paper has no numbers on it; it serves as another dataset to evaluate on: all of it with
`--config=configs/ckplus.py:whole`. The owners give no splits. To train on it, a fifth of the persons is held out for
the test and a tenth for choosing the checkpoint, by config.data.split_seed; published numbers are means over ten such
divisions.
"""

from ml_collections import ConfigDict

from configs import common

# The owners' labels 1 to 7. With "neutral" among them, the first frames of the sequences join.
CLASSES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "ckplus"
    config.data.class_names = CLASSES
    config.data.test_split, config.data.test_fraction = "", 0.2
    return common.apply_arguments(config, arg)
