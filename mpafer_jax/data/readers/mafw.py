"""MAFW (Liu et al., ACM MM 2022): clips of films and shows, 11 single expressions, five folds."""

from __future__ import annotations

from pathlib import Path

from mpafer_jax.config.data_section import ClipsSection
from mpafer_jax.data import clips
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt"),
    *("anxiety", "helplessness", "disappointment"),
)
FOLDS = (1, 2, 3, 4, 5)
_FRAMES = ("data/frames", "data/faces")
_SPLIT_FOLDERS = ("split", "Train & Test Set")


@reader(
    "mafw",
    "MAFW: clips with a single label, 11 expressions, five folds.",
    class_names=CLASS_NAMES,
    fields=("dir", "clips"),
    unread=("clips.train_list", "clips.test_list"),
    layout="""\
  split/single/no_caption/set_{1..5}/{train,test}.txt     lines "00001.mp4 anger"  (or 'Train & Test Set/single/..')
  data/frames/00001/*.png, or data/faces/..""",
    source="its owners (https://mafw-database.github.io/MAFW, on request)",
)
def read(directory: Path, section: ClipsSection) -> SourceIndex:
    """The clips with a single label.

    Args:
      directory: holds `data` and `split`.
      section: fold and folder of the frames.

    Raises:
      DataError: a line has another form, or there are videos only.
    """
    found = [directory / name for name in _SPLIT_FOLDERS if (directory / name).is_dir()]
    sets = (found or [directory / _SPLIT_FOLDERS[0]])[0] / "single" / "no_caption"
    paths = {fold: {split: sets / f"set_{fold}" / f"{split}.txt" for split in ("train", "test")} for fold in FOLDS}
    videos = directory / "data" / "clips"
    if not section.folder and videos.is_dir() and not any((directory / name).is_dir() for name in _FRAMES):
        raise DataError(
            f"{videos} holds videos, and the frames are read from {directory / _FRAMES[0]}, which is not there. Write "
            f"them, cropped to the face if you can; as they are with ffmpeg, in {videos}:\n"
            '  for f in *.mp4; do mkdir -p "../frames/${f%.mp4}" && ffmpeg -i "$f" "../frames/${f%.mp4}/%05d.png"; done'
        )
    frames = clips.frames_folder(directory, section.folder, _FRAMES)
    expected = f"NAME.mp4 LABEL, the label one of {', '.join(CLASS_NAMES)}"
    lists = clips.read_lists(
        paths, lambda path: clips.read_named(path, frames, CLASS_NAMES, expected, lambda video: Path(video).stem)
    )
    return clips.read_folds(CLASS_NAMES, CLASS_NAMES, lists, section.fold)
