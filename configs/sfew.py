"""SFEW 2.0: 7 expressions, stills of films; the owners' validation set is the test split, as in the literature.

    python -m mpafer_jax.main --config=configs/sfew.py --workdir=runs/sfew --config.data.dir=/data/SFEW

The paper has no numbers on it; it serves as another dataset to evaluate on. For choosing a checkpoint a tenth of train
is held out, film by film.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dataset = "sfew"
    return common.apply_arguments(config, arg)
