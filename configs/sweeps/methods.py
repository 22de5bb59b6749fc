"""All methods, each tuned as carefully as the others: a search of 16 trials each, then three seeds on the test split.

    mpafer-jax study sweep --sweep=configs/sweeps/methods.py:quickstart --workdir=runs/methods
    mpafer-jax study sweep --sweep=configs/sweeps/methods.py:quickstart,16_per_class,2_per_class --workdir=runs/few

30 runs: 10 methods, 3 seeds; and before them 160 trials of another seed, which read no test image
(docs/experiments.md). `SPACES` of configs/common.py has what is searched. With numbers of images, as in the second
command, the search is made with the first of them, and its choice is measured with all. The linear probe and the
adapters of frozen features choose their settings on validation in every run: the linear probe from 15 values,
Tip-Adapter from 561 pairs, CLIP-Adapter from 4. Adapters are left out where a whole dataset of photographs is trained
on: they compare every image with all training images.
"""

from configs.common import ADAPTERS, SPACES, per_class
from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep
from mpafer_jax.runtime.errors import ConfigError


def get_sweep(argument: str) -> Sweep:
    words = argument.split(",")
    if any(word.partition("=")[0] == "tuned" for word in words):
        raise ConfigError(
            "tuned: the sweep methods is the search itself; with a --workdir whose search has ended it takes its choice"
        )
    shots = [number for word in words if (number := per_class(word))]
    others = ",".join(word for word in words if not per_class(word))
    tables = {f"{number}_per_class": common.few_images(others, number) for number in shots} or {"all": {}}
    searched = next(iter(tables))
    return Sweep(
        title="All methods, tuned alike",
        base=common.base(others),
        points=tuple(
            common.method(others, name, changes=changes, table=table, space=space if table == searched else {})
            for table, changes in tables.items()
            for name, space in SPACES.items()
        ),
        baselines=(*common.UNTRAINED, *(ADAPTERS if shots or common.small_clip(others) else ())),
        tables={f"{number}_per_class": f"{number} training images of each class" for number in shots},
        trials=16,
        # Where a whole run has 600 updates, a third of them rank settings well enough to choose.
        trial_length=1 / 3 if common.is_quickstart(others) else 1,
    )
