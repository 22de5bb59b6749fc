"""Runs out of the box: drawn faces, `tiny-face-clip` (which ships with the package), the whole method, its baselines.

    python -m mpafer_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Needs no dataset, no download and no accelerator. The faces are drawn on first use, in a style that the CLIP has never
seen; the run ends with a table of what each way of using that CLIP reaches. The same over three seeds, leaving one loss
or part out at a time, with all training images and with 16 of each class:

    mpafer-jax study sweep --sweep=configs/sweeps/components.py:quickstart --workdir=runs/components

Settings were chosen on other styles and seeds (docs/quickstart.md). An accuracy on drawings says whether a method
works, not how good it is on photographs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.update_from_flattened_dict(common.CLIPS["tiny_clip"])
    config.data.dataset = "synthface"
    # A style that the CLIP was not trained on, and that no setting was chosen on.
    config.data.synthface.style, config.data.synthface.seed = "poster", 3
    config.data.validation_split, config.data.validation_fraction = "validation", 0.0
    config.eval.baselines = common.BASELINES
    return common.apply_arguments(config, arg)
