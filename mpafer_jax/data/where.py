"""Selection of images by their attributes (`config.data.where`)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from mpafer_jax.data import records
from mpafer_jax.data.records import Record, SourceIndex
from mpafer_jax.runtime.errors import DataError, did_you_mean
from mpafer_jax.runtime.texts import first

_CONDITION = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?P<operator>>=|<=|=)\s*(?P<value>[^<>=]+?)\s*")
_LISTED = 20  # values in an error


@dataclasses.dataclass(frozen=True)
class _Condition:
    text: str
    name: str
    operator: str
    values: tuple[str, ...]

    def holds(self, value: str) -> bool:
        """Whether a record's value of the attribute meets the condition; '' (unknown) never does."""
        if self.operator == "=":
            return value in self.values
        number, limit = _number(value), _number(self.values[0])
        return number >= limit if self.operator == ">=" else number <= limit  # false for NaN


def select(index: SourceIndex, conditions: Sequence[str]) -> SourceIndex:
    """Keeps the records that meet all conditions; the others are dropped and counted.

    Args:
      conditions: "NAME=VALUE", "NAME=VALUE|VALUE", "NAME>=NUMBER" or "NAME<=NUMBER".

    Raises:
      DataError: a condition of another form, or an attribute or a value that no record has.
    """
    if not conditions:
        return index
    parsed = [_parse(text) for text in conditions]
    for condition in parsed:
        _check(condition, index)

    def choose(record: Record) -> Record | str:
        unmet = next((c for c in parsed if not c.holds(record.attributes.get(c.name, ""))), None)
        return record if unmet is None else f"not {unmet.text}"

    return dataclasses.replace(records.keep(index, choose), whole=index)


def _parse(text: str) -> _Condition:
    match = _CONDITION.fullmatch(text)
    is_number = match is not None and (match["operator"] == "=" or not math.isnan(_number(match["value"])))
    if match is None or not is_number:
        raise DataError(
            f"config.data.where: {text!r} is no condition; expected NAME=VALUE, NAME=VALUE|VALUE, NAME>=NUMBER or "
            "NAME<=NUMBER"
        )
    values = match["value"].split("|") if match["operator"] == "=" else [match["value"]]
    return _Condition(text, match["name"], match["operator"], tuple(value.strip() for value in values))


def _check(condition: _Condition, index: SourceIndex) -> None:
    everything = [record.attributes for found in index.splits.values() for record in found]
    known = dict.fromkeys(name for attributes in everything for name in attributes)
    if condition.name not in known:
        raise DataError(
            f"config.data.where: {condition.text!r} names an attribute that {index.dataset} does not have here"
            f"{did_you_mean(condition.name, known)}; it has {', '.join(known) or 'none'}"
        )
    values = sorted({attributes.get(condition.name, "") for attributes in everything} - {""})
    if condition.operator == "=":
        unknown = [value for value in condition.values if value not in values]
        if unknown:
            raise DataError(
                f"config.data.where: no image has the {condition.name} {unknown[0]!r}"
                f"{did_you_mean(unknown[0], values)}; the values are {first(values, _LISTED)}"
            )
    elif all(math.isnan(_number(value)) for value in values):
        raise DataError(
            f"config.data.where: {condition.text!r} compares numbers, and the values of {condition.name} are "
            f"{first(values, _LISTED)}"
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
