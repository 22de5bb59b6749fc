"""Everything at once, on what `make_sample` writes: the method, and all baselines in the table at the end.

    python -m mpafer_jax.tools.make_sample --out=sample
    python -m mpafer_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The same with parts left out, over three seeds, with all training images and with 16 a class:

    python -m mpafer_jax.tools.ablate --config=configs/quickstart.py --workdir=runs/ablation --shots=0,16
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dir = "sample/faces"
    config.clip.name = "sample/clip"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.02
    config.optimizer.weight_decay = 0.0
    config.optimizer.warmup_steps = 20
    config.train.batch_size = 40
    # In steps and not in epochs, so that few-shot runs of the ablation are as long. [ours]
    config.train.num_steps, config.train.num_epochs = 400, 0.0
    config.train.eval_every = config.train.checkpoint_every = 100
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
