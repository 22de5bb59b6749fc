"""Class folders: the label of an image is the name of its folder."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mpafer_jax.config.data_section import ColumnsSection
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data import listing, records, tables
from mpafer_jax.data.names import SPLITS, are_numbers, name_classes, number_note, spellings, split_of
from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import yolo
from mpafer_jax.data.records import Counts, LayoutError, Record, SourceIndex
from mpafer_jax.data.tables import Table
from mpafer_jax.runtime.errors import DataError
from mpafer_jax.runtime.texts import first

_LISTED = 4  # folders in an error
_NO_CLASSES = {"image", "images", "img", "imgs", "label", "labels", "annotations"}
_WHAT = "class folder"
_LAYOUT = """\
  train/<class>/*.jpg, and where you have them validation/<class>/*.jpg (or val, valid) and test/<class>/*.jpg
or, without splits, all of it offered as the split "train":
  <class>/*.jpg
with images ending in """ + " ".join(sorted(IMAGE_SUFFIXES))


@reader(
    "folder",
    "Images in class folders, with or without split folders above them.",
    layout=_LAYOUT,
    source="your own images",
    fields=("dir", "class_names"),
)
def read(directory: Path, chosen: Sequence[str] = ()) -> SourceIndex:
    """Lists class folders; classes are in the folders' sorted order, images sorted by name.

    Splits are recognised by any usual name ("Training", "val_set"). A folder that holds nothing but one other folder is
    descended into, unless it is called as an expression. Images in YOLO's layout are read by its labels.

    Args:
      directory: holds the split folders, or the class folders themselves.
      chosen: config.data.class_names, which may rename numbered folders.

    Raises:
      DataError: no images; two folders for one split; folders that are no classes (see `names.name_classes`, and
        `images`, `labels`); split folders in another folder; a list beside the folders that gives other labels.
    """
    root = _descend(directory)
    if description := yolo.description(root):
        return yolo.read(root, description, chosen)
    split_folders = _split_folders(root)
    dropped: Counts = {}
    for split, path in split_folders.items():
        records.count_beside(path, split, dropped)
    images = {split: _list(path, split, dropped) for split, path in split_folders.items()}
    folder_names = sorted({name for of_split in images.values() for name, paths in of_split.items() if paths})
    without = sorted({name for of_split in images.values() for name in of_split} - set(folder_names))
    if len(folder_names) < (1 if chosen else 2) and (below := _holding_splits(root, split_folders)):
        raise LayoutError(f"{root} holds no split folders, and {below} does; set config.data.dir to it.")
    if not folder_names:
        counts = sum((collections.Counter(reasons) for reasons in dropped.values()), collections.Counter[str]())
        others = "".join(f"; {number} {reason}" for reason, number in counts.items())
        found = f" Found the folders {first(without, _LISTED)}, which hold none directly." if without else ""
        raise LayoutError(f"{root / '<class>' / '*.jpg'} is not there{others}.{found}")
    if {name.lower() for name in folder_names} <= _NO_CLASSES:
        raise LayoutError(
            f"{root}: the images lie in {', '.join(folder_names)}, which is no expression: their labels are in other "
            "files, or nowhere."
        )
    spelled = spellings(folder_names, [[name for name, paths in of.items() if paths] for of in images.values()])
    class_folders = sorted(set(spelled.values()))
    class_names, notes = name_classes(class_folders, chosen, str(root), _WHAT)
    labels = {name: class_folders.index(spelled[name]) for name in folder_names}
    splits = {
        split: [
            Record(f"{name}/{path.name}", records.ImageFile(path), labels[name])
            for name, paths in of_split.items()
            for path in paths
        ]
        for split, of_split in images.items()
    }
    absent = {split: f"the folder {root / split}" for split in SPLITS}
    absent |= {split: f"images in {path}/<class>/" for split, path in split_folders.items()}
    beside = [folder for folder in (root, *root.parents) if folder.is_relative_to(directory)]
    lists, refused = tables.find(dict.fromkeys([*beside, *split_folders.values()]), ColumnsSection())
    return SourceIndex(
        class_names=class_names,
        source_labels=tuple(class_folders),
        splits=splits,
        absent=absent,
        dropped=dropped,
        warnings=(
            *(f"{root}: the folder {name!r} holds no image, so it is no class" for name in without),
            *notes,
            *filter(None, [number_note(class_folders, chosen, str(root), _WHAT)]),
            *_beside_splits(root, split_folders),
            *_compare([name for listed in splits.values() for name in listed], class_names, class_folders, lists),
            *(f"not compared: {why}" for path, why in refused.items() if not tables.holds_names_alone(path)),
        ),
    )


def _descend(directory: Path, split: str = "") -> Path:
    """The folder of splits or classes, below every `records.only_folder`: without images, and no other split."""
    while (below := records.only_folder(directory)) and split_of(below.name) in ("", split):
        if records.number_directly_in(below):
            break
        directory = below
    return directory


def _holding_splits(root: Path, split_folders: Mapping[str, Path]) -> Path | None:
    """The folder inside a root without split folders that holds some; None without one, or with several."""
    if list(split_folders.values()) != [root]:
        return None
    inside = [_descend(folder) for folder in records.subfolders(root)]
    holding = [place for place in inside if any(split_of(folder.name) for folder in records.subfolders(place))]
    return holding[0] if len(holding) == 1 else None


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders by split, in the order of `SPLITS`; where each holds nothing but one folder, that one."""
    named: dict[str, Path] = {}
    for folder in records.subfolders(root):
        if split := split_of(folder.name):
            if split in named:
                raise DataError(f"{named[split]} and {folder} both hold the split {split!r}; keep one of them")
            named[split] = folder
    inside = {split: _descend(folder, split) for split, folder in named.items()}
    if all(inside[split] != folder for split, folder in named.items()):
        named = inside
    return {split: named[split] for split in SPLITS if split in named} or {"train": root}


def _list(directory: Path, split: str, dropped: Counts) -> dict[str, list[Path]]:
    """Class folder -> images, both sorted by name."""
    return {path.name: records.images_in(path, split, dropped) for path in records.subfolders(directory)}


def _beside_splits(directory: Path, split_folders: Mapping[str, Path]) -> tuple[str, ...]:
    """Warnings of images outside the split folders, which are not read."""
    if list(split_folders.values()) == [directory]:
        return ()
    others = [path for path in records.subfolders(directory) if not split_of(path.name)]
    numbers = {path.name: records.number_of_images(path) for path in others}
    return tuple(
        f"{directory}: {number} images in {name}, which is no split ({', '.join(SPLITS)}), are not read"
        for name, number in numbers.items()
        if number
    )


def _compare(
    images: Iterable[Record], class_names: Sequence[str], folder_names: Sequence[str], lists: Sequence[Table]
) -> list[str]:
    """Compares lists beside the folders with them: DataError if they disagree, a warning of a list of other images."""
    folders_of: dict[str, set[int]] = collections.defaultdict(set)
    for record in images:
        for key in (record.name.lower(), PurePosixPath(record.name).name.lower()):
            folders_of[key].add(record.label)
    known = [
        {canonical_name(name), canonical_name(folder)} for name, folder in zip(class_names, folder_names, strict=True)
    ]
    warnings: list[str] = []
    for table in lists:
        image_at, label_at = tables.image_and_label(table, ColumnsSection())
        pairs: list[tuple[str, int, str]] = []  # label in the list, in the folders, name
        for _, row in table.rows:
            listed = PurePosixPath(records.listed_name(row[image_at].strip()).lower())
            labels = folders_of.get("/".join(listed.parts[-2:])) or folders_of.get(listed.name, set())
            if len(labels) == 1:
                pairs.append((listing.label_text(row[label_at]), next(iter(labels)), row[image_at]))
        if not pairs:
            warnings.append(f"{table.path} is not read: it lists none of the images in class folders")
            continue
        agreeing = _agreeing(collections.Counter((label, number) for label, number, _ in pairs), known)
        if other := [pair for pair in pairs if pair[:2] not in agreeing]:
            label, number, name = other[0]
            raise DataError(
                f"{table.path} gives {len(other)} of the {len(pairs)} images in class folders another label, the first "
                f"is {name}: {label} in the list, {folder_names[number]} by its folder. Find out which is right. To "
                f"take the list's: --config=configs/list.py --config.data.list.file={table.path.name}; to take the "
                "folders', move the list away"
            )
    return warnings


def _agreeing(counts: collections.Counter[tuple[str, int]], known: Sequence[set[str]]) -> set[tuple[str, int]]:
    """Pairs of a list's label and a class that mean the same.

    Numbers mean the class that most of their images are in, one number each: lists and folders may be numbered
    differently.

    Args:
      counts: images of each pair.
      known: names of each class.
    """
    if not are_numbers([label for label, _ in counts]):
        return {(label, number) for label, number in counts if canonical_name(label) in known[number]}
    class_of: dict[str, int] = {}
    for (label, number), _ in counts.most_common():
        if label not in class_of and number not in class_of.values():
            class_of[label] = number
    return set(class_of.items())
