"""Trains a small CLIP from scratch on images with captions and writes it in the Hub's layout.

    python -m mpafer_jax.cli.pretrain_clip --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

Running the same command again resumes.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

from collections.abc import Sequence

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.jobs.pretraining.train import pretrain
from mpafer_jax.runtime import distributed
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError, PromptError

_CONFIG = define_config()
runner.define_workdir()
runner.define_distributed()


def main(argv: Sequence[str]) -> None:
    """Checks the configuration and runs it."""
    runner.refuse_arguments(argv)
    runner.run(_run, (ConfigError, DataError, PromptError, PromptError, CheckpointError))


def _run() -> None:
    summary = pretrain(PretrainConfig.from_config_dict(_CONFIG.value), runner.workdir(local=True))
    if not distributed.is_first():
        return
    for name, value in summary["held_out"].items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    runner.start(main, required=["config", "workdir"])
