"""From `config.data` to the dataset that its reader returns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import bucket, records
from mpafer_jax.data.readers import READERS
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, did_you_mean


def check(data: DataSection) -> None:
    """Refuses what does not go with the dataset, before anything is read.

    Raises:
      ConfigError: there is no such dataset, it has another label rule, or its folder is not given.
    """
    name = data.dataset
    if name not in READERS:
        raise ConfigError(
            f"config.data.dataset is {name!r}{did_you_mean(name, READERS)}; known are {', '.join(READERS)}"
        )
    rules = READERS[name].label_rules
    if data.label_rule not in rules:
        raise ConfigError(
            f"config.data.label_rule is {data.label_rule!r}, which does not go with dataset {name!r}; expected "
            f"{' or '.join(map(repr, rules))}"
        )
    if "dir" in READERS[name].fields and not data.dir:
        raise ConfigError(
            f"config.data.dir is empty; give the folder that holds {name}, --config.data.dir=... (layouts: "
            "docs/datasets.md)"
        )


def read_source(data: DataSection) -> SourceIndex:
    """Reads the configured dataset's label files and selects the configured classes; opens no image.

    A dataset in a bucket is fetched first.

    Raises:
      ConfigError: see `check`.
      DataError: config.data.dir does not hold the layout or cannot be fetched, or a class or label is impossible.
    """
    check(data)
    directory = bucket.fetch(data.dir) if files.in_bucket(data.dir) else files.local_path(data.dir, "config.data.dir")
    reader = READERS[data.dataset]
    index = reader.read(*(directory if field == "dir" else getattr(data, field) for field in reader.fields))
    index = records.select_classes(index, data.class_names)
    empty = {
        split: "examples of the listed classes, of which none is left" for split, r in index.splits.items() if not r
    }
    return dataclasses.replace(
        index,
        splits={split: found for split, found in index.splits.items() if found},
        absent={**index.absent, **empty},
    )


def prepared_root(data: DataSection) -> Path:
    """The folder for preparations: config.data.prepared_dir, or `mpafer_tfds` inside the dataset's folder or its copy.

    Drawn faces need no folder to be read from; if none is given, theirs is in the cache (`files.cache_directory`).
    """
    directory = data.dir or (files.cache_directory() / data.dataset)
    if files.in_bucket(directory):
        directory = bucket.copy_of(data.dir)
    return files.local_path(
        data.prepared_dir or str(Path(directory) / records.PREPARED_FOLDER), "config.data.prepared_dir"
    )
