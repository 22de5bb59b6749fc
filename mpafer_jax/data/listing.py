"""From rows of lists and Parquet files, whose labels and splits are words, to a `SourceIndex`."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from mpafer_jax.data import records
from mpafer_jax.data.names import SPLITS, are_numbers, name_classes, number_note, spellings, split_of
from mpafer_jax.data.records import Counts, ImageSource, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError
from mpafer_jax.runtime.texts import first

_LISTED = 4  # values in a warning


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One image as listed; label and person are '' if unknown. `dropped`: why it is not used, '' if it is."""

    name: str
    image: ImageSource
    split: str
    label: str
    person: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    dropped: str = ""


def label_text(text: str) -> str:
    """A label without spaces around it, '' for none, which programs write as -1 or NaN.

    Whole numbers are without fraction or leading zeros: " 03.0" gives "3".
    """
    text = text.strip()
    if text.lower() in ("nan", "-1", "-1.0"):
        return ""
    return str(int(text.partition(".")[0])) if re.fullmatch(r"\d+(\.0+)?", text) else text


def says_no_split(column: str, values: Iterable[str], place: str) -> str:
    """A warning that a column, taken for that of the splits by its name, is none; '' if a value is a split's."""
    distinct = sorted(set(values))
    if not distinct or any(map(split_of, distinct)):
        return ""
    return (
        f"{place}: the column {column!r} is called as that of the splits usually is, but names no split, and is not "
        f"used; its values are {first([repr(value) for value in distinct], _LISTED)}. If they are splits, write train, "
        "validation and test"
    )


def row_split(value: str, of_file: str, column: str, place: str) -> str:
    """The split that a row names in a column; DataError if it names none, or another than its file ('' if that has
    none).
    """
    split = split_of(value)
    if not split:
        raise DataError(
            f"{place}: the split, in the column {column!r}, is {value!r}, expected train, validation or test, or an "
            "alias of one; correct it, or if another column tells the split, name that one, "
            "--config.data.columns.split=..., or else rename this one"
        )
    if of_file not in ("", split):
        raise DataError(f"{place}: the split is {value!r}, in a file of the split {of_file!r}")
    return split


def to_index(
    rows: Sequence[Row], chosen: Sequence[str], place: str, labels: Sequence[str] = (), names: Sequence[str] = ()
) -> SourceIndex:
    """Makes the index of listed images; those without a label are dropped and counted.

    Labels that spell one class differently in different splits are one (`names.spellings`).

    Args:
      chosen: config.data.class_names, which has to name labels that are numbers.
      place: the files, for errors.
      labels: all labels in their order; () for those of the rows, sorted.
      names: classes of `labels`; () if labels are the classes' names.

    Raises:
      DataError: no row has a label, labels are numbers without names, or see `names.name_classes`.
    """
    of_splits: dict[str, set[str]] = {}
    for row in rows:
        if row.label:
            of_splits.setdefault(row.split, set()).add(row.label)
    found = sorted(set[str]().union(*of_splits.values()))
    spelled = dict(zip(found, found, strict=True)) if labels else spellings(found, of_splits.values())
    counts = collections.Counter(spelled[row.label] for row in rows if row.label)
    if not counts:
        raise DataError(f"{place}: none of the {len(rows)} images has a label")
    # Numbers are in the order of numbers.
    order = tuple(labels or sorted(counts, key=lambda label: (len(label) if label.isdecimal() else 0, label)))
    words = tuple(names or order)
    if are_numbers(words) and (not chosen or not any("=" in entry for entry in chosen)):
        listed = ", ".join(f"{word} ({counts[label]})" for word, label in zip(words, order, strict=True))
        note = number_note(words, (), place, "label")
        raise DataError(f"{note}\nLabels, with the number of their images: {listed}")
    class_names, notes = name_classes(words, chosen, place, "label")
    position = {label: number for number, label in enumerate(order)}
    dropped: Counts = {}
    splits: dict[str, list[Record]] = {}
    for row in rows:
        split = splits.setdefault(row.split, [])
        if reason := row.dropped or ("" if row.label else "no label"):
            records.count(dropped, row.split, reason)
            continue
        label = position[spelled[row.label]]
        split.append(Record(row.name, row.image, label, person=row.person, attributes=row.attributes))
    order_of_splits = [*(split for split in SPLITS if split in splits), *(s for s in splits if s not in SPLITS)]
    return SourceIndex(
        class_names=class_names,
        source_labels=order,
        splits={split: splits[split] for split in order_of_splits},
        absent={split: f"rows of the split {split!r} in {place}" for split in SPLITS},
        dropped=dropped,
        warnings=(*notes, *filter(None, [number_note(words, chosen, place, "label")])),
    )
