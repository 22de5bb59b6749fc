"""FERPlus with small-face-clip, as the prompts `ferplus-prompts` that ship were trained.

    python -m mpafer_jax.main --config=configs/ferplus_prompts.py --workdir=runs/ferplus_prompts \\
      --config.data.dir=/data/FERPlus

The validation images are those of Training that the pre-training of small-face-clip holds out, without near-duplicates
among the others. PublicTest is the test, and chooses nothing; PrivateTest is not used.
"""

from ml_collections import ConfigDict

from configs import common, ferplus


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.update(ferplus.get_config())
    config.update_from_flattened_dict(common.CLIPS["small_clip"])
    config.data.validation_split, config.data.validation_fraction = "", 0.1
    config.data.near_duplicates_together = True
    config.data.test_split = "validation"
    return common.apply_arguments(config, arg)
