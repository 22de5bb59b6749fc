"""Errors whose message says all there is to say; commands print it without a traceback (`cli/runner.py`).

A message names the file, field or flag, what was found, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """Something that the user can mend."""

    exit_code: ClassVar[int] = 2


class ConfigError(UserError):
    """A field, a flag or a name of a class that is unknown, missing or impossible; a configuration's are all listed."""


class DataError(UserError):
    """A file of a dataset, or a cache made from one, that cannot be read."""


class ImageError(DataError):
    """Data that cannot be used as an image; whoever knows where it lies adds that."""


class PromptError(UserError):
    """Hard prompts: a bank that is missing, malformed or lacks a class; a text or a place that CLIP has no room for."""


class GenerationError(UserError):
    """Descriptions that cannot be asked for: nothing would change by asking again."""


class UnavailableError(GenerationError):
    """A language model that did not answer; it may later."""

    exit_code = 1


class CheckpointError(UserError):
    """A checkpoint or exported prompts: missing, or not to be used with what else is given."""


class UnreadableError(CheckpointError):
    """A checkpoint whose files are damaged or not of this program's form."""


class ExportError(UserError):
    """An exported model that does not give the checkpoint's numbers."""

    exit_code = 1


class InputError(UserError):
    """Inputs or results of a prediction: nothing to predict on, or another command's results in the way."""


class ReportError(UserError):
    """Results of runs that cannot be read, or not be compared."""


class LockedError(UserError):
    """Another process is at work there."""


class NonFiniteError(UserError):
    """Something computed is NaN or infinite."""


class ClusterError(UserError):
    """Processes that cannot find each other."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where one of the known words is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
