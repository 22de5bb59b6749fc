"""RAF-DB (Li et al., CVPR 2017), basic and compound expressions, in the forms that are in use.

Labels come from the owners' list, from lists in CUB's form, or from numbered class folders; images are the owners'
aligned faces, a realigned copy, or the whole images, cropped here by their five landmarks.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import folder
from mpafer_jax.data.records import ImageSource, Record, SourceIndex
from mpafer_jax.faces.alignment import SIZE, TEMPLATE, describe_crop
from mpafer_jax.runtime import progress
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # labels 1 to 7 of the list
# Labels 1 to 11; the names of the description bank "compound".
COMPOUND_CLASS_NAMES = (
    "happily surprised",
    "happily disgusted",
    "sadly fearful",
    "sadly angry",
    "sadly surprised",
    "sadly disgusted",
    "fearfully angry",
    "fearfully surprised",
    "angrily surprised",
    "angrily disgusted",
    "disgustedly surprised",
)
_SPLITS = ("train", "test")  # names of images begin with them
_LIST = "EmoLabel/list_patition_label.txt"  # spelled so in the release
_CUB_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
_ALIGNED = {"owner": "Image/aligned", "aligned_224": "Image/aligned_224"}  # config.data.align -> folder
_WHOLE, _MANUAL = "Image/original", "Annotation/manual"
_TABLES = {"train": "train_labels.csv", "test": "test_labels.csv"}  # beside class folders
_NAME = re.compile(r"(?P<stem>(?P<prefix>train|test)_\d+)(_aligned)?")
# The three numbers after the landmarks.
_ATTRIBUTES = {
    "gender": {"0": "male", "1": "female", "2": "unsure"},
    "race": {"0": "Caucasian", "1": "African-American", "2": "Asian"},
    "age": {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"},
}
_SOURCE = "its owners (http://www.whdeng.cn/RAF/model1.html, on request)"
_LAYOUT = """\
  {0}/EmoLabel/list_patition_label.txt     lines "train_00001.jpg 5" ... "test_0001.jpg 4"
  {0}/Image/aligned/train_00001_aligned.jpg ...   (or Image/aligned_224, or Image/original with data.align=landmarks)
or, in place of the list, images.txt, image_class_labels.txt and train_test_split.txt; or class folders:
  DATASET/train/1/train_00001_aligned.jpg ...   DATASET/test/1/...   (also train_set, val_set; without DATASET)"""
Expressions = Literal["basic", "compound"]
_Labels = dict[str, tuple[str, int]]  # name in the owners' list -> split, label from 0


@reader(
    "rafdb",
    "RAF-DB basic: aligned faces, 7 expressions, splits train and test.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT.format("basic"),
    source=_SOURCE,
    fields=("dir", "align"),
    alignments=("", *_ALIGNED, "landmarks"),
)
def read(directory: Path, alignment: str = "") -> SourceIndex:
    """Reads the basic expressions: splits "train" and "test", in the list's order, or by name from class folders.

    Args:
      directory: the folder `basic`, or the one that contains it, or class folders; DataError if it is the compound set.
      alignment: config.data.align.

    Raises:
      DataError: two forms in one folder that do not agree, or of which none is chosen.
    """
    return _read(directory, "basic", alignment)


@reader(
    "rafdb_compound",
    "RAF-DB compound: aligned faces, 11 pairs of expressions, splits train and test.",
    class_names=COMPOUND_CLASS_NAMES,
    layout=_LAYOUT.format("compound"),
    source=_SOURCE,
    fields=("dir", "align"),
    alignments=("", *_ALIGNED, "landmarks"),
)
def read_compound(directory: Path, alignment: str = "") -> SourceIndex:
    """As `read` for the compound expressions, whose images are disjoint from the basic ones."""
    return _read(directory, "compound", alignment)


def _read(directory: Path, expressions: Expressions, alignment: str) -> SourceIndex:
    class_names = CLASS_NAMES if expressions == "basic" else COMPOUND_CLASS_NAMES
    root = directory / expressions if (directory / expressions).is_dir() else directory
    other: Expressions = "compound" if expressions == "basic" else "basic"
    # Labels 1 to 7 occur in both sets; only the folder's name and labels above 7 distinguish them.
    if root.resolve().name.lower() == other:
        raise _other_set(f"{directory} is the folder of the {other} set", expressions)
    has_list = (root / _LIST).exists()
    cub = next((place for place in (root / "EmoLabel", root) if (place / _CUB_LISTS[0]).is_file()), None)
    folders = next((place for place in (root / "DATASET", root) if _has_class_folders(place)), None)
    if folders is not None and (has_list or cub):
        raise DataError(
            f"{root} holds lists of labels ({root / _LIST if has_list else cub}) and class folders ({folders}): set "
            "config.data.dir to a folder that holds one of them"
        )
    if folders is not None:
        return _read_folders(root, folders, class_names, alignment)
    labels = _read_list(root / _LIST, len(class_names)) if has_list or cub is None else {}
    if cub is not None:
        listed = _read_cub(cub, len(class_names))
        _compare(labels or listed, listed, str(root / _LIST), f"{cub}/{', '.join(_CUB_LISTS)}")
        labels = labels or listed
    highest = max((label + 1 for _, label in labels.values()), default=0)
    if expressions == "compound" and 0 < highest <= len(CLASS_NAMES):
        raise _other_set(
            f"{root / _LIST if has_list else cub} has no label above {highest}, as the list of the basic set and not "
            f"of the compound one, whose labels are 1 to {len(class_names)}",
            expressions,
        )
    return _of_lists(root, labels, class_names, alignment)


def _other_set(found: str, expressions: Expressions) -> DataError:
    name = {"basic": "rafdb", "compound": "rafdb_compound"}
    other = "compound" if expressions == "basic" else "basic"
    return DataError(
        f"{found}; set config.data.dir to the folder that holds {expressions!r}, or to that folder itself, or take the "
        f"{other} set with --config=configs/{name[other]}.py"
    )


# ---------------------------------------------------------------- labels


def _read_list(path: Path, num_classes: int) -> _Labels:
    """Labels of the owners' list."""
    if not path.exists():
        raise records.missing(path)
    labels: _Labels = {}
    seen: dict[str, str] = {}
    for place, line in records.lines(path):
        name, split, label = _parse(line, place, num_classes)
        if name in seen:
            raise DataError(f"{place}: {name} was there already ({seen[name]}); keep one of them")
        seen[name] = place
        labels[name] = split, label
    return labels


