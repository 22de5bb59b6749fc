"""M of Eq. 7, the distance between an image and its class's prototype, and how prototypes are averaged.

    mpafer-jax study sweep --sweep=configs/sweeps/prototype_distance.py:quickstart --workdir=runs/prototype_distance

12 runs: 4 configurations, 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Distance to the prototypes",
        base=common.base(argument),
        points=(
            Point("full", "cosine"),
            Point("l1", "L1", {"loss.prototype_distance": "l1"}),
            Point("normalized", "cosine, means of normalised features", {"prototypes.normalize": True}),
            Point("none", "no prototypes (gamma = 0)", {"loss.gamma": 0.0}),
        ),
    )
