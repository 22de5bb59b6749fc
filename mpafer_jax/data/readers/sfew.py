"""SFEW 2.0 (Dhall et al., EmotiW 2015): stills of films, the release's aligned faces.

The labels of the test set are unreleased; as in the literature, the validation set is the split "test" here.
"""

from __future__ import annotations

import re
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Counts, Record, SourceIndex

# Folder -> class, in alphabetical order.
_CLASSES = {
    "Angry": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happy": "happiness",
    "Neutral": "neutral",
    "Sad": "sadness",
    "Surprise": "surprise",
}
CLASS_NAMES = tuple(_CLASSES.values())
# Folders by the way the archives are unpacked.
_PLACES = {
    "train": ("Train_Aligned_Faces", "Train/Train_Aligned_Faces"),
    "test": ("Val_Aligned_Faces_new", "Val_Aligned_Faces", "Val/Val_Aligned_Faces_new", "Val/Val_Aligned_Faces"),
}
_FILM = re.compile(r"(.+)_\d+_\d+")  # Airheads_000519240_00000005.png: film, time, frame
_LAYOUT = """\
  Train_Aligned_Faces/Angry/*.png   and Disgust, Fear, Happy, Neutral, Sad, Surprise
  Val_Aligned_Faces/Angry/*.png ... (or Val_Aligned_Faces_new; both also inside Train/ and Val/)"""
_SOURCE = "its owners (https://users.cecs.anu.edu.au/~few_group/AFEW.html, on request)"


@reader(
    "sfew",
    "SFEW 2.0: aligned faces from films, 7 expressions, splits train and test (the owners' validation set).",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Lists the aligned faces: splits "train" and "test" (the validation set), sorted by name.

    `person` is the film, from the image's name: actors recur within a film, and rarely across films.
    """
    found = {
        split: next((directory / place for place in places if (directory / place).is_dir()), None)
        for split, places in _PLACES.items()
    }
    dropped: Counts = {}
    splits = {split: _list(folder, split, dropped) for split, folder in found.items() if folder is not None}
    if not any(splits.values()):
        raise records.missing(directory / _PLACES["train"][0])
    return SourceIndex(
        class_names=CLASS_NAMES,
        source_labels=tuple(_CLASSES),
        splits=splits,
        absent={
            split: " or ".join(str(directory / place / "<class>/*.png") for place in places)
            for split, places in _PLACES.items()
        },
        dropped=dropped,
        expected_size=(143, 181),
    )


def _list(folder: Path, split: str, dropped: Counts) -> list[Record]:
    listed: list[Record] = []
    for name, class_folder in records.class_folders(folder, tuple(_CLASSES), split, dropped).items():
        label = CLASS_NAMES.index(_CLASSES[name])
        for path in records.images_in(class_folder, split, dropped):
            film = _FILM.fullmatch(path.stem)
            listed.append(
                Record(f"{name}/{path.name}", records.ImageFile(path), label, person=film.group(1) if film else "")
            )
    return listed
