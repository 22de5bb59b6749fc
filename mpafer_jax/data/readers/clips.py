"""Clips of your own: folders of frames, and lists of them with numbers of frames and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mpafer_jax.config.data_section import ClipsSection
from mpafer_jax.data import clips, records
from mpafer_jax.data.clips import ListedClip, Lists
from mpafer_jax.data.names import name_classes, number_note, spellings
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime.errors import DataError

_FOLD = "{fold}"
_FOLDS = range(1, 100)


@reader(
    "clips",
    "Clips as folders of frames, in lists for train and test.",
    fields=("dir", "clips", "class_names"),
    layout="""\
  train.txt, test.txt     lines DIR N_FRAMES LABEL (other names: config.data.clips.train_list, test_list)
  DIR/*.jpg               (below another folder: config.data.clips.folder)""",
    source="your own videos",
)
def read(directory: Path, section: ClipsSection, chosen: Sequence[str] = ()) -> SourceIndex:
    """The clips of two lists; of several pairs of lists, where their names have {fold}.

    Paths in lists may begin with folders of another machine: as many leading parts are left out of each as it takes for
    the first folder to be there.

    Args:
      directory: holds the lists and the folders of frames.
      section: names of the lists, fold, folder of the frames.
      chosen: config.data.class_names, which may name numbered labels.

    Raises:
      DataError: a line has another form, a list is missing, or none of the folders is there.
    """
    names = {"train": section.train_list, "test": section.test_list}
    if len({_FOLD in name for name in names.values()}) > 1:
        raise DataError(
            f"config.data.clips.train_list is {section.train_list!r} and test_list {section.test_list!r}; put {_FOLD} "
            "into both names, or into neither"
        )
    root = directory / section.folder
    if not root.is_dir():
        raise records.missing(root)
    paths = {n: {split: directory / name.replace(_FOLD, str(n)) for split, name in names.items()} for n in _FOLDS}
    existing = [number for number, of_fold in paths.items() if all(path.is_file() for path in of_fold.values())]
    folds = existing if existing and _FOLD in section.train_list else [1]
    labels: dict[str, int] = {}
    listed = clips.read_lists({number: paths[number] for number in folds}, lambda path: _read(path, labels))
    order = sorted(labels, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))
    texts = {number: label for label, number in labels.items()}
    of_splits = [[texts[c.label] for c in of_split] for divided in listed.values() for of_split in divided.values()]
    spelled = spellings(order, of_splits)
    order = [label for label in order if spelled[label] == label]
    new_label = {number: order.index(spelled[label]) for label, number in labels.items()}
    leading = _leading_parts(listed, root)

    def resolved(clip: ListedClip) -> ListedClip:
        name = str(PurePosixPath(*PurePosixPath(clip.name).parts[leading:]))
        return clip._replace(name=name, folder=root / name, label=new_label[clip.label])

    lists = {n: {split: list(map(resolved, of_split)) for split, of_split in listed[n].items()} for n in folds}
    place = f"the lists in {directory}"
    class_names, notes = name_classes(order, chosen, place, "label")
    index = clips.read_folds(class_names, order, lists, section.fold)
    about_numbers = number_note(order, chosen, place, "label")
    return dataclasses.replace(index, warnings=(*index.warnings, *notes, *filter(None, [about_numbers])))


def _read(path: Path, labels: dict[str, int]) -> Iterator[ListedClip]:
    """The lines of a list, with paths as they are listed; new labels are added to `labels`."""
    for place, line in records.lines(path):
        fields = line.rsplit(maxsplit=2)
        if len(fields) != 3 or not fields[1].isdecimal() or not int(fields[1]):
            raise DataError(f"{place}: found {line!r}, expected DIR N_FRAMES LABEL")
        name, frames, label = fields
        yield ListedClip(name, Path(name), labels.setdefault(label, len(labels)), place, int(frames))


def _leading_parts(lists: dict[int, Lists], root: Path) -> int:
    """How many leading parts of the listed paths to leave out, so that a folder is below `root`."""
    listed = [clip for divided in lists.values() for of_split in divided.values() for clip in of_split]
    for clip in listed:
        parts = PurePosixPath(clip.name).parts
        for leading in range(len(parts)):
            if root.joinpath(*parts[leading:]).is_dir():
                return leading
    raise DataError(
        f"none of the {len(listed)} listed folders is below {root}, the first is {listed[0].name} ({listed[0].place}); "
        "set config.data.clips.folder to the folder that holds them"
        if listed
        else f"the lists in {root} name no clip"
    )
