"""Which reader and which builder belong to which `config.data.dataset`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import bucket, records
from mpafer_jax.data.prepared import ExpressionBuilder
from mpafer_jax.data.readers import affectnet, ckplus, fer2013, ferplus, folder, jaffe, rafdb, sfew, synthface
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, did_you_mean

BUILDERS: dict[str, type[ExpressionBuilder]] = {
    "rafdb": rafdb.RafDb,
    "rafdb_compound": rafdb.RafDbCompound,
    "ferplus": ferplus.FerPlus,
    "affectnet": affectnet.AffectNet,
    "fer2013": fer2013.Fer2013,
    "sfew": sfew.Sfew,
    "ckplus": ckplus.CkPlus,
    "jaffe": jaffe.Jaffe,
    "folder": folder.Folder,
    "synthface": synthface.SynthFace,
}


def check(data: DataSection) -> None:
    """Refuses what does not go with the dataset, before anything is read.

    Raises:
      ConfigError: there is no such dataset, it has another label rule, or its folder is not given.
    """
    if data.dataset not in BUILDERS:
        raise ConfigError(
            f"config.data.dataset is {data.dataset!r}{did_you_mean(data.dataset, BUILDERS)}; known are "
            f"{', '.join(BUILDERS)}"
        )
    if (data.dataset == "ferplus") == (data.label_rule == "owner"):
        raise ConfigError(
            f"config.data.label_rule {data.label_rule!r} does not go with dataset {data.dataset!r}: ferplus needs one "
            "of majority_labelcsv, majority_csv, argmax, distribution; every other dataset 'owner'"
        )
    if not data.dir and data.dataset != "synthface":
        raise ConfigError(
            f"config.data.dir is empty; give the folder that holds {data.dataset}, --config.data.dir=... (layouts: "
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
    match data.dataset:
        case "rafdb":
            index = rafdb.read(directory)
        case "rafdb_compound":
            index = rafdb.read(directory, "compound")
        case "ferplus":
            index = ferplus.read(directory, data.label_rule)
        case "affectnet":
            index = affectnet.read(directory)
        case "fer2013":
            index = fer2013.read(directory)
        case "sfew":
            index = sfew.read(directory)
        case "ckplus":
            index = ckplus.read(directory)
        case "jaffe":
            index = jaffe.read(directory)
        case "folder":
            index = folder.read(directory, data.class_names)
        case "synthface":
            index = synthface.read(data.synthface, data.class_names)
        case _:
            raise AssertionError(data.dataset)
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
