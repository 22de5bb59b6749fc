"""Runs out of the box: drawn faces, the small CLIP that ships with the package, the whole method, and its baselines.

    python -m mpafer_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Needs no dataset, no download and no accelerator. The faces are drawn on first use, in a style that the CLIP has never
seen; the run ends with a table of what each way of using that CLIP reaches. The same over three seeds, leaving one loss
or part out at a time, with all training pictures and with 16 of each class:

    python launch/sweep.py --sweep=configs/sweeps/components.py:quickstart --workdir=runs/components

Settings were chosen on other styles and seeds (docs/quickstart.md). An accuracy on drawings says whether a method
works, not how good it is on photographs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.clip.name = "tiny-face-clip"
    config.data.dataset = "synthface"
    # A style that the CLIP was not trained on, and that no setting was chosen on.
    config.data.synthface.style, config.data.synthface.seed = "poster", 3
    config.data.validation_split, config.data.validation_fraction = "validation", 0.0
    # The names of the expressions mean nothing to this CLIP, so each class learns words of its own. [ours]
    config.ctx.class_specific = True
    # Of 64 patches; the paper's 16 are of 196.
    config.head.top_k = 6
    # From relatives' SGD a small CLIP's prompts would hardly move. [ours]
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.warmup_steps = 20
    config.optimizer.lr_scales = (("ctx", 0.3), ("visual_prompts", 1.0))
    # A small CLIP underfits what stronger changes leave of a drawing. [ours]
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.augment.crop_ratio = (0.95, 1.05)
    config.data.augment.erase = 0.1
    # In steps and not in epochs, so that few-shot runs are as long. [ours]
    config.train.num_steps, config.train.num_epochs = 600, 0.0
    config.train.eval_every = config.train.checkpoint_every = 100
    config.eval.batch_size = 200
    config.eval.baselines = (
        "majority",
        "zero_shot_type1",
        "zero_shot_type2",
        "zero_shot_type3",
        "zero_shot_permuted",
        "zero_shot_global_local",
        "linear_probe",
        "text_context",
    )
    return common.apply_arguments(config, arg)
