"""Errors whose message says all there is to say: commands print it without a traceback and end with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user can mend; the message names the file or field, what it has, what it needs, what to do."""


class ConfigError(UserError):
    """A configuration with an unknown, missing or impossible field; the message lists every one of them."""


class DataError(UserError):
    """A dataset that cannot be read; the message names the file, what was found, what was expected, what to do."""


class BankError(UserError):
    """A bank that is missing, not of the format, or without a class; the message says which and what to do."""


class PromptError(UserError):
    """A text that CLIP cannot read; the message names it and its length."""


class CheckpointError(UserError):
    """A checkpoint that is missing or cannot be used; the message names it and says what to do."""
