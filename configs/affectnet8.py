"""AffectNet, 8 expressions: 287,651 training images, 3,999 or 4,000 in the owners' validation set (by release).

    python -m mpafer_jax.main --config=configs/affectnet8.py --workdir=runs/affectnet8 --config.data.dir=/data/AffectNet

The paper reports 62.80% (ViT-B/16) and 63.74% (ViT-L/14) accuracy; neither number has been reproduced with this code
yet. The rest as in `affectnet7.py`.
"""

from ml_collections import ConfigDict

from configs import affectnet7, common


def get_config(arg: str | None = None) -> ConfigDict:
    return common.apply_arguments(affectnet7.get_affectnet((*affectnet7.CLASSES, "contempt")), arg)
