"""Errors with self-contained messages, printed without a traceback (`cli/runner.py`).

A message names the file, field or flag, the value found, the expected one, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import pydantic


class UserError(ValueError):
    """An error that the user can fix."""

    exit_code: ClassVar[int] = 2


class ConfigError(UserError):
    """A field, flag or class name that is unknown, missing or invalid; lists all errors of a configuration."""


class DataError(UserError):
    """A dataset file, or a cache made from one, that cannot be read."""


class ImageError(DataError):
    """Data that cannot be used as an image; callers add its path."""


class PromptError(UserError):
    """Hard prompts: a bank that is missing, malformed or lacks a class; a text or a position beyond CLIP's context."""


class GenerationError(UserError):
    """Descriptions cannot be generated; a retry would not help."""


class UnavailableError(GenerationError):
    """A language model did not answer; a retry may help."""

    exit_code = 1


class CheckpointError(UserError):
    """A checkpoint or exported prompts: missing, or incompatible."""


class UnreadableError(CheckpointError):
    """A checkpoint whose files are damaged or malformed."""


class ExportError(UserError):
    """An exported model that does not reproduce the checkpoint's numbers."""

    exit_code = 1


class InputError(UserError):
    """Inputs or outputs of a prediction: nothing to predict on, or another command's results in the output file."""


class ReportError(UserError):
    """Results of runs that cannot be read or compared."""


class WorkerError(UserError):
    """A worker process that ended before its work did."""

    exit_code = 1


class LockedError(UserError):
    """Another process holds the lock."""


class NonFiniteError(UserError):
    """A computed value is NaN or infinite."""


class ClusterError(UserError):
    """Processes of a multi-process run that cannot find each other."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the closest known word, or ''."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_problem(error: pydantic.ValidationError) -> str:
    """The first of the problems in words: 'overrides.0: Input should be a valid string'."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