def _parse(line: str, place: str, num_classes: int) -> tuple[str, str, int]:
    fields = line.split()
    split = fields[0].partition("_")[0] if len(fields) == 2 else ""
    if split not in _SPLITS or not fields[1].isdecimal() or not 1 <= int(fields[1]) <= num_classes:
        raise DataError(
            f"{place}: found {line!r}, expected 'train_NNNNN.jpg LABEL' or 'test_NNNN.jpg LABEL' "
            f"with a label from 1 to {num_classes}"
        )
    return fields[0], split, int(fields[1]) - 1


def _read_cub(place: Path, num_classes: int) -> _Labels:
    """Labels of the three lists of CUB-200-2011's form: id and name, id and label, id and 1 for train."""
    names, numbers, trains = (_read_column(place / name) for name in _CUB_LISTS)
    for path, column in ((place / _CUB_LISTS[1], numbers), (place / _CUB_LISTS[2], trains)):
        if column.keys() != names.keys():
            number = next(iter(column.keys() ^ names.keys()))
            raise DataError(f"{path} and {place / _CUB_LISTS[0]} do not list the same images: {number} is in one alone")
    labels: _Labels = {}
    for number, name in names.items():
        if not numbers[number].isdecimal() or not 1 <= int(numbers[number]) <= num_classes:
            raise DataError(
                f"{place / _CUB_LISTS[1]}: image {number} has the label {numbers[number]!r}, expected 1 to "
                f"{num_classes}"
            )
        if trains[number] not in ("0", "1"):
            raise DataError(f"{place / _CUB_LISTS[2]}: image {number} has {trains[number]!r}, expected 0 or 1")
        labels[_listed(name)] = "train" if trains[number] == "1" else "test", int(numbers[number]) - 1
    if len(labels) < len(names):
        raise DataError(
            f"{place / _CUB_LISTS[0]}: {len(names) - len(labels)} images are listed twice; keep one of each"
        )
    _check_prefixes(labels, str(place / _CUB_LISTS[2]))
    return labels


def _read_column(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise records.missing(path)
    column: dict[str, str] = {}
    for place, line in records.lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] in column:
            raise DataError(f"{place}: found {line!r}, expected the number of an image, once, and a value")
        column[fields[0]] = fields[1]
    return column


def _listed(name: str) -> str:
    """The name of an image file in the owners' list, or the name itself if it is none of the owners'."""
    match = _NAME.fullmatch(Path(records.listed_name(name)).stem)
    return f"{match['stem']}.jpg" if match else name


