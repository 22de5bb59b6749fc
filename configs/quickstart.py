"""The whole method on drawn faces, with every baseline in the table at the end; nothing comes from a network.

    python -m mpafer_jax.tools.make_sample --out=sample
    python -m mpafer_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The faces are drawn on first use and kept. The CLIP is the sample's, whose weights are random; any other that reads
pictures of this size does, `--config.clip.name=FOLDER`. The same with parts left out, over three seeds, with all
training images and with 16 a class:

    python -m mpafer_jax.tools.ablate --config=configs/quickstart.py --workdir=runs/ablation --shots=0,16
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.clip.name = "sample/clip"
    config.data.dataset = "synthface"
    config.data.validation_split, config.data.validation_fraction = "validation", 0.0
    # A shared context of words that a small CLIP does not know needs larger steps than the relatives' SGD. [ours]
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.02
    config.optimizer.weight_decay = 0.0
    config.optimizer.warmup_steps = 20
    config.train.batch_size = 64
    # Eight passes over 2,800 images; in steps, so that the few-shot runs of the ablation are as long. [ours]
    config.train.num_steps, config.train.num_epochs = 350, 0.0
    config.train.eval_every = config.train.checkpoint_every = 50
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
