"""Redacts local paths from exported checkpoints and published results, as they often contain user names.

The type of a field says whether it is a path (`fields.LocalPath`).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any, cast

from mpafer_jax.config.fields import LocalPath, settings
from mpafer_jax.config.schema import Config

# OWNER/NAME, or OpenAI's ViT-L/14@336px. Does not check the disk: redaction has to agree on all machines that publish
# runs of a sweep.
_ON_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.@-]*")

LOCAL_PATHS: Mapping[str, LocalPath] = {  # by dotted name
    name: setting.path for name, setting in settings(Config).items() if setting.path is not None
}


def redact(values: Mapping[str, Any], prefix: str = "", *, told_apart: bool = False) -> dict[str, Any]:
    """Redacts the local paths of a configuration or of a section.

    Args:
      values: fields, nested or by dotted name.
      prefix: dotted name of the section in `values`, with a trailing dot.
      told_apart: whether the values have to distinguish several configurations: folders then keep their last part too.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        at = prefix + name
        if isinstance(value, Mapping):
            found[name] = redact(cast(Mapping[str, Any], value), f"{at}.", told_apart=told_apart)
        else:
            found[name] = redact_value(at, value, told_apart=told_apart) if at in LOCAL_PATHS else value
    return found


def redact_value(field: str, value: Any, *, told_apart: bool = False) -> Any:
    """Redacts the value of one of `LOCAL_PATHS`: a string, or each string of a sequence."""
    if not isinstance(value, str):
        return type(value)(redact_value(field, one, told_apart=told_apart) for one in value)
    keeps = LOCAL_PATHS[field].keeps
    if keeps == "nothing" and not told_apart:
        return ""
    return value if keeps == "hub name" and _ON_THE_HUB.fullmatch(value) else pathlib.PurePath(value).name
