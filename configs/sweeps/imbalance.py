"""Corrections of class imbalance: class-balanced sampling, class weights, logit adjustment.

    mpafer-jax study sweep --sweep=configs/sweeps/imbalance.py:quickstart --workdir=runs/imbalance

15 runs: 5 configurations, 3 seeds. Compare UAR, the mean recall of the classes; on a test split as uneven as train, a
correction costs accuracy.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

_SHUFFLE = {"data.sampler": "shuffle"}  # AffectNet's configs have class_balanced


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Class imbalance",
        base=common.base(argument),
        points=(
            Point("full", "none", _SHUFFLE),
            Point("class_balanced", "class-balanced sampler", {"data.sampler": "class_balanced"}),
            Point(
                "inverse_frequency",
                "class weights, inverse frequency",
                {**_SHUFFLE, "loss.class_weights": "inverse_frequency"},
            ),
            Point(
                "effective_number",
                "class weights, effective number",
                {**_SHUFFLE, "loss.class_weights": "effective_number"},
            ),
            Point("logit_adjustment", "logit adjustment, tau = 1", {**_SHUFFLE, "loss.logit_adjustment": 1.0}),
        ),
    )
