"""Other styles of drawing, each further from what `tiny-face-clip` was trained on or nearer to it; quickstart only.

    mpafer-jax study sweep --sweep=configs/sweeps/styles.py:quickstart --workdir=runs/styles

36 runs: 2 configurations, 6 styles, 3 seeds. A run is trained and measured on faces of one style.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep
from mpafer_jax.runtime.errors import ConfigError

_STYLES = ("sketch", "print", "faint", "poster", "infrared", "neon")


def get_sweep(argument: str) -> Sweep:
    argument, chosen = common.tuned(argument)
    if not common.is_quickstart(argument):
        raise ConfigError("styles are those of drawn faces; the argument is quickstart")
    return Sweep(
        title="Styles of drawing",
        base=common.base(argument),
        points=common.with_settings(
            chosen,
            (point for style in _STYLES for point in common.full_and_text_only(style, {"data.synthface.style": style})),
        ),
        baselines=("zero_shot_type3", "linear_probe"),
    )
