"""FERPlus (Barsoum et al., ICMI 2016): the images of FER2013 with ten crowd votes each.

Votes were published in `fer2013new.csv` and as one `label.csv` per folder; they differ for 1,601 images. Rules that
make labels of votes (`label_rule`):

* `majority_labelcsv`: the authors' "majority" on `label.csv`: single votes are set to 0, and the winner needs more than
  half of the rest, over all ten columns. Gives the literature's 28,236 (Training and PublicTest) / 3,137 (PrivateTest).
* `majority_votes`: the same images and labels, and as `label_distribution` the shares of the eight emotions' votes.
* `majority_csv`: as the first, on `fer2013new.csv`.
* `argmax`: argmax over all ten columns of `fer2013new.csv`.
* `distribution`: the authors' "cross-entropy" on `label.csv`: single votes are set to 0, then the columns with most
  votes are taken, ties together, until they have 75% of the votes or three are taken. "unknown" and "not a face" stop
  this, and win only if they come first. `label_distribution` is the shares of the taken emotions, `label` its argmax.

Images are dropped and counted if "unknown" or "not a face" wins, without a majority (the majority rules), or if the
taken columns have at most half of the votes or are more than three (`distribution`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import pixel_csv
from mpafer_jax.data.records import Counts, ImageSource, LayoutError, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
LabelRule = Literal["majority_labelcsv", "majority_votes", "majority_csv", "argmax", "distribution"]
_COLUMNS = (*CLASS_NAMES, "unknown", "NF")
_REASONS = {8: "unknown", 9: "not a face"}
_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_VOTES_CSV, _PIXELS_CSV, _LABEL_CSV = "fer2013new.csv", "fer2013.csv", "label.csv"
_LAYOUT = """\
  FER2013Train/fer0000000.png ... label.csv   (FER2013Valid, FER2013Test likewise, or all three inside data/)
  fer2013new.csv                              (for the rules majority_csv and argmax)
where FER2013's own fer2013.csv may stand in for the images (fer2013new.csv then says their names)."""
_SOURCE = "https://github.com/microsoft/FERPlus (votes) and Kaggle's FER2013 challenge (fer2013.csv)"


