"""DFEW: 7 expressions, 11,697 clips of films in five folds.

    python -m mpafer_jax.main --config=configs/dfew.py --workdir=runs/dfew_1 --config.data.dir=/data/DFEW
    mpafer-jax study sweep --sweep=configs/sweeps/seeds.py:dfew --folds=1,2,3,4,5 --workdir=runs/dfew \\
      --config.data.dir=/data/DFEW

The first trains on four folds and tests on the fifth, number data.clips.fold; the second makes all five and their mean.
The paper has no numbers on it. A tenth of the training clips is held out to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "dfew"
    config.train.num_epochs = 2.0  # of 16 images of each clip: 4,210 updates, about as many as on RAF-DB [ours]
    return common.apply_arguments(config, arg)
