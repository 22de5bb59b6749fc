"""FER2013 (Goodfellow et al., 2013) with the original labels; see `ferplus` for better ones."""

from __future__ import annotations

from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import pixel_csv
from mpafer_jax.data.records import Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # the column emotion, 0 to 6
_TABLES = ("fer2013.csv", "icml_face_data.csv")  # same rows, different column order and spaces
_LAYOUT = """\
  fer2013.csv          columns emotion,pixels,Usage
or icml_face_data.csv  columns emotion, Usage, pixels
(copies as class folders, train/angry/*.jpg ..., are read by configs/folder.py)"""
_SOURCE = "Kaggle's challenge in representation learning (fer2013.csv)"


@reader(
    "fer2013",
    "FER2013: 48x48 grey faces, 7 expressions, splits train, validation (PublicTest) and test (PrivateTest).",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Reads `fer2013.csv` or `icml_face_data.csv`; images are named by their line.

    Returns:
      Splits "train", "validation" (PublicTest) and "test" (PrivateTest), without empty ones.
    """
    tables = [directory / name for name in _TABLES if (directory / name).is_file()]
    if not tables:
        raise records.missing(directory / _TABLES[0])
    if len(tables) > 1:
        raise DataError(f"{directory} holds {' and '.join(_TABLES)}, which are one dataset; keep one of them")
    splits: dict[str, list[Record]] = {split: [] for split in pixel_csv.SPLITS.values()}
    for row in pixel_csv.read_rows(tables[0]):
        if row.emotion >= len(CLASS_NAMES):
            raise DataError(f"{tables[0]} line {row.line}: the emotion is {row.emotion}, expected 0 to 6")
        splits[row.split].append(Record(f"line {row.line}", row.image, row.emotion))
    return SourceIndex(
        class_names=CLASS_NAMES,
        splits=splits,
        absent={split: f"rows of {usage} in {tables[0]}" for usage, split in pixel_csv.SPLITS.items()},
        expected_size=(pixel_csv.SIDE, pixel_csv.SIDE),
    )
