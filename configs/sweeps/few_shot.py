"""Few training images: 1, 2, 4, 8 and 16 of each class.

    mpafer-jax study sweep --sweep=configs/sweeps/few_shot.py:quickstart --workdir=runs/few_shot

75 runs: 5 configurations, 5 numbers of images, 3 seeds. Which images those are is drawn by the seed, the more contain
the fewer, and all of validation and test are used. The full method has the settings for few images
(`configs.common.prior`), and once more those that it has with all images. KgCoOp and PromptSRC, whose regularisers the
settings for few images have, are there with their own weights.
"""

import dataclasses

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

_SHOTS = (16, 8, 4, 2, 1)
_REGULARISED = ("kgcoop", "promptsrc")


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Few training images",
        base=common.base(argument),
        points=tuple(point for shots in _SHOTS for point in _points(argument, shots)),
        baselines=("zero_shot_type3", "linear_probe"),
        tables={f"{shots}_per_class": f"{shots} of each class" for shots in _SHOTS},
        axis="training images of each class",
    )


def _points(argument: str, shots: int) -> tuple[Point, ...]:
    table, changes = f"{shots}_per_class", common.few_images(argument, shots)
    full, text_only = common.full_and_text_only(table, changes, float(shots))
    titles = "full method, settings for few images", "full method, usual settings"
    return (
        dataclasses.replace(full, title=titles[0], series=titles[0]),
        text_only,
        Point("usual_settings", titles[1], changes, table, titles[1], float(shots)),
        *(
            common.method(
                argument, name, changes=changes, table=table, series=common.METHOD_TITLES[name], value=float(shots)
            )
            for name in _REGULARISED
        ),
    )
