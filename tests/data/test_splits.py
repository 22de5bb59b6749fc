import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mpafer_jax.data import inspection, protocols, splits
from mpafer_jax.data.split_groups import draw_per_class, join_groups, split_off, split_off_groups
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts


def unique_groups(number: int) -> np.ndarray:
    return np.array([f"g{i}" for i in range(number)])


def test_split_off_takes_its_share_of_every_class() -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 10])
    kept, test, validation = split_off(labels, unique_groups(160), (0.2, 0.1), seed=0)
    assert np.bincount(labels[test]).tolist() == [20, 10, 2]
    assert np.bincount(labels[validation]).tolist() == [10, 5, 1]
    assert sorted([*kept, *test, *validation]) == list(range(160))
    assert all((np.diff(part) > 0).all() for part in (kept, test, validation))


def test_small_classes_give_one_and_keep_one() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2], np.int32)
    kept, test, validation = split_off(labels, unique_groups(6), (0.1, 0.1), seed=3)
    assert np.bincount(labels[kept], minlength=3).tolist() == [1, 1, 1]
    assert np.bincount(labels[test], minlength=3).tolist() == [0, 1, 1]
    assert np.bincount(labels[validation], minlength=3).tolist() == [0, 0, 1]


def test_identical_images_stay_together() -> None:
    groups = np.array([f"g{i % 25}" for i in range(100)])  # each image four times
    labels = np.zeros(100, np.int32)
    for seed in range(20):
        kept, part = split_off(labels, groups, (0.3,), seed)
        assert not set(groups[kept]) & set(groups[part])
        assert 28 <= len(part) <= 32


def test_groups_are_joined_through_either_column() -> None:
    persons = np.array(["a", "a", "b", "b", "", "", "c"])
    pixels = np.array(["1", "2", "2", "3", "4", "4", "5"])
    groups = join_groups(persons, pixels).tolist()
    assert groups[0] == groups[1] == groups[2] == groups[3]  # a and b share image 2
    assert groups[4] == groups[5]  # nobody's, the same image
    assert len(set(groups)) == 3


def test_groups_split_off_are_whole_and_keep_the_shares_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120).astype(str), rng.integers(1, 6, 120))
    labels = rng.choice(3, len(groups), p=(0.6, 0.35, 0.05)).astype(np.int32)
    seen: set[tuple[int, ...]] = set()
    for seed in range(10):
        kept, test, validation = split_off_groups(labels, groups, (0.2, 0.1), seed)
        assert sorted([*kept, *test, *validation]) == list(range(len(labels)))
        of_parts = [set(groups[part].tolist()) for part in (kept, test, validation)]
        assert len(of_parts[0] | of_parts[1] | of_parts[2]) == sum(map(len, of_parts)) == 120
        for part, share in ((test, 0.2), (validation, 0.1)):
            wanted = share * np.bincount(labels, minlength=3)
            assert (np.abs(np.bincount(labels[part], minlength=3) - wanted) <= np.maximum(2, 0.2 * wanted)).all()
        again = split_off_groups(labels, groups, (0.2, 0.1), seed)
        assert [part.tolist() for part in again] == [part.tolist() for part in (kept, test, validation)]
        seen.add(tuple(test.tolist()))
    assert len(seen) == 10


def test_few_groups_give_one_and_keep_one() -> None:
    labels = np.zeros(9, np.int32)
    groups = np.repeat(["a", "b", "c"], 3)
    kept, test, validation = split_off_groups(labels, groups, (0.1, 0.1), seed=0)
    assert (len(kept), len(test), len(validation)) == (3, 3, 3)
    kept, test, validation = split_off_groups(labels, np.repeat("a", 9), (0.5, 0.1), seed=0)
    assert (len(kept), len(test), len(validation)) == (9, 0, 0)
    kept, test, validation = split_off_groups(labels, groups, (0.0, 0.4), seed=0)
    assert (len(kept), len(test), len(validation)) == (6, 0, 3)


def test_few_shots_are_nested() -> None:
    labels = np.repeat(np.arange(2, dtype=np.int32), [20, 3])
    four, eight = draw_per_class(labels, 4, seed=1), draw_per_class(labels, 8, seed=1)
    assert np.bincount(labels[four]).tolist() == [4, 3]
    assert np.bincount(labels[eight]).tolist() == [8, 3]
    assert set(four) < set(eight)
    assert set(four) != set(draw_per_class(labels, 4, seed=2))


