"""FERV39k (Wang et al., CVPR 2022): clips of 22 scenes, 7 expressions, split once."""

from __future__ import annotations

from pathlib import Path

from mpafer_jax.config.data_section import ClipsSection
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data import clips
from mpafer_jax.data.clips import ListedClip
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
_SOURCE_LABELS = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")
_FRAMES = "2_ClipsforFaceCrop"
_LISTS = {split: f"4_setups/All_scenes/{split}_All.csv" for split in ("train", "test")}


@reader(
    "ferv39k",
    "FERV39k: cropped faces of clips, 7 expressions, splits train and test.",
    class_names=CLASS_NAMES,
    fields=("dir", "clips"),
    unread=("clips.train_list", "clips.test_list"),
    layout="""\
  4_setups/All_scenes/train_All.csv, test_All.csv     lines "Action/Happy/0015 Happy"
  2_ClipsforFaceCrop/Action/Happy/0015/*.jpg""",
    source="its owners (https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html, on request)",
)
def read(directory: Path, section: ClipsSection) -> SourceIndex:
    """The clips of all scenes.

    Args:
      directory: holds `2_ClipsforFaceCrop` and `4_setups`, or `FERV39k` with them.
      section: folder of the frames.

    Raises:
      DataError: a line has another form, or labels contradict the folders' names.
    """
    root = directory / "FERV39k" if (directory / "FERV39k").is_dir() else directory
    frames = clips.frames_folder(root, section.folder, [_FRAMES])
    paths = {1: {split: root / name for split, name in _LISTS.items()}}
    expected = f"SCENE/EXPRESSION/CLIP EXPRESSION, the expression one of {', '.join(_SOURCE_LABELS)}"
    lists = clips.read_lists(paths, lambda path: clips.read_named(path, frames, CLASS_NAMES, expected))
    _check_folders([clip for listed in lists[1].values() for clip in listed])
    return clips.read_folds(CLASS_NAMES, _SOURCE_LABELS, lists, section.fold)


def _check_folders(listed: list[ListedClip]) -> None:
    other = [clip for clip in listed if canonical_name(clip.folder.parent.name) != CLASS_NAMES[clip.label]]
    if other:
        raise DataError(
            f"{len(other)} of {len(listed)} labels contradict the folder that the clip is in, the first is "
            f"{other[0].place}: {CLASS_NAMES[other[0].label]} in {other[0].name}"
        )
