"""Something to run on without any download: drawn faces and a CLIP with random weights.

    mpafer-jax data sample --out=sample
    python -m mpafer_jax.main --config=configs/sample.py --workdir=runs/sample

Takes about a minute on a laptop. It shows that an installation works and what a run leaves behind; its accuracy means
nothing, since the towers are random.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.get_common()
    config.data.dir = "sample/faces"
    config.clip.name = "sample/clip"
    # A random CLIP's prompts need far larger steps than a trained one's. [ours]
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.02
    config.optimizer.weight_decay = 0.0
    config.optimizer.warmup_steps = 20
    config.train.batch_size = 40
    config.train.num_steps, config.train.num_epochs = 400, 0.0
    config.train.eval_every = config.train.checkpoint_every = 100
    return common.apply_arguments(config, arg)
