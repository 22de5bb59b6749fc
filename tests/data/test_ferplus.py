"""FERPlus: the label rules by hand, both layouts, and the counts of the published label files."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.readers import ferplus
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

# neutral happiness surprise sadness anger disgust fear contempt unknown NF
CLEAR = (1, 8, 0, 0, 0, 0, 0, 0, 1, 0)
HALF = (5, 5, 0, 0, 0, 0, 0, 0, 0, 0)
UNKNOWN = (2, 0, 0, 0, 0, 0, 0, 0, 8, 0)
NO_FACE = (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)

needs_ferplus = pytest.mark.skipif(
    not (layouts.FERPLUS / "label_FER2013Train.csv").is_file(),
    reason="the label files are not here; set MPAFER_FERPLUS_DIR",
)


@pytest.mark.parametrize(
    ("counts", "rule", "label", "dropped"),
    [
        (CLEAR, "majority_csv", 1, ""),
        # 4 of 10 is no majority, but 4 of the 7 that are left without single votes is.
        ((4, 3, 1, 1, 1, 0, 0, 0, 0, 0), "majority_csv", 0, ""),
        ((4, 4, 1, 1, 0, 0, 0, 0, 0, 0), "majority_csv", -1, "no majority"),  # exactly half
        ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), "majority_csv", -1, "no majority"),
        # The ten columns count: 5 for happiness would win over the eight, and has only half of all.
        ((0, 5, 0, 0, 0, 0, 0, 0, 5, 0), "majority_labelcsv", -1, "no majority"),
        (UNKNOWN, "majority_labelcsv", -1, "unknown"),
        (UNKNOWN, "majority_votes", -1, "unknown"),
        (CLEAR, "majority_votes", 1, ""),
        (NO_FACE, "majority_labelcsv", -1, "not a face"),
        (HALF, "argmax", 0, ""),
        ((0, 2, 2, 0, 0, 0, 0, 0, 3, 3), "argmax", -1, "unknown"),
        ((0, 0, 0, 3, 0, 0, 0, 0, 3, 0), "argmax", 3, ""),
        # Three columns are taken, then no more; 3 + 3 + 2 of 8.
        ((3, 3, 2, 1, 1, 0, 0, 0, 0, 0), "distribution", 0, ""),
        ((2, 2, 2, 2, 1, 1, 0, 0, 0, 0), "distribution", -1, "no agreement"),  # four equals are more than three
        ((0, 4, 0, 0, 0, 0, 0, 0, 5, 0), "distribution", -1, "unknown"),
        # "unknown" in second place ends it: 4 of 10 is too little, 6 of 10 is enough.
        ((4, 0, 0, 2, 0, 0, 0, 0, 4, 0), "distribution", -1, "no agreement"),
        ((0, 0, 6, 0, 0, 0, 0, 0, 4, 0), "distribution", 2, ""),
        ((4, 0, 0, 0, 0, 0, 0, 0, 4, 0), "distribution", -1, "no agreement"),  # exactly half is too little
    ],
)
def test_rules(counts: tuple[int, ...], rule: str, label: int, dropped: str) -> None:
    decision = ferplus.decide(counts, rule)
    assert (decision.label, decision.dropped) == (label, dropped)


def test_the_rule_of_the_majority_may_keep_the_votes() -> None:
    counts = (2, 5, 1, 0, 0, 0, 0, 0, 1, 0)  # single votes do not count
    assert ferplus.decide(counts, "majority_votes").distribution == pytest.approx((2 / 7, 5 / 7, 0, 0, 0, 0, 0, 0))
    assert ferplus.decide(counts, "majority_labelcsv").distribution is None
    rng = np.random.default_rng(0)  # images and labels are the same, which makes both one protocol
    for votes in rng.multinomial(10, rng.dirichlet(np.full(10, 0.3), 500)).tolist():
        kept, plain = ferplus.decide(votes, "majority_votes"), ferplus.decide(votes, "majority_labelcsv")
        assert (kept.label, kept.dropped) == (plain.label, plain.dropped)


def test_distribution_holds_the_shares_of_the_taken_emotions() -> None:
    # Without the single vote 9 remain; 5 of them are less than 75%, so the next two, which are equal, join together.
    decision = ferplus.decide((2, 0, 5, 2, 1, 0, 0, 0, 0, 0), "distribution")
    assert decision.label == 2
    assert decision.distribution == pytest.approx((2 / 9, 0, 5 / 9, 2 / 9, 0, 0, 0, 0))
    # 8 of 10 are enough at once, so the other 2 get nothing.
    assert ferplus.decide((0, 8, 2, 0, 0, 0, 0, 0, 0, 0), "distribution").distribution == (0, 1, 0, 0, 0, 0, 0, 0)
    # Exactly 75% are enough, 70% are not.
    assert ferplus.decide((0, 6, 2, 0, 0, 0, 0, 0, 0, 0), "distribution").distribution == (0, 1, 0, 0, 0, 0, 0, 0)
    shares = ferplus.decide((0, 7, 3, 0, 0, 0, 0, 0, 0, 0), "distribution").distribution
    assert shares == pytest.approx((0, 0.7, 0.3, 0, 0, 0, 0, 0))


def test_folder_layout(tmp_path: Path) -> None:
    layouts.write_label_csv(tmp_path / "FER2013Train", {"fer0000000.png": CLEAR, "fer0000001.png": UNKNOWN})
    layouts.write_label_csv(tmp_path / "FER2013Test", {"fer0000009.png": CLEAR}, first_seed=9)
    index = ferplus.read(tmp_path, "majority_labelcsv")
    assert {split: [(r.name, r.label) for r in found] for split, found in index.splits.items()} == {
        "train": [("fer0000000.png", 1)],
        "test": [("fer0000009.png", 1)],
    }
    assert [r.name for r in index.left_out["train"]] == ["fer0000001.png"]
    assert index.dropped == {"train": {"unknown": 1}}
    assert index.absent == {"validation": str(tmp_path / "FER2013Valid" / "label.csv")}


def test_the_repository_keeps_its_folders_in_data(tmp_path: Path) -> None:
    layouts.write_label_csv(tmp_path / "data" / "FER2013Train", {"fer0000000.png": CLEAR})
    assert len(ferplus.read(tmp_path, "majority_labelcsv").splits["train"]) == 1


def test_rules_read_the_votes_they_name(tmp_path: Path) -> None:
    layouts.write_label_csv(tmp_path / "FER2013Train", {"fer0000000.png": CLEAR})
    layouts.write_fer2013new(tmp_path, [("Training", "fer0000000.png", (9, 0, 0, 0, 0, 0, 0, 0, 1, 0))])
    labels = {rule: ferplus.read(tmp_path, rule).splits["train"][0].label for rule in ("majority_labelcsv", "argmax")}
    assert labels == {"majority_labelcsv": 1, "argmax": 0}


@pytest.mark.parametrize("quoted", [False, True])
def test_csv_layout_joins_by_row(tmp_path: Path, quoted: bool) -> None:
    """The numbers in the names lag behind the rows; a removed image keeps its row; of equal names the last counts."""
    images = [layouts.image(seed, 48, 48, "L") for seed in range(5)]
    usages = ["Training", "Training", "Training", "Training", "PrivateTest"]
    names = ["fer0000000.png", "", "fer0000001.png", "fer0000000.png", "fer0000002.png"]
    layouts.write_fer2013(tmp_path, list(zip(usages, images, strict=True)), quoted)
    layouts.write_fer2013new(tmp_path, [(u, n, CLEAR) for u, n in zip(usages, names, strict=True)])
    index = ferplus.read(tmp_path, "majority_csv")
    assert index.dropped == {"train": {"name occurs again later": 1, "no image name": 1}}
    expected = {"fer0000001.png": images[2], "fer0000000.png": images[3], "fer0000002.png": images[4]}
    found = {r.name: r.image.read() for split in ("train", "test") for r in index.splits[split]}
    assert set(found) == set(expected)
    for name, data in found.items():
        (tmp_path / "one.png").write_bytes(data)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(expected[name]))


def test_csv_pixels_with_the_votes_of_label_csv(tmp_path: Path) -> None:
    layouts.write_fer2013(tmp_path, [("Training", layouts.image(0, 48, 48, "L"))])
    layouts.write_fer2013new(tmp_path, [("Training", "fer0000000.png", NO_FACE)])
    layouts.write_label_csv(tmp_path / "FER2013Train", {"fer0000000.png": CLEAR})
    (tmp_path / "FER2013Train" / "fer0000000.png").unlink()
    (record,) = ferplus.read(tmp_path, "majority_labelcsv").splits["train"]
    assert (record.label, record.image.place) == (1, f"{tmp_path / 'fer2013.csv'} line 2")
    (tmp_path / "FER2013Train" / "._a.png").write_bytes(b"")  # a Mac's attributes of a removed image
    assert ferplus.read(tmp_path, "majority_labelcsv").splits["train"] == [record]


def test_a_changed_pixel_changes_the_fingerprint(tmp_path: Path) -> None:
    layouts.write_fer2013new(tmp_path, [("Training", "fer0000000.png", CLEAR)])
    fingerprints: set[str] = set()
    for seed in (0, 1):
        layouts.write_fer2013(tmp_path, [("Training", layouts.image(seed, 48, 48, "L"))])
        fingerprints.add(ferplus.read(tmp_path, "argmax").fingerprint())
    assert len(fingerprints) == 2


def test_errors_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split has both votes and images; looked for\n  train: .*label\.csv"):
        ferplus.read(tmp_path, "majority_labelcsv")
    layouts.write_fer2013(tmp_path, [("Training", layouts.image(0, 48, 48, "L"))])
    rows = [("Training", "fer0000000.png", CLEAR), ("Training", "fer0000001.png", CLEAR)]
    layouts.write_fer2013new(tmp_path, rows)
    with pytest.raises(DataError, match=r"fer2013\.csv has 1 rows where fer2013new\.csv has 2"):
        ferplus.read(tmp_path, "argmax")
    layouts.write_fer2013new(tmp_path, [("Training", "fer0000000.png", (1, 2))])
    with pytest.raises(DataError, match=r"fer2013new\.csv line 2: .* expected a name and ten numbers"):
        ferplus.read(tmp_path, "argmax")
    (tmp_path / "fer2013new.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"the first line is \['a', 'b'\], expected the columns \['Usage'"):
        ferplus.read(tmp_path, "argmax")
    (tmp_path / "fer2013new.csv").unlink()
    (tmp_path / "fer2013.csv").write_text("emotion,pixels\n")
    with pytest.raises(DataError, match="expected emotion,pixels,Usage"):
        ferplus.read(tmp_path, "majority_labelcsv")


def test_a_short_row_of_pixels_is_found_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n0,1 2 3,Training\n")
    layouts.write_fer2013new(tmp_path, [("Training", "fer0000000.png", CLEAR)])
    (record,) = ferplus.read(tmp_path, "argmax").splits["train"]
    with pytest.raises(ValueError, match="expected 2304 grey values from 0 to 255, found 3"):
        record.image.read()


def _golden(folder: Path, rule: str, split: str) -> list[int]:
    counts = Counter(record.label for record in ferplus.read(folder, rule).splits[split])
    return [counts[label] for label in range(8)]


@pytest.fixture(scope="module")
def label_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published label files in their layout, with one image per folder so that the splits are there."""
    root = tmp_path_factory.mktemp("ferplus")
    for name in ("FER2013Train", "FER2013Valid"):
        (root / name).mkdir()
        shutil.copyfile(layouts.FERPLUS / f"label_{name}.csv", root / name / "label.csv")
        layouts.save(root / name / "fer0000000.png", layouts.image(0, 48, 48, "L"))
    shutil.copyfile(layouts.FERPLUS / "fer2013new.csv", root / "fer2013new.csv")
    return root


