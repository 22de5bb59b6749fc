"""DFEW (Jiang et al., ACM MM 2020): clips of films, 7 expressions, five folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpafer_jax.config.data_section import ClipsSection
from mpafer_jax.data import clips, records
from mpafer_jax.data.clips import ListedClip
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")  # labels 1 to 7
_LABELS = ("1", "2", "3", "4", "5", "6", "7")
FOLDS = (1, 2, 3, 4, 5)
_FRAMES = ("jpg_256", "clip_224x224", "clip_224x224_16f")
_LISTS = {split: f"EmoLabel_DataSplit/{split}(single-labeled)/set_{{}}.csv" for split in ("train", "test")}
_HEADER = ["video_name", "label"]


@reader(
    "dfew",
    "DFEW: clips of films with a single label, 7 expressions, five folds.",
    class_names=CLASS_NAMES,
    fields=("dir", "clips"),
    unread=("clips.train_list", "clips.test_list"),
    layout="""\
  EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv     lines video_name,label
  Clip/jpg_256/00001/*.jpg, or clip_224x224/.. or clip_224x224_16f/..""",
    source="its owners (https://dfew-dataset.github.io, on request)",
)
def read(directory: Path, section: ClipsSection) -> SourceIndex:
    """The single-labelled clips.

    Args:
      directory: holds `EmoLabel_DataSplit` and `Clip`, or `DFEW-part2` with them.
      section: fold and folder of the frames.
    """
    root = directory / "DFEW-part2" if (directory / "DFEW-part2").is_dir() else directory
    paths = {fold: {split: root / name.format(fold) for split, name in _LISTS.items()} for fold in FOLDS}
    frames = clips.frames_folder(root, section.folder, [*(f"Clip/{name}" for name in _FRAMES), *_FRAMES])
    lists = clips.read_lists(paths, lambda path: _read(path, frames))
    return clips.read_folds(CLASS_NAMES, _LABELS, lists, section.fold)


def _read(path: Path, frames: Path) -> Iterator[ListedClip]:
    rows = records.read_csv(path)
    _, header = next(rows, (1, list[str]()))
    if [field.strip() for field in header] != _HEADER:
        raise DataError(f"{path} line 1: found {','.join(header)!r}, expected {','.join(_HEADER)!r}")
    for line, row in rows:
        if len(row) != 2 or not row[0].strip() or row[1].strip() not in _LABELS:
            raise DataError(
                f"{path} line {line}: found {','.join(row)!r}, expected NAME,LABEL with a label from 1 to 7"
            )
        name = row[0].strip().zfill(5)  # numbers in the lists, 00001 in the folders' names
        yield ListedClip(name, frames / name, _LABELS.index(row[1].strip()), f"{path} line {line}")
