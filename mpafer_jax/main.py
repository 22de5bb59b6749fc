"""The command: trains or evaluates one configuration.

    python -m mpafer_jax.main --config=configs/rafdb.py --workdir=runs/rafdb --config.data.dir=/data/RAF-DB

Running the same command again resumes. This file stays short, so that everything else can be imported and tested.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging

from mpafer_jax import checkpoint, command, evaluate, steps, train
from mpafer_jax.config import Config, ConfigError
from mpafer_jax.data.records import DataError
from mpafer_jax.hard_prompts.bank import BankError
from mpafer_jax.models.prompts import PromptError
from mpafer_jax.report.contents import ReportError

_CONFIG = command.define_config()
_WORKDIR = command.define_workdir()
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate a checkpoint.")

# Mistakes of the user's: the message says all there is to say, a traceback would bury it.
_USER_ERRORS = (
    ConfigError,
    DataError,
    BankError,
    PromptError,
    checkpoint.CheckpointError,
    steps.NonFiniteError,
)


def main(argv: Sequence[str]) -> None:
    """Checks the configuration and runs it."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    command.show_own_log_lines()
    logging.info("devices: %d x %s", jax.device_count(), jax.default_backend())
    workdir = pathlib.Path(str(_WORKDIR.value))
    try:
        config = Config.from_config_dict(_CONFIG.value)
        command.import_libraries_without_torch()
        if _MODE.value == "train":
            train.train_and_evaluate(config, workdir)
        else:
            evaluate.evaluate_checkpoint(config, workdir)
    except _USER_ERRORS as error:
        logging.error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    except ReportError as error:
        logging.exception("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
