"""A dataset of the Hub as Parquet files: a column of images, one of labels, and the classes in the schema.

    python -m mpafer_jax.main --config=configs/parquet.py --workdir=runs/mine --config.data.dir=/data/faces
    python -m mpafer_jax.main --config=configs/parquet.py --workdir=runs/mine --config.data.dir=hf://datasets/OWNER/NAME

The second form downloads the files into the Hub's cache. Classes are read from the schema, never guessed from numbers;
files whose schema names none need data.class_names (docs/own_data.md). Splits are as for class folders
(configs/folder.py).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "parquet"
    return common.apply_arguments(config, arg)
