"""The command: trains, evaluates or predicts with one configuration.

    python -m mpafer_jax.main --config=configs/rafdb.py --workdir=runs/rafdb --config.data.dir=/data/RAF-DB

--config.FIELD=VALUE sets any field; configs/common.py documents all of them. --workdir is the run's folder, in which
the same command resumes. `command.run` lists the exit codes, launch/ starts it on many hosts. This file stays short, so
that everything else can be imported and tested.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax import preemption

    preemption.listen()

from collections.abc import Sequence
from typing import Any, cast

from absl import flags
from ml_collections import config_flags

from mpafer_jax import checkpoint, command, evaluate, train
from mpafer_jax.config import Config, ConfigError
from mpafer_jax.data.records import DataError
from mpafer_jax.hard_prompts.bank import BankError
from mpafer_jax.models.prompts import PromptError
from mpafer_jax.prediction import bulk

_CONFIG = command.define_config()
command.define_workdir()
command.define_distributed()
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "predict"], "Train and evaluate; evaluate a checkpoint; predict a split."
)

# Mistakes of the user's: the message says all there is to say, a traceback would bury it.
_USER_ERRORS = (
    ConfigError,
    DataError,
    BankError,
    PromptError,
    checkpoint.CheckpointError,
)


def main(argv: Sequence[str]) -> None:
    """Checks the configuration and runs it."""
    command.refuse_arguments(argv)
    command.show_own_log_lines()
    command.run(_run, _USER_ERRORS)


def _run() -> None:
    workdir = command.workdir()
    config = Config.from_config_dict(_CONFIG.value)
    command.import_libraries_without_torch()
    if _MODE.value == "train":
        train.train_and_evaluate(config, workdir)
    elif _MODE.value == "eval":
        evaluate.evaluate_checkpoint(config, workdir, clip=_named_clip())
    else:
        bulk.predict_dataset(config, workdir, clip=_named_clip())


def _named_clip() -> str:
    """What --config.clip.name says, or '': a checkpoint's own CLIP is not to be replaced by a configuration's usual."""
    given: dict[str, Any] = cast(Any, config_flags).get_override_values(flags.FLAGS["config"])
    return str(given.get("clip.name", ""))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command.start(main)
