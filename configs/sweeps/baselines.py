"""Other ways to tune prompts, on the same data and measured in the same way.

    mpafer-jax study sweep --sweep=configs/sweeps/baselines.py:quickstart --workdir=runs/baselines

12 runs: 4 configurations, 3 seeds; and what needs no training, or a linear probe.

CoOp: the context alone (Zhou et al., 2022). KgCoOp: the same from the words 'a photo of a', held near hard prompts of
type 1 by their angle, with weight 8 (Yao et al., 2023). VPT-deep: visual prompts alone, the texts being 'a photo of a
[class].' (Jia et al., 2022). All with the optimizer, length and augmentation of the base and not with their authors'.
With the CLIPs that ship the class's description takes the place of its name in both, as the name means nothing to them.
The sweep `methods` has more of them, and tunes each.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Other ways to tune prompts",
        base=common.base(argument),
        points=tuple(common.method(argument, name) for name in ("full", "coop", "kgcoop", "vpt_deep")),
        baselines=common.UNTRAINED,
    )