def _check_prefixes(labels: _Labels, place: str) -> None:
    """DataError if images that are named train_* are in the test split, or the reverse."""
    moved = [name for name, (split, _) in labels.items() if (match := _NAME.match(name)) and match["prefix"] != split]
    if moved:
        raise DataError(
            f"{place}: {len(moved)} of {len(labels)} images are not in the split that their name says (first "
            f"{moved[0]} in {labels[moved[0]][0]}). The copy is divided anew, so numbers on it cannot be compared with "
            "others; to use it all the same, read it with configs/folder.py"
        )


def _compare(labels: _Labels, others: _Labels, place: str, other_place: str) -> None:
    """DataError if two sources give an image different labels."""
    differing = [name for name in labels if name in others and labels[name] != others[name]]
    if differing:
        (split, label), (other_split, other) = labels[differing[0]], others[differing[0]]
        raise DataError(
            f"{place} and {other_place} contradict each other for {len(differing)} of {len(labels)} images, first "
            f"{differing[0]}: {label + 1} in {split} and {other + 1} in {other_split}. One of them is of another copy; "
            "remove it"
        )


# ---------------------------------------------------------------- class folders


def _has_class_folders(place: Path) -> bool:
    return place.is_dir() and any((child / "1").is_dir() for child in records.subfolders(place))


def _read_folders(root: Path, place: Path, class_names: Sequence[str], alignment: str) -> SourceIndex:
    """Reads class folders 1 to C, and checks them against tables of labels beside them."""
    if alignment not in ("", "owner"):
        raise DataError(f"config.data.align is {alignment!r}, and the class folders of {place} have one crop alone")
    found = folder.read(place, [f"{name}={number}" for number, name in enumerate(class_names, start=1)])
    expected = {str(number) for number in range(1, len(class_names) + 1)}
    if set(found.source_labels) != expected:
        raise DataError(
            f"{place}: the class folders are {', '.join(found.source_labels)}, expected 1 to {len(class_names)} in the "
            "owners' order; read other copies with configs/folder.py and name their classes in data.class_names"
        )
    splits = dict(found.splits)
    warnings = list(found.warnings)
    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
        warnings.append(f"{place}: the validation folder is read as the test split; RAF-DB has no validation images")
    numbers = [int(name) - 1 for name in found.source_labels]
    labels: _Labels = {}
    for split, listed in splits.items():
        splits[split] = sorted(
            (dataclasses.replace(r, name=_listed(r.name), label=numbers[r.label]) for r in listed), key=lambda r: r.name
        )
        labels |= {record.name: (split, record.label) for record in splits[split]}
    twice = sum(map(len, splits.values())) - len(labels)
    if twice:
        raise DataError(f"{place}: {twice} images lie in two class folders; which label is theirs?")
    _check_prefixes({name: value for name, value in labels.items() if value[0] in _SPLITS}, str(place))
    for split, name in _TABLES.items():
        for table in (place.parent / name, place / name):
            if table.is_file():
                _compare(labels, _read_table(table, split, len(class_names)), str(place), str(table))
    points = _annotations(root, labels)
    return dataclasses.replace(
        found,
        class_names=tuple(class_names),
        source_labels=tuple(map(str, range(1, len(class_names) + 1))),
        splits={split: [_described(record, points) for record in splits[split]] for split in splits},
        absent={s: f"images in {place / s}/<number>/" for s in _SPLITS},
        warnings=tuple(warnings),
    )


def _read_table(path: Path, split: str, num_classes: int) -> _Labels:
    """Labels of a csv "image,label"."""
    labels: _Labels = {}
    for line, row in records.read_csv(path):
        if line == 1 and len(row) > 1 and not row[1].strip().isdecimal():
            continue  # the header
        if len(row) != 2 or not row[1].strip().isdecimal() or not 1 <= int(row[1]) <= num_classes:
            raise DataError(f"{path} line {line}: found {row!r}, expected an image and a label from 1 to {num_classes}")
        labels[_listed(row[0].strip())] = split, int(row[1]) - 1
    return labels


# ---------------------------------------------------------------- images and annotations


@dataclasses.dataclass(frozen=True)
class _Annotation:
    points: tuple[tuple[float, float], ...]
    attributes: Mapping[str, str]


