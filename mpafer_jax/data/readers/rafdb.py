"""RAF-DB (Li et al., CVPR 2017), basic and compound expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Record, SourceIndex
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
_SPLITS = {"train": "train", "test": "test"}  # prefix of an image's name -> split
_LIST = "EmoLabel/list_patition_label.txt"  # spelled so in the release
_SOURCE = "its owners (http://www.whdeng.cn/RAF/model1.html, on request)"
_LAYOUT = """\
  {0}/EmoLabel/list_patition_label.txt     lines "train_00001.jpg 5" ... "test_0001.jpg 4"
  {0}/Image/aligned/train_00001_aligned.jpg ..."""
Expressions = Literal["basic", "compound"]


@reader(
    "rafdb",
    "RAF-DB basic: aligned faces, 7 expressions, splits train and test.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT.format("basic"),
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Reads the label list of the basic expressions: splits "train" and "test", in the list's order.

    Args:
      directory: the folder `basic`, or the one that contains it; DataError if it is the compound set.
    """
    return _read(directory, "basic")


@reader(
    "rafdb_compound",
    "RAF-DB compound: aligned faces, 11 pairs of expressions, splits train and test.",
    class_names=COMPOUND_CLASS_NAMES,
    layout=_LAYOUT.format("compound"),
    source=_SOURCE,
)
def read_compound(directory: Path) -> SourceIndex:
    """As `read` for the compound expressions, whose images are disjoint from the basic ones."""
    return _read(directory, "compound")


def _read(directory: Path, expressions: Expressions) -> SourceIndex:
    class_names = CLASS_NAMES if expressions == "basic" else COMPOUND_CLASS_NAMES
    root = directory / expressions if (directory / expressions).is_dir() else directory
    other: Expressions = "compound" if expressions == "basic" else "basic"
    # Labels 1 to 7 occur in both sets; only the folder's name and labels above 7 distinguish them.
    if root.resolve().name.lower() == other:
        raise _other_set(f"{directory} is the folder of the {other} set", expressions)
    list_path, images = root / _LIST, root / "Image" / "aligned"
    for path in (list_path, images):
        if not path.exists():
            raise records.missing(path)
    splits: dict[str, list[Record]] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(records.read_text(list_path).splitlines(), start=1):
        if not line.strip():
            continue
        name, split, label = _parse(line, f"{list_path} line {number}", len(class_names))
        if name in seen:
            raise DataError(f"{list_path} line {number}: {name} was on line {seen[name]} already; keep one of them")
        seen[name] = number
        image = records.ImageFile(images / f"{Path(name).stem}_aligned.jpg")
        splits.setdefault(split, []).append(Record(name, image, label))
    highest = max((record.label + 1 for listed in splits.values() for record in listed), default=0)
    if expressions == "compound" and 0 < highest <= len(CLASS_NAMES):
        raise _other_set(
            f"{list_path} has no label above {highest}, as the list of the basic set and not of the compound one, "
            f"whose labels are 1 to {len(class_names)}",
            expressions,
        )
    return SourceIndex(
        class_names=class_names,
        source_labels=tuple(str(number) for number in range(1, len(class_names) + 1)),
        splits={split: splits[split] for split in _SPLITS.values() if split in splits},
        absent={s: f"lines {prefix}_*.jpg in {list_path}" for prefix, s in _SPLITS.items()},
        expected_size=(100, 100),
    )


def _other_set(found: str, expressions: Expressions) -> DataError:
    name = {"basic": "rafdb", "compound": "rafdb_compound"}
    other = "compound" if expressions == "basic" else "basic"
    return DataError(
        f"{found}; set config.data.dir to the folder that holds {expressions!r}, or to that folder itself, or take the "
        f"{other} set with --config=configs/{name[other]}.py"
    )


def _parse(line: str, place: str, num_classes: int) -> tuple[str, str, int]:
    fields = line.split()
    split = _SPLITS.get(fields[0].partition("_")[0]) if len(fields) == 2 else None
    if split is None or not fields[1].isdecimal() or not 1 <= int(fields[1]) <= num_classes:
        raise DataError(
            f"{place}: found {line!r}, expected 'train_NNNNN.jpg LABEL' or 'test_NNNN.jpg LABEL' "
            f"with a label from 1 to {num_classes}"
        )
    return fields[0], split, int(fields[1]) - 1
