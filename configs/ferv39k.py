"""FERV39k: 7 expressions, 31,088 training and 7,847 test clips of 22 scenes.

    python -m mpafer_jax.main --config=configs/ferv39k.py --workdir=runs/ferv39k --config.data.dir=/data/FERV39k

The paper has no numbers on it. A tenth of the training clips is held out to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "ferv39k"
    config.train.num_epochs = 1.0  # of 16 images of each clip: 6,995 updates [ours]
    return common.apply_arguments(config, arg)
