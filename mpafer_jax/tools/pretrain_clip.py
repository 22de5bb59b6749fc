"""Trains a small CLIP from scratch on pictures with captions and writes it in the Hub's layout.

    python -m mpafer_jax.tools.pretrain_clip --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

Running the same command again resumes.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax import preemption

    preemption.listen()

from collections.abc import Sequence

from mpafer_jax import checkpoint, command, distributed
from mpafer_jax.config import ConfigError
from mpafer_jax.data.records import DataError
from mpafer_jax.hard_prompts.bank import BankError
from mpafer_jax.models.prompts import PromptError
from mpafer_jax.pretraining.config import PretrainConfig
from mpafer_jax.pretraining.train import pretrain

_CONFIG = command.define_config()
command.define_workdir()
command.define_distributed()


def main(argv: Sequence[str]) -> None:
    """Checks the configuration and runs it."""
    command.refuse_arguments(argv)
    command.run(_run, (ConfigError, DataError, BankError, PromptError, checkpoint.CheckpointError))


def _run() -> None:
    summary = pretrain(PretrainConfig.from_config_dict(_CONFIG.value), command.workdir(local=True))
    if not distributed.is_first():
        return
    for name, value in summary["held_out"].items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    command.start(main, required=["config", "workdir"])