def _of_lists(root: Path, labels: _Labels, class_names: Sequence[str], alignment: str) -> SourceIndex:
    annotations = _annotations(root, labels)
    if alignment == "landmarks":
        images = _by_landmarks(root, labels, annotations)
        crop, size = describe_crop(), (SIZE, SIZE)
    else:
        images_folder = _aligned_folder(root, alignment)
        images = _aligned(images_folder, labels)
        is_owners = images_folder == root / _ALIGNED["owner"]
        crop, size = ("", (100, 100)) if is_owners else (f"the realigned copy {images_folder.name}", (224, 224))
    splits: dict[str, list[Record]] = {}
    for name, (split, label) in labels.items():
        splits.setdefault(split, []).append(_described(Record(name, images[name], label), annotations))
    unknown = len(labels) - len(annotations)
    warnings = [f"{unknown} of {len(labels)} images have no file in {root / _MANUAL}: their attributes are not known"]
    if not annotations:
        archive = (root / _MANUAL).with_suffix(".zip")
        warnings = [f"{archive} is not unpacked, so gender, race and age are not known"] if archive.exists() else []
    return SourceIndex(
        class_names=tuple(class_names),
        source_labels=tuple(str(number) for number in range(1, len(class_names) + 1)),
        splits={split: splits[split] for split in _SPLITS if split in splits},
        absent={s: f"lines {s}_*.jpg in {root / _LIST}" for s in _SPLITS},
        crop=crop,
        expected_size=size,
        warnings=tuple(warnings) if unknown else (),
    )


def _described(record: Record, annotations: Mapping[str, _Annotation]) -> Record:
    known = annotations.get(record.name)
    return record if known is None else dataclasses.replace(record, attributes=known.attributes)


def _aligned_folder(root: Path, alignment: str) -> Path:
    if alignment:
        there = [alignment] if (root / _ALIGNED[alignment]).is_dir() else []
    else:
        there = [name for name, place in _ALIGNED.items() if (root / place).is_dir()]
    if len(there) > 1:
        raise DataError(
            f"{root} holds {' and '.join(_ALIGNED[name] for name in there)}, two crops of the same faces: choose one "
            f"with {' or '.join(f'--config.data.align={name}' for name in there)}"
        )
    if not there:
        raise records.missing(root / _ALIGNED[alignment or "owner"])
    return root / _ALIGNED[there[0]]


def _aligned(place: Path, names: Iterable[str]) -> dict[str, ImageSource]:
    files = {name: name.rpartition("/")[2] for name in names}
    stems = {name: file.rpartition(".")[0] or file for name, file in files.items()}  # a Path of each takes far longer
    first = next(iter(stems.values()), "")
    # Both kinds of names are in use for realigned copies.
    suffix = ".jpg" if (place / f"{first}.jpg").is_file() else "_aligned.jpg"
    return {name: records.ImageFile(f"{place}{os.sep}{stem}{suffix}") for name, stem in stems.items()}


def _by_landmarks(root: Path, names: Iterable[str], annotations: Mapping[str, _Annotation]) -> dict[str, ImageSource]:
    if not (root / _WHOLE).is_dir():
        raise records.missing(root / _WHOLE)
    without = [name for name in names if name not in annotations]
    if without:
        raise DataError(
            f"config.data.align=landmarks needs {_manual(root, without[0])} and others, {len(without)} of which are "
            "missing; unpack the owners' annotations, or leave config.data.align empty"
        )
    return {name: records.AlignedFace(root / _WHOLE / name, annotations[name].points) for name in names}


def _manual(root: Path, name: str) -> Path:
    return root / _MANUAL / f"{Path(name).stem}_manu_attri.txt"


def _annotations(root: Path, names: Iterable[str]) -> dict[str, _Annotation]:
    """The annotations of the images that have some: five landmarks in the whole image, gender, race and age."""
    if not (root / _MANUAL).is_dir():
        return {}
    there = {path.name for path in (root / _MANUAL).iterdir()}
    paths = {name: path for name in names if (path := _manual(root, name)).name in there}
    tracked = progress.track(paths.items(), "reading attributes", len(paths), "files")
    return {name: _read_annotation(path) for name, path in tracked}


def _read_annotation(path: Path) -> _Annotation:
    words = records.read_text(path).split()
    coordinates = 2 * len(TEMPLATE)
    try:
        numbers = [float(word) for word in words[:coordinates]]
        attributes = {
            name: values[word] for (name, values), word in zip(_ATTRIBUTES.items(), words[coordinates:], strict=True)
        }
    except (ValueError, KeyError) as error:
        listed = ", ".join(f"{name} (0 to {len(values) - 1})" for name, values in _ATTRIBUTES.items())
        raise DataError(
            f"{path}: expected {len(TEMPLATE)} lines 'x y' and the numbers of {listed}, found {' '.join(words)!r}"
        ) from error
    return _Annotation(tuple(zip(numbers[::2], numbers[1::2], strict=True)), attributes)
