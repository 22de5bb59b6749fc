"""Names of splits and classes as folders, lists and Parquet files of others have them."""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from mpafer_jax.config.expressions import (
    canonical_name,
    check_class_names,
    corrected_name,
    names_of_codes,
    near_expression,
)
from mpafer_jax.data.records import LayoutError
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError
from mpafer_jax.runtime.texts import first

SPLITS = ("train", "validation", "test")
_LISTED = 4  # labels in an error
_ALIASES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev", "publictest"),  # the last is FER2013's
    "test": ("test", "testing", "privatetest"),
}
_SPLIT_OF = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
_PREFIX = re.compile(r"\d+[ _.-]+(?=\D)")  # "0_angry", "1-happy"
# Persons, clips or sequences: AF01, S005, subject12, 00017. Not class1, au12.
_IDENTITY = re.compile(r"(?!(?:class|label|au|emotion|expression|level)[ _-]?\d)[a-z]{1,7}[ _-]?\d{2,}|\d{3,}", re.I)


def split_of(name: str) -> str:
    """The split that a folder, a column's value or a file calls so: "Training", "val_set", "TEST"; '' for none."""
    word = re.sub(r"[ _.-]+", "", name.strip().lower())
    return _SPLIT_OF.get(word, _SPLIT_OF.get(word.removesuffix("set"), ""))


def split_in(words: str) -> str:
    """The one split among the words of a name, such as "train_labels"; '' for none or several."""
    splits = {split_of(word) for word in re.split(r"[ _.-]+", words)} - {""}
    return splits.pop() if len(splits) == 1 else ""


def split_of_path(path: Path) -> str:
    """The split of the first folder of a path that names one, '' for none."""
    return next((split for part in path.parts[:-1] if (split := split_of(part))), "")


def are_numbers(labels: Sequence[str]) -> bool:
    """Whether labels are numbers."""
    return all(label.isdecimal() for label in labels)


def spellings(labels: Sequence[str], of_splits: Iterable[Collection[str]]) -> dict[str, str]:
    """One spelling for the labels of a class: "Happy" in one split and "happiness" in another are one class.

    Two in one split stay apart, and are an error of `name_classes`.

    Args:
      labels: distinct; of several spellings the first is taken.
      of_splits: the labels of each split.

    Returns:
      Label -> its spelling.
    """
    counts = [collections.Counter(map(canonical_name, set(of_split))) for of_split in of_splits]
    twice = {name for of_split in counts for name, count in of_split.items() if count > 1}
    keys = {label: label if canonical_name(label) in twice else canonical_name(label) for label in labels}
    spelled = {keys[label]: label for label in reversed(labels)}
    return {label: spelled[key] for label, key in keys.items()}


def name_classes(
    labels: Sequence[str], chosen: Sequence[str], place: str, what: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names the classes of labels that are words: folders, or values of a column.

    Numbers in front are removed if all have one ("0_angry"); codes, if all are codes, and known misspellings are
    replaced by the expression.

    Args:
      labels: distinct, with at least one image each.
      chosen: config.data.class_names; labels that it lists are taken as they are.
      place: where the labels are, for errors.
      what: what a label is, such as "class folder".

    Returns:
      Class names in the order of `labels`, distinct but for those that `chosen` renames, and notes for the user.

    Raises:
      LayoutError: there is one label, or all are called as persons or clips are, and `chosen` does not list them.
      DataError: a label is not UTF-8, nearly the name of an expression, or the same class as another, and `chosen` does
        not rename it.
    """
    listed = {canonical_name(entry.partition("=")[2] or entry) for entry in chosen}
    unlisted = [label for label in labels if canonical_name(label) not in listed]
    for label in labels:
        if not files.is_utf8(label):
            raise DataError(f"{place}: the {what} {label!r} is not called in UTF-8; rename it")
    if len(unlisted) > 1 and len(unlisted) == len(labels) and all(_IDENTITY.fullmatch(label) for label in labels):
        raise LayoutError(
            f"{place}: {len(labels)} {what}s, {first(labels, _LISTED)}, which look like persons or clips and not like "
            "expressions; if these are classes, list them in config.data.class_names"
        )
    if len(labels) == 1 and not chosen:
        raise LayoutError(
            f"{place}: there is one {what} with images, {labels[0]!r}, and no other class; if that is "
            "meant, list it in config.data.class_names"
        )
    names, notes = list(labels), list[str]()
    if codes := names_of_codes(labels):
        names = _unless_listed(codes, labels, listed)
        if read := [(label, name) for label, name in zip(labels, names, strict=True) if label != name]:
            notes.append(_read_as(place, what, *zip(*read, strict=True)))
    elif all(_PREFIX.match(label) for label in labels):
        names = _unless_listed([_PREFIX.sub("", label, count=1) for label in labels], labels, listed)
    corrected = _unless_listed([corrected_name(name) or name for name in names], names, listed)
    if wrong := [(name, right) for name, right in zip(names, corrected, strict=True) if name != right]:
        notes.append(_read_as(place, what, *zip(*wrong, strict=True)))
    for label, name in zip(labels, corrected, strict=True):
        near = near_expression(name)
        if near and label in unlisted:
            raise DataError(
                f"{place}: the {what} {label!r} is nearly called {near!r}; rename it, or if it is a class of its own "
                f"name all classes, --config.data.class_names=\"('{name}',...)\""
            )
    renamed = {entry.partition("=")[2] for entry in chosen}
    try:
        for words in (names, corrected):  # first as they are there
            kept = [word for word, label in zip(words, labels, strict=True) if label not in renamed]
            check_class_names(kept, f"{what}s in {place}", at_least=0)
    except ConfigError as error:
        raise DataError(
            f"{error}. Merge such {what}s or rename them, or give each a name of its own, "
            f"--config.data.class_names=\"('<name>=<{what}>',...)\""
        ) from error
    return tuple(" ".join(name.split()) for name in corrected), tuple(notes)


def _unless_listed(names: Sequence[str], labels: Sequence[str], listed: Collection[str]) -> list[str]:
    """The names of labels, but of those labels that are listed, and whose names are not, the labels."""
    return [
        label if canonical_name(label) in listed and canonical_name(name) not in listed else name
        for name, label in zip(names, labels, strict=True)
    ]


def _read_as(place: str, what: str, labels: Sequence[str], names: Sequence[str]) -> str:
    pairs = ", ".join(f"{label!r} as {name!r}" for label, name in zip(labels, names, strict=True))
    return f"{place}: {what}s are read by another name: {pairs}"


def number_note(labels: Sequence[str], chosen: Sequence[str], place: str, what: str) -> str:
    """What to do about labels that are numbers and have no name in `chosen` (config.data.class_names); '' if all do."""
    numbers = [label for label in labels if label.isdecimal() and (not chosen or label in chosen)]
    if not numbers:
        return ""
    example = ",".join(f"'<expression>={number}'" for number in numbers[:2])
    return (
        f"{place}: {what}s {', '.join(numbers)} are numbers, which tell a text encoder nothing, and datasets number "
        "expressions differently; find out what each means and set "
        f'--config.data.class_names="({example},...)"'
    )
