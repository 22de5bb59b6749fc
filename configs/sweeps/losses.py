"""What the alignment losses bring, also where they should help most: with wrong labels, and with few images.

    mpafer-jax study sweep --sweep=configs/sweeps/losses.py:quickstart,tuned --workdir=runs/losses

60 runs: 5 configurations in 4 tables, 3 seeds. Within a table only the weights of the losses differ. With few images
the full method has the settings for them (`configs.common.prior`), so its visual prompts are also held near the frozen
CLIP by image consistency. With `tuned`, learning rate and local score are those that the published search of the sweep
`methods` chose; tuned=FOLDER, those of another. `mpafer-jax study cross-dataset` measures these models on other styles
and datasets.
"""

from collections.abc import Mapping
from typing import Any

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

_PERCENT = (20, 40)
_SHOTS = 16
_FEW = f"{_SHOTS}_per_class"
_PAPER = {"loss.beta": 1.0, "loss.gamma": 1.0}  # and not what a search chose: near 0 they would show nothing


def get_sweep(argument: str) -> Sweep:
    argument, chosen = common.tuned(argument)
    points = [*_points("all", _PAPER)]
    for percent in _PERCENT:
        points += _points(f"noise_{percent}", {**_PAPER, "data.label_noise": percent / 100})
    points += _points(_FEW, {**_PAPER, **common.with_prior(common.few_images(argument, _SHOTS))})
    return Sweep(
        title="What the alignment losses bring",
        base=common.base(argument),
        points=common.with_settings(chosen, points),
        baseline="cross_entropy",
        baselines=common.UNTRAINED,
        tables={
            "all": "All training images",
            **{f"noise_{percent}": f"{percent}% of the training labels wrong" for percent in _PERCENT},
            _FEW: f"{_SHOTS} training images of each class",
        },
    )


def _points(table: str, full: Mapping[str, Any]) -> tuple[Point, ...]:
    """Rows of a table, from the changes of the full method there."""
    text = {"loss.beta": full["loss.beta"]}
    visual = {name: full[name] for name in ("loss.gamma", "loss.image_consistency") if name in full}
    none = dict.fromkeys((*text, *visual), 0.0)
    weak = {name: weight / 10 for name, weight in (text | visual).items()}
    prototypes = "prototype alignment" + (" and image consistency" if "loss.image_consistency" in visual else "")
    rows = (
        ("cross_entropy", "cross-entropy alone", none),
        ("hard_soft", "with hard-soft alignment", none | text),
        ("prototypes", f"with {prototypes}", none | visual),
        ("full", "with all of them", text | visual),
        ("weak", "with all of them, a tenth of the weights", weak),
    )
    return tuple(Point(name, title, {**full, **weights}, table) for name, title, weights in rows)
