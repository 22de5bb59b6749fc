"""Few training images: 1, 2, 4, 8 and 16 of each class.

    mpafer-jax study sweep --sweep=configs/sweeps/few_shot.py:quickstart --workdir=runs/few_shot

30 runs: 2 configurations, 5 numbers of images, 3 seeds. Which images those are is drawn by the seed, the more contain
the fewer, and all of validation and test are used.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep

_SHOTS = (16, 8, 4, 2, 1)


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Few training images",
        base=common.base(argument),
        points=tuple(
            point
            for shots in _SHOTS
            for point in common.full_and_text_only(
                f"{shots}_per_class", common.few_images(argument, shots), float(shots)
            )
        ),
        baselines=("zero_shot_type3", "linear_probe"),
        tables={f"{shots}_per_class": f"{shots} of each class" for shots in _SHOTS},
        axis="training images of each class",
    )
