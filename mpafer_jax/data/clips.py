"""Video clips as folders of frames, and their division into folds: what the readers of clips share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data import records
from mpafer_jax.data.preprocess import is_image
from mpafer_jax.data.records import Clip, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError
from mpafer_jax.runtime.texts import natural_order

_LISTED = 3  # folders named in a message about several


class ListedClip(NamedTuple):
    """A clip as a line of a list names it.

    Attributes:
      name: of the clip, in the dataset.
      folder: of its frames.
      label: index into the class names.
      place: the list and the line, for messages.
      num_frames: as listed; 0 if the list has no such column.
    """

    name: str
    folder: Path
    label: int
    place: str
    num_frames: int = 0


Lists = Mapping[str, Sequence[ListedClip]]  # by split, "train" and "test"


def frames_folder(root: Path, configured: str, usual: Sequence[str]) -> Path:
    """The folder with the clips' folders: `config.data.clips.folder`, or the one of the owner's that is there.

    Args:
      root: of the dataset.
      configured: the field; "" if it is not set.
      usual: the owner's folders, relative to `root`.

    Raises:
      LayoutError: the folder is missing.
      DataError: several of the owner's are there.
    """
    there = [root / name for name in ([configured] if configured else usual) if (root / name).is_dir()]
    if not there:
        raise records.missing(root / (configured or usual[0]))
    if len(there) > 1:
        raise DataError(
            f"{' and '.join(map(str, there))} both hold frames; choose one with "
            f"--config.data.clips.folder={there[0].relative_to(root)}"
        )
    nested = there[0] / there[0].name  # as some archives unpack
    return nested if nested.is_dir() else there[0]


def read_clip(folder: Path) -> Clip | None:
    """The images of a folder, numbers in their names in the order of their values; None without any."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if is_image(e.name) and e.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return None
    names.sort(key=lambda name: (natural_order(name), name))  # 01.jpg and 1.jpg have the same number
    return Clip(folder, tuple(names)) if names else None


def read_lists(
    paths: Mapping[int, Mapping[str, Path]], read: Callable[[Path], Iterable[ListedClip]]
) -> dict[int, Lists]:
    """Reads the lists of all folds; LayoutError if one is missing."""
    for path in (path for of_fold in paths.values() for path in of_fold.values()):
        if not path.is_file():
            raise records.missing(path)
    return {fold: {split: list(read(path)) for split, path in of_fold.items()} for fold, of_fold in paths.items()}


def read_named(
    path: Path, frames: Path, class_names: Sequence[str], expected: str, folder_of: Callable[[str], str] = str
) -> Iterator[ListedClip]:
    """Reads a list of lines "CLIP EXPRESSION"; clips are called as their folders.

    Args:
      path: of the list.
      frames: holds the clips' folders.
      class_names: canonical ones, in the order of the labels.
      expected: the form of a line, for the error.
      folder_of: the folder's name of a listed clip.

    Raises:
      DataError: an expression is none of the classes.
    """
    for place, line in records.lines(path):
        clip, *label = line.rsplit(maxsplit=1)
        expression = canonical_name("".join(label))
        if expression not in class_names:
            raise DataError(f"{place}: found {line!r}, expected {expected}")
        name = folder_of(clip)
        yield ListedClip(name, frames / name, class_names.index(expression), place)


def read_folds(
    class_names: Sequence[str], source_labels: Sequence[str], lists: Mapping[int, Lists], fold: int
) -> SourceIndex:
    """The clips of a dataset that is divided into train and test once, or in several folds.

    Where every clip is tested in exactly one fold and trained on in the others, the splits are the folds' test clips,
    "fold_1" and so on, and "train" and "test" are joined of them: all folds share one prepared copy.

    Args:
      class_names, source_labels: in the order of the labels.
      lists: by the fold's number, from 1.
      fold: the configured one.

    Raises:
      DataError: there is no such fold, a folder is missing or holds no image, or lists contradict each other.
    """
    if fold not in lists:
        once = ": they divide the clips once" if len(lists) == 1 else ""
        raise DataError(
            f"config.data.clips.fold is {fold}; the lists here are of fold {', '.join(map(str, lists))}{once}"
        )
    _check_labels(lists)
    divided, joined = dict(lists[fold]), dict[str, tuple[str, ...]]()
    if _is_cross_validation(lists):
        divided = {f"fold_{number}": listed["test"] for number, listed in lists.items()}
        joined = join(divided, fold)
    clips = {clip.folder: read_clip(clip.folder) for listed in divided.values() for clip in listed}
    without = [clip for listed in divided.values() for clip in listed if clips[clip.folder] is None]
    if without:
        named = "\n".join(f"  {clip.folder} ({clip.place})" for clip in without[:_LISTED])
        raise DataError(
            f"{len(without)} of the {len(clips)} listed clips have no frames: their folders are missing, or hold no "
            f"image. The first are\n{named}"
        )
    splits: dict[str, list[Record]] = {}
    shortages: list[str] = []
    for split, listed in divided.items():
        short = [clip for clip in listed if len(_frames(clips, clip).names) < clip.num_frames]
        if short:
            missing = sum(clip.num_frames - len(_frames(clips, clip).names) for clip in short)
            shortages.append(
                f"{split}: {len(short)} of {len(listed)} clips have fewer frames than their list says, {missing} in "
                f"all, and are read as they are; the first is {short[0].folder} ({short[0].place})"
            )
        splits[split] = [Record(clip.name, _frames(clips, clip), clip.label) for clip in listed]
    return SourceIndex(
        class_names=tuple(class_names),
        splits=splits,
        source_labels=tuple(source_labels),
        warnings=tuple(shortages),
        joined=joined,
    )


def join(folds: Iterable[str], fold: int) -> dict[str, tuple[str, ...]]:
    """`SourceIndex.joined` of folds, "fold_1" and so on, of which one is the test."""
    test = f"fold_{fold}"
    return {"train": tuple(part for part in folds if part != test), "test": (test,)}


def _frames(clips: Mapping[Path, Clip | None], listed: ListedClip) -> Clip:
    """The frames of a clip; where the folder holds more than are listed, the first of them."""
    clip = clips[listed.folder]
    assert clip is not None
    return dataclasses.replace(clip, names=clip.names[: listed.num_frames or None])


def _is_cross_validation(lists: Mapping[int, Lists]) -> bool:
    """Whether every clip is tested in one of several folds, and trained on in all others."""
    names = [{split: {clip.name for clip in listed} for split, listed in divided.items()} for divided in lists.values()]
    everything = set[str]().union(*(part for divided in names for part in divided.values()))
    tested = sum(len(divided["test"]) for divided in names)
    return len(lists) > 1 and tested == len(everything) and all(d["train"] == everything - d["test"] for d in names)


def _check_labels(lists: Mapping[int, Lists]) -> None:
    """Raises DataError for a clip that is twice in the lists of a fold, or has several labels."""
    labels: dict[str, ListedClip] = {}
    for divided in lists.values():
        seen: dict[str, str] = {}
        for clip in (clip for listed in divided.values() for clip in listed):
            if clip.name in seen:
                raise DataError(f"{clip.place}: {clip.name} was there already ({seen[clip.name]}); keep one of them")
            seen[clip.name] = clip.place
            first = labels.setdefault(clip.name, clip)
            if first.label != clip.label:
                raise DataError(f"{clip.place}: {clip.name} has another label than in {first.place}; correct one")
