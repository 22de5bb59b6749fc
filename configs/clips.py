"""Your own video clips: folders of frames, and two lists of them.

    python -m mpafer_jax.main --config=configs/clips.py --workdir=runs/mine --config.data.dir=/data/clips

The lists train.txt and test.txt in that folder have lines "DIR N_FRAMES LABEL"; others are named like this, as are
several folds of which one is the test:

    --config.data.clips.train_list='DFEW_set_{fold}_train.txt'
    --config.data.clips.test_list='DFEW_set_{fold}_test.txt' --config.data.clips.fold=2

Labels that are numbers need names: --config.data.class_names="('happiness=0','sadness=1',...)". A tenth of the training
clips is held out to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "clips"
    config.train.num_epochs = 2.0  # of 16 images of each clip [ours]
    return common.apply_arguments(config, arg)
