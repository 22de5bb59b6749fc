"""MAFW: 11 expressions, 9,172 clips with a single label in five folds.

    python -m mpafer_jax.main --config=configs/mafw.py --workdir=runs/mafw_1 --config.data.dir=/data/MAFW
    mpafer-jax study sweep --sweep=configs/sweeps/seeds.py:mafw --folds=1,2,3,4,5 --workdir=runs/mafw \\
      --config.data.dir=/data/MAFW

The first trains on four folds and tests on the fifth, number data.clips.fold; the second makes all five and their mean.
The paper has no numbers on it. The bank `expressions` does not describe anxiety, helplessness and disappointment, so
the hard prompts are the names in a template (type 2). A tenth of the training clips is held out to choose the
checkpoint.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "mafw"
    config.hard_prompts.type = 2
    config.train.num_epochs = 3.0  # of 16 images of each clip: 4,950 updates [ours]
    return common.apply_arguments(config, arg)
