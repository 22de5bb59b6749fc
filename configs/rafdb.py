"""RAF-DB basic: 7 expressions, 12,271 training and 3,068 test images.

    python -m mpafer_jax.main --config=configs/rafdb.py --workdir=runs/rafdb --config.data.dir=/data/RAF-DB

The paper reports 92.51% (ViT-B/16) and 93.74% (ViT-L/14) accuracy; its learning rate, length and batch size are not
public, and neither number has been reproduced with this code yet. The owners give no validation split: a tenth of
train is held out (`:no_validation` trains on everything, as the literature does, and reports the last step).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "rafdb"
    return common.apply_arguments(config, arg)
