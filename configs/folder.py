"""Your own images: one folder per class, in train/ and test/ or all in one.

    python -m mpafer_jax.main --config=configs/folder.py --workdir=runs/mine --config.data.dir=/data/faces

With train/ and test/ the folders are the splits, and a tenth of train is held out to choose the checkpoint. To choose
it on val/ (or validation/) instead:

    --config.data.validation_split=validation --config.data.validation_fraction=0

Without test/, a fifth of train is split off as the test. To split off another share:

    --config.data.test_split= --config.data.test_fraction=0.1

Classes have the names of the folders, in alphabetical order; CLIP reads the canonical name, `happiness` for `Happy`. It
reads nothing in `3`: rename such folders, or name them by data.class_names. Few images: docs/own_data.md.
Descriptions exist for the eight basic expressions, and for RAF-DB's compound ones with
--config.hard_prompts.bank=compound; for other classes write a bank (docs/hard_prompts.md) or set hard_prompts.type
to 2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "folder"
    return common.apply_arguments(config, arg)
