"""What leaves a machine, without the places on it: exported checkpoints, published results.

A folder's name helps nobody elsewhere and says too much, often who trained. Which fields of a configuration are paths
says their type (`fields.LocalPath`).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any, cast

from mpafer_jax.config.fields import LocalPath, settings
from mpafer_jax.config.schema import Config

# OWNER/NAME. No look at the disk: the same name has to be the same on every machine that publishes runs of a sweep.
_ON_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")


PLACES: Mapping[str, LocalPath] = {  # by dotted name
    name: setting.path for name, setting in settings(Config).items() if setting.path is not None
}


def without_places(values: Mapping[str, Any], prefix: str = "", *, told_apart: bool = False) -> dict[str, Any]:
    """A configuration, or a part of one, with what is left of places when they are taken out.

    Args:
      values: fields, nested or by dotted name; those that are no places stay as they are.
      prefix: dotted name of the section that `values` are, with a dot behind it.
      told_apart: whether several configurations are told apart by these values: then folders too keep the last part.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        at = prefix + name
        if isinstance(value, Mapping):
            found[name] = without_places(cast(Mapping[str, Any], value), f"{at}.", told_apart=told_apart)
        else:
            found[name] = without_place(at, value, told_apart=told_apart) if at in PLACES else value
    return found


def without_place(field: str, value: Any, *, told_apart: bool = False) -> Any:
    """What is left of the value of one of `PLACES`: a text, or each of several."""
    if not isinstance(value, str):
        return type(value)(without_place(field, one, told_apart=told_apart) for one in value)
    keeps = PLACES[field].keeps
    if keeps == "nothing" and not told_apart:
        return ""
    return value if keeps == "hub name" and _ON_THE_HUB.fullmatch(value) else pathlib.PurePath(value).name
