"""What the package's commands share: the --config flag, and readable logs."""

from __future__ import annotations

import logging as python_logging
import pathlib
import sys
from typing import Any, cast

from absl import flags, logging
from ml_collections import config_flags

_PACKAGE = pathlib.Path(__file__).resolve().parent


def define_config() -> flags.FlagHolder[Any]:
    """Defines --config=FILE[:arguments] and --config.field=value.

    The files of `configs/` import one another as `configs.common`, so the folder that holds `configs` has to be on the
    import path. It is where the command runs from inside a checkout; this makes it so from any other place.
    """
    if (_PACKAGE.parent / "configs").is_dir():
        sys.path.append(str(_PACKAGE.parent))
    return cast(Any, config_flags).DEFINE_config_file(
        "config", None, "A file of configs/, with optional arguments: configs/rafdb.py:vit_l14."
    )


def show_own_log_lines() -> None:
    """Shows libraries' warnings, but their routine lines only with --verbosity=1: Orbax writes dozens a checkpoint."""

    def is_wanted(record: python_logging.LogRecord) -> bool:
        own = pathlib.Path(record.pathname).is_relative_to(_PACKAGE)
        return own or record.levelno >= python_logging.WARNING or logging.get_verbosity() > logging.INFO

    logging.get_absl_handler().addFilter(is_wanted)