@needs_ferplus
def test_golden_counts_of_majority_labelcsv(label_files: Path) -> None:
    train = _golden(label_files, "majority_labelcsv", "train")
    validation = _golden(label_files, "majority_labelcsv", "validation")
    assert train == [8733, 7284, 3136, 3022, 2098, 116, 536, 120]
    assert validation == [1180, 862, 411, 348, 289, 25, 60, 16]
    assert (sum(train), sum(validation), sum(train + validation)) == (25045, 3191, 28236)


@needs_ferplus
def test_golden_counts_of_fer2013new(label_files: Path) -> None:
    """The published counts are of rows; files are 3 fewer, because three names of Training occur twice."""
    rows = ferplus.read_votes_csv(label_files / "fer2013new.csv")
    counts = {
        (rule, split): sum(not ferplus.decide(row.counts, rule).dropped for row in rows[split])
        for rule in ("majority_csv", "argmax")
        for split in ("train", "validation")
    }
    assert counts == {
        ("majority_csv", "train"): 25060,
        ("majority_csv", "validation"): 3199,
        ("argmax", "train"): 28389,
        ("argmax", "validation"): 3553,
    }
    for rule, expected in (("majority_csv", 25057), ("argmax", 28386)):
        index = ferplus.read(label_files, rule)
        assert len(index.splits["train"]) == expected
        assert index.dropped["train"]["name occurs again later"] == 3
        assert index.dropped["train"]["no image name"] == 148


@needs_ferplus
def test_the_two_vote_files_differ_as_published(label_files: Path) -> None:
    rows = ferplus.read_votes_csv(label_files / "fer2013new.csv")
    for split, folder, expected in (("train", "FER2013Train", 1073), ("validation", "FER2013Valid", 246)):
        newer = {row.name: row.counts for row in rows[split]}
        older = ferplus.read_label_csv(label_files / folder / "label.csv")
        assert sum(newer[row.name] != row.counts for row in older) == expected
