"""Which hard prompts the soft ones are pulled towards: names, phrases, descriptions of the face or of its parts.

    mpafer-jax study sweep --sweep=configs/sweeps/prompt_types.py:quickstart --workdir=runs/prompt_types

15 runs: 5 configurations, 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

_PARTS = ("holistic", "brows", "eyes", "mouth")


def get_sweep(argument: str) -> Sweep:
    mean = {"hard_prompts.granularity": _PARTS, "hard_prompts.combine": "mean"}
    separate = {**mean, "hard_prompts.combine": "separate"}
    return Sweep(
        title="Hard prompts",
        base=common.base(argument),
        baselines=("zero_shot_type1", "zero_shot_type2", "zero_shot_type3", "zero_shot_permuted"),
        points=(
            Point("type_1", "type 1: a photo of [class]", {"hard_prompts.type": 1}),
            Point("type_2", "type 2: a person making a facial expression of [class]", {"hard_prompts.type": 2}),
            Point("full", "type 3: and a description of the face"),
            Point("parts_mean", "type 3, and brows, eyes and mouth, their mean", mean),
            Point(
                "parts_separate",
                "type 3, and brows, eyes and mouth, a term each",
                separate,
            ),
        ),
    )
