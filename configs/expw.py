"""ExpW: 7 expressions of faces in photographs from web searches, 91,793 faces.

    python -m mpafer_jax.main --config=configs/expw.py --workdir=runs/expw --config.data.dir=/data/ExpW

The paper has no numbers on it. The owners give no splits, and the literature's differ: a fifth of each class is held
out for the test and a tenth for choosing the checkpoint, by config.data.split_seed. All of it is evaluated with
`--config=configs/expw.py:whole`. To leave out doubtful boxes: `--config.data.where="('confidence>=60',)"`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "expw"
    config.data.test_split, config.data.test_fraction = "", 0.2
    return common.apply_arguments(config, arg)