def write_ferplus(root: Path) -> None:
    faces = {f"fer{i:07d}.png": tuple(10 * (column == i % 2) for column in range(10)) for i in range(8)}
    layouts.write_label_csv(root / "FER2013Train", faces)
    layouts.write_label_csv(root / "FER2013Valid", faces, first_seed=7)  # its first image is Train's last


def test_train_splits_are_joined_in_order(tmp_path: Path) -> None:
    write_ferplus(tmp_path)
    dataset = load_dataset(layouts.section("ferplus", tmp_path, train_splits=("train", "validation")))
    assert len(dataset.train) == 16
    assert (dataset.validation, dataset.test) == (None, None)
    assert dataset.train.class_counts().tolist() == [8, 8, 0, 0, 0, 0, 0, 0]
    assert dataset.train.source[9] == (tmp_path / "FER2013Valid" / "fer0000001.png").read_bytes()
    twice = layouts.section("ferplus", tmp_path, train_splits=("train", "validation", "train"))
    with pytest.raises(
        DataError, match=r"'train' is in train twice: .* train \+ validation \+ train; name each split once$"
    ):
        load_dataset(twice)


def test_description_says_what_was_loaded(tmp_path: Path) -> None:
    write_ferplus(tmp_path)
    dataset = load_dataset(
        layouts.section("ferplus", tmp_path, validation_split="validation", test_fraction=0.25, train_per_class=2)
    )
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    text = dataset.description
    assert "label rule majority_labelcsv" in text
    assert ["0", "neutral", "(neutral)", "2", "4", "1"] in [line.split() for line in text.splitlines()]
    assert "1 of the validation images are pixel-identical to one in train" in text
    assert "train: train, at most 2 of each class" in text
    assert "test: 25% of train, seed 0" in text


def test_splits_from_train_hold_their_own_images(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 10, "sad": 6})
    dataset = load_dataset(layouts.section("folder", tmp_path, validation_fraction=0.2, test_fraction=0.2))
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    seen: set[str] = set()
    for name, part in parts.items():
        assert part is not None
        assert part.name == name
        for position in range(len(part)):
            path = tmp_path / part.names[position]
            assert part.source[position] == path.read_bytes()
            assert path.parent.name == ("happy", "sad")[part.labels[position]]
        seen |= set(part.names.tolist())
    assert {name: len(part) for name, part in parts.items() if part} == {"train": 10, "validation": 3, "test": 3}
    assert len(seen) == 16
    assert len({part.fingerprint for part in parts.values() if part}) == 3


def test_few_shot_draws_vary_by_a_seed_of_their_own(tmp_path: Path) -> None:
    """Runs of several seeds train on other images and are measured on the same."""
    layouts.write_folders(tmp_path, {"happy": 12, "sad": 12})
    drawn = [
        load_dataset(
            layouts.section("folder", tmp_path, test_fraction=0.25, train_per_class=3, few_shot_seed=seed, **changes)
        )
        for seed, changes in ((0, {}), (1, {}), (1, {"split_seed": 1}))
    ]
    trained = [set(dataset.train.names.tolist()) for dataset in drawn]
    assert [len(names) for names in trained] == [6, 6, 6]
    assert trained[0] != trained[1]
    tested = [dataset.test.names.tolist() for dataset in drawn if dataset.test is not None]
    assert tested[0] == tested[1] != tested[2]
    assert "train: train, at most 3 of each class, seed 1" in drawn[1].description


def test_the_images_that_are_measured_are_drawn_by_the_seed_of_the_splits(tmp_path: Path) -> None:
    """And not by that of few-shot draws, so that runs of several seeds are measured on the same."""
    layouts.write_folders(tmp_path / "train", {"happy": 12, "sad": 12})
    layouts.write_folders(tmp_path / "test", {"happy": 9, "sad": 2}, first_seed=100)

    def drawn(**changes: int) -> list[str]:
        dataset = load_dataset(layouts.section("folder", tmp_path, test_split="test", eval_per_class=3, **changes))
        assert dataset.test is not None
        assert dataset.test.class_counts().tolist() == [3, 2]
        assert len(dataset.train) == 24
        assert "test: test, at most 3 of each class, seed" in dataset.description
        return dataset.test.names.tolist()

    usual = drawn()
    assert drawn(few_shot_seed=1) == usual
    assert any(drawn(split_seed=seed) != usual for seed in (1, 2, 3))


