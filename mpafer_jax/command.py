"""What the package's commands share: flags, readable logs, and a start without PyTorch."""

from __future__ import annotations

import functools
import importlib
import logging as python_logging
import pathlib
import sys
from typing import Any, cast

from absl import flags, logging
from ml_collections import config_flags

from mpafer_jax.weights.hub_library import import_transformers

_PACKAGE = pathlib.Path(__file__).resolve().parent


# Flags are the process's: cached, so that a program (or a test) can import several commands.
@functools.cache
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


@functools.cache
def define_workdir() -> flags.FlagHolder[Any]:
    """Defines --workdir."""
    return cast(Any, flags).DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, results.")


def show_own_log_lines(*others: str) -> None:
    """Shows libraries' warnings, but their routine lines only with --verbosity=1: Orbax writes dozens a checkpoint.

    Args:
      *others: names of libraries' loggers whose routine lines are shown too.
    """

    def is_wanted(record: python_logging.LogRecord) -> bool:
        own = record.name in others or pathlib.Path(record.pathname).is_relative_to(_PACKAGE)
        return own or record.levelno >= python_logging.WARNING or logging.get_verbosity() > logging.INFO

    logging.get_absl_handler().addFilter(is_wanted)


def import_libraries_without_torch() -> None:
    """Imports those of our libraries that import PyTorch wherever it is installed, and makes them take it for absent.

    They do it for features that we do not use, and it costs seconds and hundreds of megabytes. For a process that is
    ours alone, as a command is: a program that imports this package may want those features. PyTorch itself can still
    be imported afterwards (pytorch_model.bin needs it).
    """
    modules = cast(dict[str, Any], sys.modules)
    if "torch" in modules:
        return
    modules["torch"] = None  # Python's own mark of a module that cannot be imported
    try:
        importlib.import_module("tensorboardX")
        transformers = import_transformers()
        _ = transformers.CLIPConfig, transformers.CLIPTokenizer  # imported when looked up
    finally:
        del modules["torch"]
