"""Calls the reader that `config.data` names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import pydantic

from mpafer_jax.config.data_section import HUB_SCHEME, DataSection
from mpafer_jax.data import aligned, bucket, hub, records, where
from mpafer_jax.data.readers import READERS
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError, did_you_mean

_SECTIONS = ("clips", "list", "columns")  # of config.data, which some readers read


def check(data: DataSection) -> None:
    """Validates `config.data` before reading.

    Raises:
      ConfigError: an unknown dataset, label rule or `align`, no dir, or a field that the dataset does not read.
    """
    name = data.dataset
    if name not in READERS:
        raise ConfigError(
            f"config.data.dataset is {name!r}{did_you_mean(name, READERS)}; known are {', '.join(READERS)}"
        )
    for field, allowed in (("label_rule", READERS[name].label_rules), ("align", READERS[name].alignments)):
        if getattr(data, field) not in allowed:
            raise ConfigError(
                f"config.data.{field} is {getattr(data, field)!r}, which does not go with dataset {name!r}; expected "
                f"{' or '.join(map(repr, allowed))}"
            )
    for section in _SECTIONS:
        found = cast(pydantic.BaseModel, getattr(data, section))
        for field, value in found:
            readers = [
                other
                for other, reader in READERS.items()
                if section in reader.fields and f"{section}.{field}" not in reader.unread
            ]
            if value != type(found).model_fields[field].default and name not in readers:
                raise ConfigError(
                    f"config.data.{section}.{field} is {value!r}, which dataset {name!r} does not read; these do: "
                    f"{', '.join(readers)}. Leave it out"
                )
    if "dir" in READERS[name].fields and not data.dir:
        raise ConfigError(
            f"config.data.dir is empty; give the folder that holds {name}, --config.data.dir=... (layouts: "
            "docs/datasets.md)"
        )


def read_source(data: DataSection) -> SourceIndex:
    """Reads the configured dataset's labels and selects the configured images and classes, without opening images.

    A dataset in a bucket or on the Hub is fetched first.

    Raises:
      ConfigError: see `check`.
      DataError: config.data.dir has another layout or cannot be fetched, a class, label or condition is invalid, or no
        example is left.
    """
    index = where.select(records.select_classes(read_whole(data), data.class_names), data.where)
    empty = {
        split: "examples of data.class_names and data.where, of which none is left"
        for split, r in index.splits.items()
        if not r
    }
    absent = {**index.absent, **empty}
    if empty.keys() == index.splits.keys():
        looked_for = "".join(f"\n  {split}: {what}" for split, what in absent.items())
        raise DataError(f"{data.dataset} has no example here; looked for{looked_for}")
    return dataclasses.replace(
        index, splits={split: found for split, found in index.splits.items() if found}, absent=absent
    )


def read_whole(data: DataSection) -> SourceIndex:
    """`read_source` before images and classes are selected; the dataset itself, or an aligned copy of it."""
    check(data)
    directory = _local_folder(data)
    reader = READERS[data.dataset]
    copy = aligned.find(directory) if data.dir else None
    if copy is not None and copy[1].original is not None:
        return aligned.read(copy[0], copy[1].original, copy[1], data)
    index = reader.read(*(directory if field == "dir" else getattr(data, field) for field in reader.fields))
    if copy is None:
        return index
    return dataclasses.replace(index, crop=copy[1].crop, face_margin=copy[1].margin)


def _local_folder(data: DataSection) -> Path:
    if data.dir.startswith(HUB_SCHEME):
        return hub.fetch(data.dir, "*.parquet" if data.dataset == "parquet" else "")
    if files.in_bucket(data.dir):
        return bucket.fetch(data.dir)
    return files.local_path(data.dir, "config.data.dir") if data.dir else Path()


def prepared_root(data: DataSection) -> Path:
    """The folder of preparations: config.data.prepared_dir, or `mpafer_tfds` in the dataset's folder or local copy.

    For drawn faces without a folder it is in the cache (`files.cache_directory`).
    """
    directory = data.dir or (files.cache_directory() / data.dataset)
    if files.in_bucket(directory):
        directory = bucket.copy_of(data.dir)
    return files.local_path(
        data.prepared_dir or str(Path(directory) / records.PREPARED_FOLDER), "config.data.prepared_dir"
    )