def test_an_absent_split_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    write_ferplus(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test' here; looked for .*FER2013Test/label\.csv") as error:
        load_dataset(layouts.section("ferplus", tmp_path, test_split="test"))
    assert "Splits that are here: train (8), validation (8)" in str(error.value)


def test_all_splits_are_joined(tmp_path: Path) -> None:
    for seed, (folder, number) in enumerate({"train": 3, "val": 2, "test": 4}.items()):
        layouts.write_folders(tmp_path / folder, {"happy": number, "sad": 1}, first_seed=10 * seed)
    section = layouts.section("folder", tmp_path, train_splits=(), test_split="all")
    dataset = splits.load_dataset(section)
    assert dataset.test is not None
    assert (len(dataset.train), dataset.validation, dataset.test.class_counts().tolist()) == (0, None, [9, 3])
    assert "test: train + validation + test" in dataset.description
    hashes = [set(dataset.test.pixel_hashes[part].tolist()) for part in (slice(0, 4), slice(4, 7), slice(7, 12))]
    for part, found in zip(("train", "validation", "test"), hashes, strict=True):
        alone = splits.load_dataset(section.model_copy(update={"test_split": part})).test
        assert alone is not None
        assert set(alone.pixel_hashes.tolist()) == found


def test_validation_images_that_are_not_used_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, folder in enumerate(("train", "val")):
        layouts.write_folders(tmp_path / folder, {"happy": 4, "sad": 4}, first_seed=10 * seed)
    splits.load_dataset(layouts.section("folder", tmp_path, validation_split="validation"))
    splits.load_dataset(layouts.section("folder", tmp_path, train_splits=(), test_split="train"))
    for part in ({"validation_split": "validation"}, {"validation_fraction": 0.5}):  # whoever reads test alone
        assert splits.load_dataset(layouts.section("folder", tmp_path, **part), without="validation").validation is None
    assert "not used" not in caplog.text
    dataset = splits.load_dataset(layouts.section("folder", tmp_path, validation_fraction=0.5))
    assert dataset.validation is not None
    assert len(dataset.validation) == 4
    assert "the 8 images of the split 'validation' are not used" in caplog.text
    assert "--config.data.validation_split=validation --config.data.validation_fraction=0" in caplog.text


def test_every_run_says_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 3, "sad": 3, "sad/anna": 2})
    layouts.write_folders(tmp_path / "test", {"happy": 2, "sad": 2}, first_seed=50)
    (tmp_path / "train" / "happy" / "Thumbs.db").write_text("x")
    section = layouts.section("folder", tmp_path, test_split="test", on_bad_image="skip")
    load_dataset(section)
    for folder, name in (("train", "happy/000.png"), ("train", "sad/001.png"), ("test", "sad/000.png")):
        (tmp_path / folder / name).write_text("no image")
    for _ in range(2):  # prepared, then opened
        caplog.clear()
        load_dataset(section)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        said = [line for line in warnings if not line.startswith("skipped: ")]  # each, when the copy is made
        assert said == [
            "left out: 2 image in a folder inside a class folder (in train)",
            "images that cannot be read are skipped: 2 in train, 1 in test; the first is "
            f"{tmp_path}/train/happy/000.png: cannot be read as an image: " + said[1].rpartition("image: ")[2],
        ]
    # Of now, not of when the copy was made.
    layouts.save(tmp_path / "test" / "beside.png", layouts.image(70))
    assert load_dataset(section).summary.dropped["test"] == {"image beside the class folders, in none of them": 1}