@dataclasses.dataclass(frozen=True, slots=True)
class Votes:
    """The votes of one image: counts of neutral, happiness, ..., contempt, unknown, not a face."""

    name: str
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The label of one image, with a distribution if the rule gives one, or why it is dropped."""

    label: int = -1
    distribution: tuple[float, ...] | None = None
    dropped: str = ""


def decide(counts: Sequence[int], rule: LabelRule) -> Decision:
    """Applies a label rule (see the module's docstring) to the ten vote counts of an image."""
    if rule == "argmax":
        return _winner(counts)
    kept = [0 if votes <= 1 else votes for votes in counts]
    if rule == "distribution":
        return _distribution(kept)
    if rule not in ("majority_labelcsv", "majority_votes", "majority_csv"):
        raise ValueError(f"no label rule of FERPlus: {rule!r}")
    winner = _winner(kept) if max(kept) > 0.5 * sum(kept) else Decision(dropped="no majority")
    if rule != "majority_votes" or winner.dropped:
        return winner
    votes = kept[: len(CLASS_NAMES)]
    return dataclasses.replace(winner, distribution=tuple(number / sum(votes) for number in votes))


def _winner(counts: Sequence[int]) -> Decision:
    label = max(range(len(counts)), key=counts.__getitem__)
    return Decision(dropped=_REASONS[label]) if label in _REASONS else Decision(label)


def _distribution(counts: list[int]) -> Decision:
    total, taken = sum(counts), dict[int, int]()
    left = {column: votes for column, votes in enumerate(counts) if votes}
    while left and sum(taken.values()) < 0.75 * total and len(taken) < 3:
        most = max(left.values())
        equals = [column for column, votes in left.items() if votes == most]
        outside = [column for column in equals if column in _REASONS]
        emotions = [column for column in equals if column not in _REASONS]
        if outside and not taken and not emotions:
            return Decision(dropped=_REASONS[outside[0]])
        for column in emotions:
            taken[column] = left.pop(column)
        if outside:
            break
    held = sum(taken.values())
    if held <= 0.5 * total or len(taken) > 3:
        return Decision(dropped="no agreement")
    weights = tuple(taken.get(column, 0) / held for column in range(len(CLASS_NAMES)))
    return Decision(max(range(len(weights)), key=weights.__getitem__), weights)


@reader(
    "ferplus",
    "FERPlus: 48x48 grey faces, 8 expressions, splits train, validation (PublicTest) and test (PrivateTest).",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
    fields=("dir", "label_rule"),
    label_rules=get_args(LabelRule),
)
def read(directory: Path, rule: LabelRule) -> SourceIndex:
    """Reads FERPlus' votes and finds its images.

    Args:
      directory: see the layout in docs/datasets.md; the files needed depend on `rule` and on where the images are.

    Returns:
      Those of the splits "train", "validation" (PublicTest) and "test" (PrivateTest) with images and votes. Rows
      without a name (removed by the authors) are dropped, and of equal names all but the last row, which overwrites
      the others in the authors' export.

    Raises:
      DataError: no split has both images and votes, or a file is malformed.
    """
    base = directory / "data" if (directory / "data" / _FOLDERS["train"]).is_dir() else directory
    table = read_votes_csv(directory / _VOTES_CSV) if (directory / _VOTES_CSV).is_file() else {}
    from_label_csv = rule in ("majority_labelcsv", "majority_votes", "distribution")
    votes_of = _read_label_csvs(base) if from_label_csv else table
    pixels = _pixel_rows(directory / _PIXELS_CSV) if (directory / _PIXELS_CSV).is_file() else {}
    dropped: Counts = {}
    splits: dict[str, list[Record]] = {}
    left_out: dict[str, list[Record]] = {}
    absent: dict[str, str] = {}
    for split, folder in _FOLDERS.items():
        label_path = base / folder / _LABEL_CSV
        votes = votes_of.get(split, [])
        images = _images(base / folder, votes, pixels.get(split, []), table.get(split, []), directory)
        if not votes:
            usage = next(name for name, value in pixel_csv.SPLITS.items() if value == split)
            absent[split] = str(label_path) if from_label_csv else f"rows of {usage} in {directory / _VOTES_CSV}"
        elif images is None:
            absent[split] = f"{base / folder}/*.png, or its rows in {directory / _PIXELS_CSV} and {_VOTES_CSV}"
        else:
            named = _last_of_each_name(votes, split, dropped)
            splits[split], left_out[split] = _label(named, images, rule, split, dropped)
    if not splits:
        looked_for = "\n".join(f"  {split}: {place}" for split, place in absent.items())
        raise LayoutError(f"label rule {rule}: no split has both votes and images; looked for\n{looked_for}")
    return SourceIndex(
        label_rule=rule,
        class_names=CLASS_NAMES,
        source_labels=CLASS_NAMES,
        splits=splits,
        absent=absent,
        dropped=dropped,
        left_out=left_out,
        expected_size=(pixel_csv.SIDE, pixel_csv.SIDE),
    )


def _read_label_csvs(base: Path) -> dict[str, list[Votes]]:
    paths = {split: base / folder / _LABEL_CSV for split, folder in _FOLDERS.items()}
    return {split: read_label_csv(path) for split, path in paths.items() if path.is_file()}


def read_label_csv(path: Path) -> list[Votes]:
    """Reads a `label.csv`: no header; columns name, face box (the whole image), ten counts."""
    return [_votes(row[:1] + row[2:], f"{path} line {line}") for line, row in records.read_csv(path)]


def read_votes_csv(path: Path) -> dict[str, list[Votes]]:
    """Reads `fer2013new.csv` by split; includes rows of empty names, which align it with fer2013.csv."""
    header = ["Usage", "Image name", *_COLUMNS]
    splits: dict[str, list[Votes]] = {}
    rows = records.read_csv(path)
    _, found = next(rows, (0, list[str]()))
    if found != header:
        raise DataError(f"{path}: the first line is {found}, expected the columns {header}")
    for line, row in rows:
        place = f"{path} line {line}"
        if row[0] not in pixel_csv.SPLITS:
            raise DataError(
                f"{place}: found {row}, expected a row that starts with one of {', '.join(pixel_csv.SPLITS)}"
            )
        splits.setdefault(pixel_csv.SPLITS[row[0]], []).append(_votes(row[1:], place))
    return splits


def _votes(row: Sequence[str], place: str) -> Votes:
    try:
        counts = tuple(int(value) for value in row[1:])
    except ValueError:
        counts = ()
    if len(counts) != len(_COLUMNS):
        raise DataError(f"{place}: found {list(row)}, expected a name and ten numbers of votes ({', '.join(_COLUMNS)})")
    return Votes(row[0], counts)


def _pixel_rows(path: Path) -> dict[str, list[ImageSource]]:
    """The images of `fer2013.csv` by split, without its labels."""
    splits: dict[str, list[ImageSource]] = {}
    for row in pixel_csv.read_rows(path):
        splits.setdefault(row.split, []).append(row.image)
    return splits


def _images(
    folder: Path, votes: Iterable[Votes], pixels: Sequence[ImageSource], table: Sequence[Votes], directory: Path
) -> Mapping[str, ImageSource] | None:
    """Name -> image of one split; None if it has no images. Of equal names the last one counts."""
    if any(folder.glob("[!.]*.png")):
        return {row.name: records.ImageFile(folder / row.name) for row in votes}
    if not pixels or not table:
        return None
    if len(pixels) != len(table):
        raise DataError(
            f"{directory}: {_PIXELS_CSV} has {len(pixels)} rows where {_VOTES_CSV} has {len(table)} (the split of "
            f"{folder.name}); they are joined row by row, so both must be complete"
        )
    # By row, since numbers in names skip the rows of removed images.
    return {row.name: image for row, image in zip(table, pixels, strict=True)}


def _last_of_each_name(votes: Sequence[Votes], split: str, dropped: Counts) -> list[Votes]:
    left = Counter(row.name for row in votes)
    kept: list[Votes] = []
    for row in votes:
        left[row.name] -= 1
        if not row.name:
            records.count(dropped, split, "no image name")
        elif left[row.name]:
            records.count(dropped, split, "name occurs again later")
        else:
            kept.append(row)
    return kept


def _label(
    votes: Iterable[Votes], images: Mapping[str, ImageSource], rule: LabelRule, split: str, dropped: Counts
) -> tuple[list[Record], list[Record]]:
    labelled: list[Record] = []
    left_out: list[Record] = []
    for row in votes:
        decision = decide(row.counts, rule)
        if row.name not in images:
            raise DataError(f"{row.name} has votes in {_LABEL_CSV} and no row in {_VOTES_CSV}, so no image")
        if decision.dropped:
            records.count(dropped, split, decision.dropped)
            left_out.append(Record(row.name, images[row.name], -1))
        else:
            labelled.append(Record(row.name, images[row.name], decision.label, decision.distribution))
    return labelled, left_out
