"""Aligned copies of datasets, which `mpafer-jax data align` makes: their files, and how they are read.

    alignment.json              how the faces were aligned, and what the original says of its classes and splits
    metadata.jsonl              of each example: file, class, split, name, person, attributes, label distribution
    alignment.csv               what became of each image
    <split>/<class>/<name>.jpg  the images; of a clip <split>/<class>/<clip>/<frame>.jpg

A copy of images without labels has no metadata.jsonl, and the folders of the original.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import clips, records
from mpafer_jax.data.reader import READERS
from mpafer_jax.data.records import Clip, Counts, ImageFile, Record, SourceIndex
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import DataError, first_problem

DESCRIPTION, METADATA, LOG = "alignment.json", "metadata.jsonl", "alignment.csv"
_OTHER_READERS = ("folder", "list")  # of a user's images: as these any copy may be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Original:
    """What a copy holds of the original's `SourceIndex`, apart from its records; fields as there.

    Attributes:
      splits: in their order; `absent` ones without where they were looked for.
      align: config.data.align.
      fold: config.data.clips.fold.
      fields: see `_fields`; {} in copies of earlier versions.
    """

    dataset: str
    description: str
    version: str
    label_rule: str
    class_names: tuple[str, ...]
    source_labels: tuple[str, ...]
    splits: tuple[str, ...]
    absent: tuple[str, ...]
    joined: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, Mapping[str, int]]
    align: str
    fold: int
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, index: SourceIndex, data: DataSection) -> Self:
        """Of an index as its reader returns it, and the configuration."""
        return cls(
            dataset=index.dataset,
            description=index.description,
            version=index.version,
            label_rule=index.label_rule,
            class_names=index.class_names,
            source_labels=index.source_labels,
            splits=tuple(index.splits),
            absent=tuple(index.absent),
            joined=index.joined,
            dropped=index.dropped,
            align=data.align,
            fold=data.clips.fold,
            fields=_fields(data),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedCopy:
    """Content of `alignment.json`.

    Attributes:
      complete: False while images are missing.
      margin: around the faces, see `alignment.align`.
      command: that finishes the copy; "" if it is complete.
      version: of this package.
      settings: what the images depend on, by name.
      images: digest of the original images' sizes.
      crop: how the faces were cropped, as `SourceIndex.crop`.
      counts: images by what became of them.
      dropped: split -> reason -> examples that were not copied.
      original: None for images without labels.
    """

    complete: bool
    margin: float
    command: str
    version: str
    settings: Mapping[str, str | int | float]
    images: str = ""
    crop: str = ""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    dropped: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict[str, dict[str, int]])
    original: Original | None = None

    def write(self, folder: Path) -> None:
        """Writes `alignment.json`."""
        files.write_json(folder / DESCRIPTION, dataclasses.asdict(self))

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Reads `alignment.json`; None if it is not there, DataError if it is damaged."""
        path = folder / DESCRIPTION
        if not path.is_file():
            return None
        try:
            return pydantic.TypeAdapter(cls).validate_json(records.read_text(path))
        except pydantic.ValidationError as error:
            raise DataError(
                f"{path} is not the description of an aligned copy: {first_problem(error)}; make the copy again in "
                "another folder"
            ) from error


def find(folder: Path) -> tuple[Path, AlignedCopy] | None:
    """The aligned copy in a folder, or in the only folder inside it, as archives unpack.

    Raises:
      DataError: it is damaged, or not complete.
    """
    while folder.is_dir():
        copy = AlignedCopy.open(folder)
        if copy is not None and not copy.complete:
            raise DataError(
                f"{folder} is an aligned copy that is not complete; finish it with the command that began it:\n"
                f"  {copy.command}"
            )
        if copy is not None:
            return folder, copy
        below = records.subfolders(folder)
        if len(below) != 1:
            break
        folder = below[0]
    return None