def test_with_skipped_images_splits_are_not_the_owners(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 4, "sad": 2})
    layouts.write_folders(tmp_path / "test", {"happy": 2, "sad": 1}, first_seed=9)
    known = {"train": {"happiness": 4, "sadness": 2}, "test": {"happiness": 2, "sadness": 1}}
    monkeypatch.setattr(protocols, "KNOWN", (protocols.Known("Ours", known),))
    section = layouts.section("folder", tmp_path, test_split="test", on_bad_image="skip")
    said = "protocol: Ours, its owners' splits (train 6, test 3)"
    assert f"  {said}" in load_dataset(section).description.splitlines()
    (tmp_path / "test" / "sad" / "000.png").write_text("no image")
    said += "; 1 of the images could not be read: numbers on it are not comparable with published ones"
    for _ in range(2):  # prepared, then opened
        caplog.clear()
        lines = load_dataset(section).description.splitlines()
        assert {f"  {said}", "  images that cannot be read are skipped: 1 in test"} <= set(lines)
        assert said in [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_class_folders_without_a_test_split_are_divided(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 20, "sad": 10})
    shutil.copy(tmp_path / "sad" / "000.png", tmp_path / "sad" / "same.png")  # stays on the side of its twin
    parts = {"validation_fraction": 0.1, "split_seed": 3}
    dataset = load_dataset(layouts.section("folder", tmp_path, test_split="test", **parts))
    asked = load_dataset(layouts.section("folder", tmp_path, test_split="", test_fraction=0.2, **parts))
    for found, expected in ((dataset.train, asked.train), (dataset.test, asked.test)):
        assert found is not None
        assert expected is not None
        assert found.names.tolist() == expected.names.tolist()
    assert dataset.test is not None
    assert dataset.test.class_counts().tolist() in ([4, 2], [4, 3])
    assert {"sad/000.png", "sad/same.png"} <= set(dataset.train.names) or {"sad/000.png", "sad/same.png"} <= set(
        dataset.test.names
    ) | set([] if dataset.validation is None else dataset.validation.names)
    assert "there is no test split: 20% of train are split off, class by class, seed 3" in dataset.description
    assert "test: 20% of train, seed 3" in dataset.description
    assert "there is no test split" not in asked.description


def test_a_part_that_nobody_looks_at_need_not_be_there(tmp_path: Path) -> None:
    labels = {f"train_{number:05d}.jpg": 1 + number % 2 for number in range(20)}
    layouts.write_rafdb(tmp_path, labels)
    section = layouts.section("rafdb", tmp_path, test_split="test", validation_fraction=0.1)
    with pytest.raises(
        DataError, match=r"no split 'test'.*\n  --config.data.test_split= --config.data.test_fraction=0.2"
    ):
        load_dataset(section)
    dataset = load_dataset(section, without="test")
    assert dataset.test is None
    assert dataset.validation is not None
    assert len(dataset.validation) == 2
    layouts.write_rafdb(tmp_path / "other", {"test_0001.jpg": 1})
    with pytest.raises(DataError, match=r"""--config.data.train_splits="\('test',\)" --config.data.test_split= """):
        load_dataset(layouts.section("rafdb", tmp_path / "other", test_split="test"))


def test_a_part_that_is_split_off_and_not_read_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 20, "sad": 20})
    section = layouts.section("folder", tmp_path, test_fraction=0.2, validation_fraction=0.1)
    whole, without = load_dataset(section), load_dataset(section, without="test")
    assert without.test is None
    for kept, expected in ((without.train, whole.train), (without.validation, whole.validation)):
        assert kept is not None
        assert expected is not None
        assert kept.fingerprint == expected.fingerprint
    assert load_dataset(section, without="validation").validation is None


