"""Wrong labels: 10, 20 and 30% of the training images have the label of another class.

    mpafer-jax study sweep --sweep=configs/sweeps/label_noise.py:quickstart --workdir=runs/label_noise

24 runs: 2 configurations, 4 shares, 3 seeds. Which labels are wrong is drawn by the seed, the more contain the fewer.
The test images keep their labels, and so do those of validation, which choose the checkpoint.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep

_PERCENT = (0, 10, 20, 30)


def get_sweep(argument: str) -> Sweep:
    argument, chosen = common.tuned(argument)
    return Sweep(
        title="Noisy labels",
        base=common.base(argument),
        points=common.with_settings(
            chosen,
            (
                point
                for percent in _PERCENT
                for point in common.full_and_text_only(
                    f"noise_{percent}", {"data.label_noise": percent / 100} if percent else {}, float(percent)
                )
            ),
        ),
        baselines=("zero_shot_type3", "linear_probe"),
        tables={f"noise_{percent}": f"{percent}% of the training labels wrong" for percent in _PERCENT},
        axis="wrong labels of the training images, %",
    )
