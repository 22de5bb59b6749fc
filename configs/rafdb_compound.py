"""RAF-DB compound: 11 pairs of expressions such as "happily surprised".

    python -m mpafer_jax.main --config=configs/rafdb_compound.py --workdir=runs/compound --config.data.dir=/data/RAF-DB

The paper has no numbers on it. The descriptions are those of the bank `compound`. The owners give no validation split:
a tenth of train is held out.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "rafdb_compound"
    config.hard_prompts.bank = ("compound",)
    return common.apply_arguments(config, arg)
