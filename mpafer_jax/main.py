"""Trains prompts, evaluates them, or predicts with them, as one configuration says.

    python -m mpafer_jax.main --config=configs/rafdb.py --workdir=runs/rafdb --config.data.dir=/data/RAF-DB

The same command goes on wherever it was stopped. Results: the closing table on stdout, and in the workdir results.md,
summary.json and report.html.

Exit codes: 0 done; 75 stopped in good order, run again to go on; 2 a mistake or a full disk, which the message
explains; 1 anything else.
"""

# This file stays short, so that everything else can be imported and tested.

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, cast

from absl import flags, logging
from ml_collections import config_flags

from mpafer_jax.artifacts.run_dir import EXAMPLES, REPORT
from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import table
from mpafer_jax.jobs import evaluate, predict, train
from mpafer_jax.runtime import console, distributed
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError, PromptError

_CONFIG = define_config()
runner.define_workdir()
runner.define_distributed()
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "predict"], "Train and evaluate; evaluate a checkpoint; predict a split."
)

# Mistakes of the user's: the message says all there is to say, a traceback would bury it.
_USER_ERRORS = (
    ConfigError,
    DataError,
    PromptError,
    PromptError,
    CheckpointError,
)


def main(argv: Sequence[str]) -> None:
    """Checks the configuration and runs it."""
    runner.refuse_arguments(argv)
    runner.run(_run, _USER_ERRORS)


def _next_commands(config: Config, workdir: pathlib.Path) -> str:
    """What to do with a run that has ended."""
    examples = workdir / EXAMPLES
    name = shlex.quote(str(workdir))
    images = shlex.quote(str(examples)) if examples.is_dir() else "IMAGES"
    lines = ["\nnext, for example:", f"  python -m mpafer_jax.predict {name} {images}"]
    if config.eval.report in ("numbers", "full"):
        lines.append(f"  python -m mpafer_jax.cli.report {name} ANOTHER_RUN    to compare")
        lines.append(f"  open {workdir / REPORT} in a browser")
    return "\n".join(lines)


def _run() -> None:
    workdir = runner.workdir()
    config = Config.from_config_dict(_CONFIG.value)
    runner.import_libraries_without_torch()
    if _MODE.value == "train":
        summary = train.train_and_evaluate(config, workdir)
        if distributed.is_first():
            console.markdown(table.render(summary))
            logging.info("%s", _next_commands(config, workdir))
    elif _MODE.value == "eval":
        result = evaluate.evaluate_checkpoint(config, workdir, clip=_named_clip())
        if distributed.is_first():
            console.markdown(evaluate.table(result))
    else:
        predict.predict_dataset(config, workdir, clip=_named_clip())


def _named_clip() -> str:
    """What --config.clip.name says, or '': a checkpoint's own CLIP is not to be replaced by a configuration's usual."""
    given: dict[str, Any] = cast(Any, config_flags).get_override_values(flags.FLAGS["config"])
    return str(given.get("clip.name", ""))


if __name__ == "__main__":
    runner.start(main, required=["config", "workdir"])
