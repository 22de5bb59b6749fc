"""What each part of the method brings: left out alone, and put on top of one another.

    mpafer-jax study sweep --sweep=configs/sweeps/components.py:quickstart --workdir=runs/components
    mpafer-jax study sweep --sweep=configs/sweeps/components.py:quickstart,tuned --workdir=runs/components_tuned

36 runs: 12 configurations, 3 seeds. The second command takes the settings that the published search of the sweep
`methods` chose; tuned=FOLDER, those of another.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

_NO_VISUAL = {"visual_prompts.num_prompts": 0}
_NO_LOCAL = {"head.local_weight": 0.0}
_ORDER = (
    "On top of one another: the text context alone, + visual prompts, + prototypes, + hard-soft alignment (that is "
    "'without the local score'), + the local score (the full method)."
)
_REPORTED = (
    "A secondary text reports what parts bring in the paper, in points of accuracy on RAF-DB and AffectNet-7: visual "
    "prompts 2.32 and 1.63, prototypes 0.95 and 1.12, hard-soft alignment 1.76 and 1.56, global-local scores 1.33 and "
    "1.27. It was not checked against the paper."
)


def get_sweep(argument: str) -> Sweep:
    argument, chosen = common.tuned(argument)
    return Sweep(
        title="What each part brings",
        base=common.base(argument),
        baselines=common.UNTRAINED,
        points=common.with_settings(chosen, _points()),
        notes=(_ORDER,) if common.small_clip(argument) else (_ORDER, _REPORTED),
    )


def _points() -> tuple[Point, ...]:
    return (
        Point("full", "full method"),
        Point("no_token_alignment", "without token-level alignment", {"loss.token_weight": 0.0}),
        Point("no_prompt_alignment", "without prompt-level alignment", {"loss.prompt_weight": 0.0}),
        Point("no_hard_soft", "without hard-soft alignment (beta = 0)", {"loss.beta": 0.0}),
        Point("no_prototypes", "without prototypes (gamma = 0)", {"loss.gamma": 0.0}),
        Point("no_local", "without the local score", _NO_LOCAL),
        Point("no_visual_prompts", "without visual prompts", _NO_VISUAL),
        Point("text_only", "text context alone (CoOp)", common.TEXT_ONLY),
        Point("add_visual_prompts", "context + visual prompts", {**_NO_LOCAL, "loss.terms": ("cross_entropy",)}),
        Point(
            "add_prototypes",
            "context + visual prompts + prototypes",
            {**_NO_LOCAL, "loss.terms": ("cross_entropy", "prototype_alignment")},
        ),
        Point("motion_features", "full, motion prior from features", {"head.motion_prior": "features"}),
        Point("motion_images", "full, motion prior from pixels", {"head.motion_prior": "images"}),
    )
