"""`python -m mpafer_jax.main`, which is `mpafer-jax train`; and `mpafer-jax evaluate`."""

from __future__ import annotations

import argparse
import pathlib
import shlex
from typing import TYPE_CHECKING

from mpafer_jax.cli.parser import UsageError
from mpafer_jax.cli.runner import WORKDIR, argument, command

if TYPE_CHECKING:
    from mpafer_jax.config.schema import Config

_MODE = argument(
    "--mode",
    choices=("train", "eval", "predict"),
    default="train",
    help="train and evaluate; evaluate a checkpoint; predict a split",
)


@command("train", WORKDIR, _MODE, config=True, processes=True, called="python -m mpafer_jax.main")
def train(arguments: argparse.Namespace) -> None:
    """Trains prompts, evaluates a checkpoint, or predicts a split, by one configuration.

        python -m mpafer_jax.main --config=configs/rafdb.py --workdir=runs/rafdb --config.data.dir=/data/RAF-DB

    The same command resumes wherever it was stopped. Results: the closing table on stdout, and in the workdir
    results.md, summary.json and report.html.

    Exit codes: 0 done; 75 stopped in good order, run again to go on; 2 a mistake or a full disk, which the message
    explains; 1 anything else.
    """
    from absl import logging

    from mpafer_jax.config.schema import Config
    from mpafer_jax.evaluation import table
    from mpafer_jax.jobs import evaluate, predict, train
    from mpafer_jax.runtime import console, distributed

    config, workdir = Config.from_config_dict(arguments.config), arguments.workdir
    # A checkpoint's CLIP is not replaced by a configuration's usual one.
    of_checkpoint = {"clip": str(arguments.fields.get("clip.name", "")), "given": arguments.fields}
    if arguments.mode == "train" and "eval.checkpoint" in arguments.fields:
        raise UsageError("--config.eval.checkpoint does nothing without --mode=eval or --mode=predict")
    if arguments.mode == "train":
        summary = train.train_and_evaluate(config, workdir)
        if distributed.is_first():
            console.markdown(table.render(summary))
            logging.info("%s", _next_commands(config, workdir))
    elif arguments.mode == "eval":
        result = evaluate.evaluate_checkpoint(config, workdir, **of_checkpoint)
        if distributed.is_first():
            console.markdown(evaluate.table(result))
    else:
        predict.predict_dataset(config, workdir, **of_checkpoint)


@command("evaluate", WORKDIR, config=True, processes=True)
def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluates a checkpoint on a dataset: `train --mode=eval`. Classes are matched by name.

        mpafer-jax evaluate --config=configs/ferplus.py --workdir=runs/rafdb_on_ferplus \\
          --config.data.dir=/data/FERPlus --config.eval.checkpoint=runs/rafdb

    The CLIP is the one that the checkpoint names; where it lies elsewhere now, --config.clip.name says where.
    """
    arguments.mode = "eval"
    train.main(arguments)


def _next_commands(config: Config, workdir: pathlib.Path) -> str:
    """What to do with a run that has ended."""
    from mpafer_jax.artifacts.run_dir import EXAMPLES, REPORT

    name, examples = shlex.quote(str(workdir)), workdir / EXAMPLES
    images = f"{shlex.quote(str(examples))} --faces=none" if examples.is_dir() else "IMAGES"
    lines = ["\nnext, for example:", f"  python -m mpafer_jax.predict {images} --checkpoint={name}"]
    if config.eval.report in ("numbers", "full"):
        lines.append(f"  mpafer-jax report {name} ANOTHER_RUN    to compare")
        lines.append(f"  open {workdir / REPORT} in a browser")
    return "\n".join(lines)
