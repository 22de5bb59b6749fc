"""RAF-DB in the forms that are in use: class folders, CUB's lists, realigned copies, and the owners' annotations."""

from pathlib import Path

import pytest

from mpafer_jax.data import check
from mpafer_jax.data.readers import rafdb
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.faces import alignment
from mpafer_jax.runtime.errors import ConfigError, DataError
from tests.data import layouts

# All labels, so that copies of class folders have all folders.
RAF = {f"train_{number:05d}.jpg": 1 + number % 7 for number in range(1, 22)}
RAF |= {f"test_{number:04d}.jpg": 1 + 2 * number % 7 for number in range(1, 8)}


def found(index: SourceIndex) -> dict[str, list[tuple[str, str]]]:
    return {s: [(r.name, index.class_names[r.label]) for r in listed] for s, listed in index.splits.items()}


@pytest.fixture
def owners(tmp_path: Path) -> SourceIndex:
    layouts.write_rafdb(tmp_path / "owners", RAF)
    return rafdb.read(tmp_path / "owners")


@pytest.mark.parametrize("inside", ["", "DATASET"])
@pytest.mark.parametrize("splits", [("train", "test"), ("train_set", "val_set"), ("train", "val")])
def test_class_folders_are_read_as_the_owners_release(tmp_path, owners, inside, splits) -> None:
    layouts.write_rafdb_folders(tmp_path, RAF, splits)
    index = rafdb.read(tmp_path / inside)
    assert found(index) == found(owners)
    assert (index.class_names, index.source_labels) == (rafdb.CLASS_NAMES, tuple("1234567"))
    assert index.fingerprint() == owners.fingerprint()  # the images of both are the same files
    assert [("is read as the test split" in warning) for warning in index.warnings] == [True] * (splits[1] != "test")


def test_tables_that_contradict_the_folders(tmp_path: Path) -> None:
    layouts.write_rafdb_folders(tmp_path, RAF)
    table = tmp_path / "train_labels.csv"
    table.write_text(table.read_text().replace("train_00003_aligned.jpg,4", "train_00003_aligned.jpg,5"))
    with pytest.raises(
        DataError, match=r"train_labels\.csv contradict each other for 1 of 28 images, first train_00003"
    ):
        rafdb.read(tmp_path)
    table.write_text("image,label\ntrain_00003_aligned.jpg,happy\n")
    with pytest.raises(
        DataError, match=r"train_labels\.csv line 2: found .*, expected an image and a label from 1 to 7"
    ):
        rafdb.read(tmp_path)


def test_class_folders_of_other_copies_are_refused(tmp_path: Path) -> None:
    layouts.write_rafdb_folders(tmp_path / "a", RAF, tables=False)
    (tmp_path / "a" / "DATASET" / "train" / "7").rename(tmp_path / "a" / "DATASET" / "train" / "8")
    with pytest.raises(
        DataError, match=r"class folders are 1, 2, 3, 4, 5, 6, 7, 8, expected 1 to 7 in .* configs/folder"
    ):
        rafdb.read(tmp_path / "a")
    layouts.write_rafdb_folders(tmp_path / "b", RAF, tables=False)
    (tmp_path / "b" / "DATASET" / "train" / "2" / "train_00001_aligned.jpg").rename(
        tmp_path / "b" / "DATASET" / "test" / "2" / "train_00001_aligned.jpg"
    )
    with pytest.raises(DataError, match=r"1 of 28 images are not in the split that their name says \(first train_0"):
        rafdb.read(tmp_path / "b")
    layouts.write_rafdb_folders(tmp_path / "c", RAF, tables=False)
    layouts.save(tmp_path / "c" / "DATASET" / "train" / "3" / "train_00001_aligned.jpg", layouts.image(0))
    with pytest.raises(DataError, match=r"1 images lie in two class folders"):
        rafdb.read(tmp_path / "c")


