"""Other ways to tune prompts, on the same data and measured in the same way.

    python launch/sweep.py --sweep=configs/sweeps/baselines.py:quickstart --workdir=runs/baselines

12 runs: 4 configurations, 3 seeds; and what needs no training, or a linear probe.

CoOp: the context alone (Zhou et al., 2022). KgCoOp: the same from the words 'a photo of a', held near hard prompts of
type 1 by their angle, with weight 8 (Yao et al., 2023). VPT-deep: visual prompts alone, the texts being 'a photo of a
[class].' (Jia et al., 2022). All with the optimizer, length and augmentation of the base and not with their authors'.
The names of classes mean nothing to the quickstart's CLIP: there KgCoOp's hard prompts are descriptions (type 3) and
its context starts as CoOp's does, and VPT-deep has texts that only tell the classes apart.
"""

from configs.sweeps import common
from mpafer_jax.sweeps.sweep import Point, Sweep

_WORDS = {"ctx.init_text": "a photo of a", "ctx.num_ctx": 4}


def get_sweep(argument: str) -> Sweep:
    by_angle = {"loss.beta": 8.0, "loss.token_weight": 0.0, "loss.prompt_distance": "cosine"}
    start = {"hard_prompts.type": 3} if common.is_quickstart(argument) else {"hard_prompts.type": 1, **_WORDS}
    visual_alone = {
        **_WORDS,
        "optimizer.lr_scales": (("ctx", 0.0), ("visual_prompts", 1.0)),
        "loss.beta": 0.0,
        "loss.gamma": 0.0,
        "head.local_weight": 0.0,
    }
    return Sweep(
        title="Other ways to tune prompts",
        base=common.base(argument),
        points=(
            Point("full", "MPA-FER"),
            Point("coop", "CoOp: text context alone", common.TEXT_ONLY),
            Point("kgcoop", "KgCoOp: context held near hard prompts", {**common.TEXT_ONLY, **by_angle, **start}),
            Point("vpt_deep", "VPT-deep: visual prompts alone", visual_alone),
        ),
        baselines=common.UNTRAINED,
    )
