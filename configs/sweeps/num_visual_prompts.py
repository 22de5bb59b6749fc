"""N_p, the number of visual prompts a layer.

    mpafer-jax study sweep --sweep=configs/sweeps/num_visual_prompts.py:quickstart --workdir=runs/num_visual_prompts

18 runs: 6 configurations, 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Visual prompts a layer",
        base=common.base(argument),
        points=common.along("visual_prompts.num_prompts", (0, 1, 2, 4, 8, 16), 8, "N_p = {}"),
        axis="N_p, visual prompts a layer",
    )
