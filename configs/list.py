"""Your own images with label files: csv with any delimiter, txt with lines `path label`, or JSON lines.

    python -m mpafer_jax.main --config=configs/list.py --workdir=runs/mine --config.data.dir=/data/faces

Lists with usual names (labels.csv; train.csv and test.csv; metadata.jsonl; ...) and columns (image, label, split, ...)
are recognised. Others are named, relative to data.dir:

    --config.data.list.train=lists/a.txt --config.data.list.test=lists/b.txt --config.data.list.images=faces
    --config.data.columns.image=picture --config.data.columns.label=answer

Labels that are numbers need names: --config.data.class_names="('surprise=1', 'fear=2', ...)". Splits, classes and their
descriptions are as for class folders (configs/folder.py, docs/own_data.md).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "list"
    return common.apply_arguments(config, arg)