def read(folder: Path, original: Original, copy: AlignedCopy, data: DataSection) -> SourceIndex:
    """The index of a complete copy: the original's, with aligned images.

    Raises:
      DataError: the configuration is of another dataset, label rule, crop or fold than the copy, or has other lists,
        columns or drawn faces; or metadata.jsonl is missing or damaged.
    """
    as_itself = data.dataset == original.dataset
    if not as_itself and data.dataset not in _OTHER_READERS:
        raise DataError(
            f"{folder} is an aligned copy of {original.dataset}, and config.data.dataset is {data.dataset!r}; take "
            f"the config that the copy was made with, or configs/folder.py"
        )
    given = {"label_rule": data.label_rule, "align": data.align or original.align, "clips.fold": data.clips.fold}
    copied = {"label_rule": original.label_rule, "align": original.align, "clips.fold": original.fold}
    if original.joined:
        del given["clips.fold"]  # the copy has all folds
    given, copied = given | _fields(data), {**copied, **original.fields} if as_itself else {}
    unset = _fields(DataSection(dataset=data.dataset))
    for field, value in given.items():
        if field in copied and value != copied[field]:
            raise DataError(
                f"{folder} is a copy of {original.dataset} with config.data.{field} {copied[field]!r}, and here it is "
                f"{value!r}; align another copy with that, or leave it as it was"
            )
        if field not in copied and value != unset.get(field, value):
            raise DataError(
                f"config.data.{field} is {value!r}, which is not read from {folder}, an aligned copy of "
                f"{original.dataset}; leave it out"
            )
    joined = clips.join(original.splits, data.clips.fold) if original.joined else {}
    if missing := [part for parts in joined.values() for part in parts if part not in original.splits]:
        raise DataError(f"config.data.clips.fold is {data.clips.fold}, and {folder} has no {missing[0]}")
    dropped: Counts = {split: dict(reasons) for split, reasons in original.dropped.items()}
    for split, reasons in copy.dropped.items():
        for reason, number in reasons.items():
            records.count(dropped, split, reason, number)
    return SourceIndex(
        class_names=original.class_names,
        splits=_records(folder, original),
        absent=dict.fromkeys(original.absent, f"examples of it in {folder / METADATA}"),
        source_labels=original.source_labels,
        label_rule=original.label_rule,
        crop=copy.crop,
        face_margin=copy.margin,
        dropped=dropped,
        joined=joined,
        dataset=data.dataset,
        description=original.description,
        version=original.version,
    )


def _fields(data: DataSection) -> dict[str, Any]:
    """What a dataset's reader reads of the sections of config.data, by name, as in JSON.

    Without fold and frames of clips: a run chooses among those that a copy has.
    """
    sections = {name: getattr(data, name) for name in READERS[data.dataset].fields}
    return {
        f"{name}.{field}": value
        for name, section in sections.items()
        if isinstance(section, pydantic.BaseModel)
        for field, value in section.model_dump(mode="json", exclude={"fold", "frames"}).items()
    }


def _records(folder: Path, original: Original) -> dict[str, list[Record]]:
    splits: dict[str, list[Record]] = {split: [] for split in original.splits}
    labels = {name: label for label, name in enumerate(original.class_names)}
    for place, line in records.lines(folder / METADATA, listed=False):
        try:
            row = json.loads(line)
            file, frames, weights = folder / row["file_name"], row.get("frames"), row.get("label_distribution")
            record = Record(
                row["name"],
                ImageFile(file) if frames is None else Clip(file, tuple(frames)),
                labels[row["label"]],
                None if weights is None else tuple(weights),
                row.get("person", ""),
                row.get("attributes", {}),
            )
            splits[row["split"]].append(record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{place}: {error!r}; the line is not one of `mpafer-jax data align`. Make the copy again in another "
                "folder, or read the edited one as images of your own after removing alignment.json"
            ) from error
    return splits


def metadata_line(
    record: Record, split: str, class_names: Sequence[str], file_name: str, frames: Sequence[str] = ()
) -> str:
    """A line of metadata.jsonl.

    Args:
      file_name: of the image, or the clip's folder, relative to the copy.
      frames: of a clip, file names in its folder.
    """
    values = {
        "file_name": file_name,
        "label": class_names[record.label],
        "split": split,
        "name": record.name,
        "frames": list(frames) if isinstance(record.image, Clip) else None,
        "person": record.person or None,
        "attributes": dict(record.attributes) or None,
        "label_distribution": None if record.label_distribution is None else list(record.label_distribution),
    }
    return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"
