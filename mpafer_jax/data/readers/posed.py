"""Photographs of posed expressions whose names tell person, expression and circumstances: KDEF, RaFD."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.preprocess import is_image
from mpafer_jax.data.records import Counts, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError


def read(
    place: Path,
    pattern: re.Pattern[str],
    classes: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, str] | None],
) -> SourceIndex:
    """Lists the images of a folder, at any depth, by name: one split, "train", possibly empty.

    Args:
      place: the folder.
      pattern: of a file's name, with the groups "person", "expression" and those of `attributes`; case is ignored.
      classes: "expression" -> class, in the order of the labels.
      attributes: group -> its values by what the name says; None: what the name says, in lower case.

    Raises:
      DataError: two files have one name.
    """
    labels = {expression.lower(): label for label, expression in enumerate(classes)}
    meanings = {
        name: None if values is None else {word.lower(): value for word, value in values.items()}
        for name, values in attributes.items()
    }
    train: dict[str, Record] = {}
    dropped: Counts = {}
    for path in filter(lambda path: is_image(path.name), records.files_below(place)):
        match = pattern.fullmatch(path.name)
        if match is None:
            records.count(dropped, "train", "name of another form")
            continue
        if path.name in train:
            raise DataError(f"{train[path.name].image.place} and {path} have the same name; keep one of them")
        words = {name: match[name].lower() for name in meanings}
        train[path.name] = Record(
            path.name,
            records.ImageFile(path),
            labels[match["expression"].lower()],
            person=match["person"].upper(),
            attributes={
                name: word if (values := meanings[name]) is None else values[word] for name, word in words.items()
            },
        )
    return SourceIndex(
        class_names=tuple(classes.values()),
        source_labels=tuple(classes),
        splits={"train": [train[name] for name in sorted(train)]},
        dropped=dropped,
    )
