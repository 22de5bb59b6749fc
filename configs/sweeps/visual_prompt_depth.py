"""How many of the image tower's layers, from the first on, get visual prompts.

    mpafer-jax study sweep --sweep=configs/sweeps/visual_prompt_depth.py:quickstart --workdir=runs/visual_prompt_depth

12 runs: 4 configurations, 3 seeds; 15 with a tower of 12 layers.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime.errors import ConfigError

_DEPTHS = (1, 3, 6, 9, 12)  # of ViT-B's 12 layers
_SMALL_DEPTHS = {"tiny-face-clip": (1, 2, 3, 4), "small-face-clip": (1, 2, 4, 6)}


def get_sweep(argument: str) -> Sweep:
    if "vit_l14" in argument:
        raise ConfigError("depths here are of a tower of 12 layers, which ViT-L/14 has not; leave that argument out")
    depths = _SMALL_DEPTHS.get(common.small_clip(argument), _DEPTHS)
    return Sweep(
        title="Layers with visual prompts",
        base=common.base(argument),
        points=tuple(
            Point(
                name="full" if depth == depths[-1] else f"layers_{depth}",
                title=f"layers 1 to {depth}" if depth > 1 else "layer 1",
                changes={} if depth == depths[-1] else {"visual_prompts.layers": tuple(range(1, depth + 1))},
                value=float(depth),
            )
            for depth in depths
        ),
        axis="layers with visual prompts, from the first on",
    )
