"""The image tower: ViT-B/32, B/16 and L/14 of OpenAI's CLIP, on RAF-DB or the dataset that is named.

    mpafer-jax study sweep --sweep=configs/sweeps/backbones.py:rafdb --workdir=runs/backbones_rafdb \
      --config.data.dir=/data/RAF-DB
    mpafer-jax study sweep --sweep=configs/sweeps/backbones.py:affectnet7,bf16 --workdir=runs/backbones_affectnet7 \
      --config.data.dir=/data/AffectNet

9 runs: 3 configurations, 3 seeds. This is the paper's main table.
"""

from configs.common import CLIPS
from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime.errors import ConfigError

# Accuracy in % that the paper reports for ViT-B/16 and ViT-L/14.
_REPORTED = {
    "rafdb": (92.51, 93.74),
    "ferplus": (91.15, 91.81),
    "affectnet7": (67.85, 68.89),
    "affectnet8": (62.80, 63.74),
}


def get_sweep(argument: str) -> Sweep:
    if CLIPS.keys() & argument.split(","):
        raise ConfigError("the CLIP is what this sweep varies; leave it out of the argument")
    if clip := common.small_clip(argument):
        raise ConfigError(f"its config is for {clip}; name one for OpenAI's CLIPs, which are compared, as in :rafdb")
    b16, l14 = _REPORTED.get(argument.partition(",")[0] or "rafdb", (None, None))
    return Sweep(
        title="Image towers",
        base=common.base(argument),
        points=(
            Point("vit_b32", "ViT-B/32", {"clip.name": "openai/clip-vit-base-patch32"}),
            Point("full", "ViT-B/16", reported=b16),
            Point("vit_l14", "ViT-L/14", {"clip.name": "openai/clip-vit-large-patch14"}, reported=l14),
        ),
        baselines=("zero_shot_type1", "zero_shot_type3", "linear_probe"),
    )
