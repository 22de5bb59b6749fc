"""`mpafer-jax clip`: a CLIP of one's own."""

from __future__ import annotations

import argparse

from mpafer_jax.cli.runner import command, path


@command(
    "clip pretrain",
    path("--workdir", required=True, metavar="FOLDER", help="of the run"),
    config=True,
    processes=True,
)
def pretrain(arguments: argparse.Namespace) -> None:
    """Trains a small CLIP from scratch on images with captions, in the Hub's layout.

        mpafer-jax clip pretrain --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

    Running the same command again resumes.
    """
    from mpafer_jax.jobs.pretraining.config import PretrainConfig
    from mpafer_jax.jobs.pretraining.train import pretrain
    from mpafer_jax.runtime import distributed

    summary = pretrain(PretrainConfig.from_config_dict(arguments.config), arguments.workdir)
    if distributed.is_first():
        for name, value in summary["held_out"].items():
            print(f"{name}: {value:.4f}")