@pytest.mark.parametrize("place", ["[a] {b}*?", "~", "caf\xe9 \u8868\u60c5 %s"])
def test_places_may_be_called_anything(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    root = Path(place).expanduser()
    layouts.write_folders(root / "train", {"happy [1]": 2, "sad": 2})
    layouts.write_folders(root / "test", {"sad": 1}, first_seed=9)
    (root / "list.txt").write_text("sad/000.png\n")
    for _ in range(2):  # prepared and decoded, then opened
        dataset = load_dataset(
            layouts.section(
                "folder",
                f"{place}",
                prepared_dir=f"{place}/prepared [x]",
                test_split="test",
                test_subset=f"{place}/list.txt",
                cache_decoded=True,
            )
        )
        assert dataset.test is not None
        assert dataset.test.source[0] == (root / "test" / "sad" / "000.png").read_bytes()
        assert len(dataset.train) == 4
    assert (root / "prepared [x]").is_dir()


def test_every_owners_layout_reads_in_a_place_with_brackets(tmp_path: Path) -> None:
    place = tmp_path / "[a]*"
    layouts.write_ckplus_sequence(place / "ck", "S005", "001", 3, "3.0\n")
    layouts.write_label_csv(place / "fer" / "FER2013Train", {"fer0.png": (9, 0, 0, 0, 0, 0, 0, 0, 0, 0)})
    layouts.write_affectnet_npy(place / "affectnet", "train_set", {1: 1})
    layouts.write_jaffe(place / "jaffe", ["KA.AN1.39"])
    layouts.write_sfew(place / "sfew", ["Train_Aligned_Faces/Angry/Airheads_000519240_00000005.png"])
    for dataset, folder in {"ckplus": "ck", "ferplus": "fer", "affectnet": "affectnet"}.items():
        assert len(load_dataset(layouts.section(dataset, place / folder)).train) in (1, 2)
    for dataset in ("jaffe", "sfew"):
        assert len(load_dataset(layouts.section(dataset, place / dataset)).train) == 1


def test_near_duplicates_are_searched_for_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_folders(tmp_path, {"happy": 12, "sad": 12})
    names = set[str]()
    thumbnail = inspection.thumbnail

    def noted(image: Image.Image) -> np.ndarray:
        names.add(threading.current_thread().name)
        return thumbnail(image)

    monkeypatch.setattr(inspection, "thumbnail", noted)
    section = layouts.section("folder", tmp_path, validation_fraction=0.2, near_duplicates_together=True)
    load_dataset(section)
    assert names
    assert threading.current_thread().name not in names
    # Nothing is searched for where nothing is trained on.
    nothing = load_dataset(section.model_copy(update={"train_splits": (), "test_split": "train"}))
    assert (len(nothing.train), nothing.validation) == (0, None)


def test_near_duplicates_are_on_one_side_if_asked_for(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 12, "sad": 12})
    for name in ("happy", "sad"):
        for number in range(0, 12, 2):
            original = Image.open(tmp_path / name / f"{number:03d}.png").resize((48, 48))
            changed = ImageOps.mirror(original) if number % 4 else ImageEnhance.Brightness(original).enhance(0.7)
            changed.save(tmp_path / name / f"{number:03d}_copy.png")

    def separated(seed: int, **changes: bool) -> int:
        """Copies that are not on the side of their original."""
        dataset = load_dataset(
            layouts.section("folder", tmp_path, validation_fraction=0.2, test_fraction=0.2, split_seed=seed, **changes)
        )
        parts = [set(split.names.tolist()) for split in (dataset.train, *dataset.held_out)]
        assert [len(part) for part in parts[1:]] == pytest.approx([8, 8], abs=2)
        copies = [name for part in parts for name in part if "copy" in name]
        assert len(copies) == 12
        assert ("near-duplicates are on one side" in dataset.description) == bool(changes)
        return sum(not any({name, name.replace("_copy", "")} <= part for part in parts) for name in copies)

    assert [separated(seed, near_duplicates_together=True) for seed in range(5)] == [0] * 5
    assert all(separated(seed) for seed in range(5))
    (stored,) = tmp_path.rglob("near_duplicates-*.npy")
    np.save(stored, np.arange(36, dtype=np.int32), allow_pickle=False)  # no pairs: it is read, not searched for again
    assert all(separated(seed, near_duplicates_together=True) for seed in range(5))
    np.save(stored, np.arange(35, dtype=np.int32), allow_pickle=False)
    with pytest.raises(DataError, match=r"near_duplicates-\w+\.npy holds groups of \[35\] images, expected \[36\]"):
        separated(0, near_duplicates_together=True)
    stored.write_bytes(stored.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"near_duplicates-\w+\.npy is damaged .*; delete it"):
        separated(0, near_duplicates_together=True)


def test_without_training_images_no_near_duplicates_are_searched_for(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "test", {"happy": 2, "sad": 2})
    changes = {"train_splits": (), "test_split": "test", "validation_fraction": 0.1, "near_duplicates_together": True}
    dataset = load_dataset(layouts.section("folder", tmp_path, **changes))
    assert [(split.name, len(split)) for split in (dataset.train, *dataset.held_out)] == [("train", 0), ("test", 4)]
