"""FER2013 under its own labels: 7 expressions, 28,709 training, 3,589 PublicTest and 3,589 PrivateTest images.

    python -m mpafer_jax.main --config=configs/fer2013.py --workdir=runs/fer2013 --config.data.dir=/data/FER2013

The paper has no numbers on it; it serves as another dataset to evaluate on. `ferplus.py` has the same images under
the votes of ten people.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "fer2013"
    config.data.face_margin = -0.12  # as FERPlus, which has the same images
    config.data.validation_split, config.data.validation_fraction = "validation", 0.0
    return common.apply_arguments(config, arg)
