"""k, the number of patches that speak for a class.

    mpafer-jax study sweep --sweep=configs/sweeps/top_k.py:quickstart --workdir=runs/top_k

18 runs: 6 configurations, 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep

_DEFAULT, _VALUES = 16, (1, 4, 16, 49, 98, 196)  # of ViT-B/16's 196 patches
_QUICKSTART_DEFAULT, _QUICKSTART_VALUES = 6, (1, 3, 6, 12, 24, 64)  # of 64


def get_sweep(argument: str) -> Sweep:
    small = common.small_clip(argument)
    default, values = (_QUICKSTART_DEFAULT, _QUICKSTART_VALUES) if small else (_DEFAULT, _VALUES)
    return Sweep(
        title="Patches of the local score",
        base=common.base(argument),
        points=common.along("head.top_k", values, default, "k = {}"),
        axis="k, patches averaged for each class",
    )