def test_two_forms_in_one_folder_are_not_chosen_between(tmp_path: Path) -> None:
    layouts.write_rafdb_folders(tmp_path, RAF)
    layouts.write_rafdb(tmp_path, RAF)
    with pytest.raises(
        DataError, match=r"holds lists of labels \(.*\) and class folders \(.*DATASET\): set config.data"
    ):
        rafdb.read(tmp_path)
    assert len(rafdb.read(tmp_path / "DATASET").splits["train"]) == 21


@pytest.mark.parametrize("place", ["", "EmoLabel"])
def test_lists_of_cubs_form(tmp_path, owners, place) -> None:
    layouts.write_rafdb(tmp_path / "basic", RAF)
    (tmp_path / "basic" / "EmoLabel" / "list_patition_label.txt").unlink()
    layouts.write_rafdb_cub(tmp_path / "basic" / place, RAF)
    assert found(rafdb.read(tmp_path)) == found(owners)


def test_lists_of_cubs_form_are_checked(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, RAF)
    layouts.write_rafdb_cub(tmp_path, RAF | {"train_00002.jpg": 7, "train_00003.jpg": 1})
    with pytest.raises(DataError, match=r"contradict each other for 2 of 28 images, first train_00002.jpg: 3 in train"):
        rafdb.read(tmp_path)
    (tmp_path / "EmoLabel" / "list_patition_label.txt").unlink()
    splits = tmp_path / "train_test_split.txt"
    splits.write_text(splits.read_text().replace("28 0\n", "28 1\n"))
    with pytest.raises(
        DataError, match=r"split\.txt: 1 of 28 images are not in the split that .* test_0007\.jpg in train"
    ):
        rafdb.read(tmp_path)
    splits.write_text("1 1\n2 yes\n")
    with pytest.raises(DataError, match=r"do not list the same images"):
        rafdb.read(tmp_path)
    (tmp_path / "image_class_labels.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"image_class_labels\.txt line 1: found '1 2 3'"):
        rafdb.read(tmp_path)


@pytest.mark.parametrize("suffix", ["_aligned.jpg", ".jpg"])
def test_a_realigned_copy(tmp_path: Path, suffix: str) -> None:
    layouts.write_rafdb(tmp_path, RAF)
    for name in RAF:
        layouts.save(tmp_path / "Image" / "aligned_224" / f"{Path(name).stem}{suffix}", layouts.image(9, 224, 224))
    with pytest.raises(
        DataError, match=r"aligned_224, two crops of the same faces: choose one with --config\.data\.al"
    ):
        rafdb.read(tmp_path)
    realigned = rafdb.read(tmp_path, "aligned_224")
    assert realigned.splits["train"][0].image.place.endswith(f"aligned_224/train_00001{suffix}")
    assert "aligned_224" in realigned.crop
    assert rafdb.read(tmp_path, "owner").crop == ""
    (tmp_path / "Image" / "aligned").rename(tmp_path / "Image" / "elsewhere")
    assert found(rafdb.read(tmp_path)) == found(realigned)
    with pytest.raises(DataError, match="Image/aligned is not there"):
        rafdb.read(tmp_path, "owner")


def annotate(root: Path) -> None:
    for number, name in enumerate(RAF):
        layouts.write_rafdb_annotation(root, name, (number % 3, number % 2, number % 5))


def test_attributes(tmp_path: Path, owners: SourceIndex) -> None:
    root = tmp_path / "owners"
    annotate(root)
    index = rafdb.read(root)
    assert index.fingerprint() == owners.fingerprint()  # what is prepared of the images stays valid
    assert [record.attributes for record in index.splits["train"][1:3]] == [
        {"gender": "female", "race": "African-American", "age": "4-19"},
        {"gender": "unsure", "race": "Caucasian", "age": "20-39"},
    ]
    (root / "Annotation" / "manual" / "test_0007_manu_attri.txt").unlink()
    index = rafdb.read(root)
    assert index.splits["test"][-1].attributes == {}
    assert "1 of 28 images have no file in" in index.warnings[0]


@pytest.mark.parametrize(
    "change", [("\n0\n", "\n7\n"), ("\n0\n", "\n-1\n"), ("40.000", "left"), ("\n0\n0\n0\n", "\n0\n")]
)
def test_bad_annotations_are_named(tmp_path: Path, owners: SourceIndex, change: tuple[str, str]) -> None:
    annotate(tmp_path / "owners")
    path = tmp_path / "owners" / "Annotation" / "manual" / "train_00001_manu_attri.txt"
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(
        DataError, match=r"train_00001_manu_attri\.txt: expected 5 lines 'x y' and the numbers of gender"
    ):
        rafdb.read(tmp_path / "owners")


def test_faces_are_cropped_by_their_landmarks(tmp_path: Path, owners: SourceIndex) -> None:
    root = tmp_path / "owners"
    with pytest.raises(DataError, match="Image/original is not there"):
        rafdb.read(root, "landmarks")
    annotate(root)
    index = rafdb.read(root, "landmarks")
    assert (index.crop, index.expected_size) == (alignment.describe_crop(), (224, 224))
    assert index.fingerprint() != owners.fingerprint()
    (root / "Annotation" / "manual" / "train_00004_manu_attri.txt").unlink()
    with pytest.raises(DataError, match=r"train_00004_manu_attri\.txt and others, 1 of which are missing"):
        rafdb.read(root, "landmarks")


def test_attributes_and_crop_reach_the_splits(tmp_path: Path, owners: SourceIndex) -> None:
    annotate(tmp_path / "owners")
    section = layouts.section(
        "rafdb", tmp_path / "owners", align="landmarks", validation_fraction=0.3, test_split="test"
    )
    dataset = load_dataset(section)
    assert dataset.validation is not None
    assert f"faces cropped: {alignment.describe_crop()}" in dataset.description
    genders = {name: ("male", "female", "unsure")[number % 3] for number, name in enumerate(RAF)}
    for split in (dataset.train, *dataset.held_out):
        assert split.attributes["gender"].tolist() == [genders[name] for name in split.names.tolist()]
        assert list(split.attributes) == ["gender", "race", "age"]
    few = dataset.train.take(dataset.train.labels.argsort()[:3])
    assert few.attributes["gender"].tolist() == [genders[name] for name in few.names.tolist()]


def test_a_check_counts_attributes_and_names_the_crop(tmp_path: Path, owners: SourceIndex) -> None:
    annotate(tmp_path / "owners")
    lines = check.check(layouts.section("rafdb", tmp_path / "owners", align="landmarks", test_split="test")).lines
    assert f"faces cropped: {alignment.describe_crop()}" in lines
    # Numbers 21 to 27 modulo 3 and 5.
    assert "  gender in test: female 2, male 3, unsure 2" in lines
    assert "  age in test: 0-3 1, 4-19 2, 20-39 2, 40-69 1, 70+ 1" in lines


def test_images_are_selected_by_attributes(tmp_path: Path, owners: SourceIndex) -> None:
    annotate(tmp_path / "owners")
    index = read_source(layouts.section("rafdb", tmp_path / "owners", where=("gender=female", "age=4-19|70+")))
    genders = [record.attributes["gender"] for records in index.splits.values() for record in records]
    assert set(genders) == {"female"}
    assert index.dropped["train"]["not gender=female"] == 14


def test_alignment_goes_with_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.data\.align is 'landmarks', which does not go with dataset 'folder'"
    ):
        read_source(layouts.section("folder", tmp_path, align="landmarks"))
    layouts.write_rafdb_folders(tmp_path, RAF)
    with pytest.raises(DataError, match=r"the class folders of .* have one crop alone"):
        read_source(layouts.section("rafdb", tmp_path, align="landmarks"))
