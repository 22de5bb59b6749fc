"""How many training images of each class make its prototype.

    mpafer-jax study sweep --sweep=configs/sweeps/prototype_images.py:quickstart --workdir=runs/prototype_images

15 runs: 5 configurations, 3 seeds.
"""

import dataclasses

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep


def get_sweep(argument: str) -> Sweep:
    numbers = common.along("prototypes.images_per_class", (1, 4, 16, 64), 0, "{} images of each class")
    return Sweep(
        title="Images that make a prototype",
        base=common.base(argument),
        points=(
            dataclasses.replace(numbers[0], title="1 image of each class"),
            *numbers[1:],
            Point("full", "all training images"),
        ),
        axis="images of each class that make its prototype",
    )
