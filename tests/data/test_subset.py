"""Lists that restrict the test: every form that is in use, and what is said of lists that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from mpafer_jax.data import subset
from mpafer_jax.data.splits import Dataset, load_dataset
from mpafer_jax.runtime.errors import ConfigError, DataError
from tests.data import layouts
from tests.golden import cases

HASHES = [f"{number:056x}" for number in (7, 8, 9)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def select(tmp_path: Path, names: list[str], *lines: str, left_out: tuple[str, ...] = ()) -> tuple[list[int], int]:
    kept, absent = subset.select(write(tmp_path / "list.txt", *lines), names, left_out)
    return kept.tolist(), absent


RAF = ["test_0001.jpg", "test_0003.jpg", "test_0004.jpg"]
AFFECTNET = [f"{number}/{name}.jpg" for number, name in enumerate(HASHES)]
FERPLUS = ["fer0032226.png", "fer0034656.png"]


@pytest.mark.parametrize(
    ("names", "line", "expected"),
    [
        (RAF, "test_0003_aligned 3 4", 1),
        (RAF, "0/test_0004_aligned.jpg", 2),
        (RAF, "test_0001.jpg", 0),
        (AFFECTNET, f"val/0/{HASHES[1]}/", 1),
        (AFFECTNET, f"0/{HASHES[2]}.jpg", 2),
        (AFFECTNET, f"7/{HASHES[0]}/8.jpg", 0),
        (FERPLUS, "1_fer0034656.png 8 0", 1),
        (FERPLUS, "0/fer0032226.jpg", 0),
        (["happy/000.png", "sad/000.png"], "sad/000.png", 1),
        (["a b/c d.png", "a b/e.png"], "a b/c d.png", 0),
        (["happy/000.png", "sad/001.png"], "001.png", 1),
        (["happy/000.png", "sad/001.png"], "sad/001", 1),
        (["happy/000.png", "sad/001.png"], "sad\\001.png 4", 1),
        (["KA.AN1.39.tiff", "KA.AN1.3.tiff"], "KA.AN1.39", 0),
        (["happy/photo.jpg", "happy/photo (1).jpg"], "photo (1).jpg", 1),
        (["happy/photo.jpg", "happy/photo (1).jpg"], "happy/photo (1)", 1),
        (["happy/photo.jpg", "happy/photo (1).jpg"], "photo (1)", 1),
        (["happy/my face 1.png", "sad/my.png"], "my face 1.png", 0),
        (["happy/my face 1.png", "sad/my.png"], "my.png face", 1),
    ],
)
def test_every_form_of_a_line(tmp_path: Path, names: list[str], line: str, expected: int) -> None:
    assert select(tmp_path, names, line) == ([expected], 0)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["happiness/2_anna.jpg", "anger/3_bob.jpg"], "1_anna.jpg"),
        (["happiness/img_1.jpg", "anger/img_2.jpg"], "anger/img_1.jpg"),
        (["happiness/img_1.jpg", "anger/img_2.jpg"], "0/img_1.jpg"),
        (["happiness/img_1.jpg", "anger/img_2.jpg"], "happiness/img_1.png"),
        (["happiness/img_1.jpg", "anger/img_2.jpg"], "happiness/img_1_aligned.jpg"),
        (["8.jpg", "9.jpg"], "train/8.jpg"),
        (["happy/photo.jpg", "happy/photo (1).jpg"], "photo (2).jpg"),
        (["happy/photo.jpg", "happy/photo (1).jpg"], "photo (2)"),
        (["a/img.jpg", "a/img.png"], "a/img"),
        (RAF, "0/train_0004_aligned.jpg"),
    ],
)
def test_an_image_that_is_not_listed_is_not_taken(tmp_path: Path, names: list[str], line: str) -> None:
    with pytest.raises(DataError, match="1 of the 1 lines of"):
        select(tmp_path, names, line)


def test_order_repetitions_and_images_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ("test_0004_aligned 3 4", "", "test_0001_aligned 3 4", "test_0009_aligned 1 1", "0/test_0004_aligned.jpg")
    assert select(tmp_path, RAF, *lines, left_out=("test_0009.jpg",)) == ([0, 2], 1)
    with caplog.at_level("INFO", logger="absl"):
        select(tmp_path, RAF, "test_0001.jpg", "test_0003_aligned 3 4", "0/test_0004_aligned.jpg")
    assert "2 of the 3 lines of" in caplog.text
    assert "the first is 'test_0003_aligned 3 4' for 'test_0003.jpg'" in caplog.text


def test_names_that_are_not_there_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of the 3 lines of .*list\.txt name no .* the first is 'test_0007_aligned"):
        select(tmp_path, RAF, "test_0001_aligned 1 1", "test_0007_aligned 1 1", "test_0008_aligned 1 1")
    # The crop's number is no name: the newer release of AffectNet numbers its images.
    with pytest.raises(DataError, match="1 of the 1 lines"):
        select(tmp_path, ["8.jpg", "9.jpg"], f"7/{HASHES[0]}/8.jpg")
    with pytest.raises(DataError, match="or several"):
        select(tmp_path, ["happy/000.png", "sad/000.png"], "000.png")
    with pytest.raises(DataError, match=r"all of the 1 images that .* names are left out"):
        select(tmp_path, RAF, "test_0009.jpg", left_out=("test_0009.jpg",))


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt cannot be read as a list of names"):
        subset.read_list(tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="is empty, expected a name"):
        subset.read_list(write(tmp_path / "list.txt", "", " "))
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match=r"image\.txt cannot be read as a list of names"):
        subset.read_list(tmp_path / "image.txt")


def load(root: Path, **changes: object) -> Dataset:
    return load_dataset(layouts.section("rafdb", root, test_split="test", **changes))


def test_the_test_is_restricted_and_nothing_else(tmp_path: Path) -> None:
    labels = {f"train_{number:05d}.jpg": 1 + number % 2 for number in range(6)}
    labels |= {f"test_{number:04d}.jpg": 1 + number % 3 for number in range(6)}
    layouts.write_rafdb(tmp_path, labels)
    path = write(tmp_path / "occlusion.txt", "test_0005_aligned 2 1", "test_0001_aligned 1 3", "test_0002_aligned 2 3")
    whole, part = load(tmp_path), load(tmp_path, test_subset=str(path))
    assert whole.test is not None
    assert part.test is not None
    assert part.test.names.tolist() == ["test_0001.jpg", "test_0002.jpg", "test_0005.jpg"]
    np.testing.assert_array_equal(part.test.labels, whole.test.labels[[1, 2, 5]])
    assert part.test.source[2] == whole.test.source[5]
    assert part.train.fingerprint == whole.train.fingerprint
    assert part.test.fingerprint != whole.test.fingerprint
    assert "test: restricted to occlusion.txt, 3 of 6 images\n" in part.description + "\n"
    two = load(tmp_path, test_subset=str(path), class_names=("surprise", "fear"))
    assert two.test is not None
    assert two.test.names.tolist() == ["test_0001.jpg"]
    assert "restricted to occlusion.txt, 1 of 4 images; 2 others that it lists are left out" in two.description


def test_a_list_that_does_not_fit_is_refused_before_images_are_prepared(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, {"train_00001.jpg": 1, "train_00002.jpg": 2, "test_0001.jpg": 1, "test_0002.jpg": 2})
    path = write(tmp_path / "list.txt", "test_0003_aligned 1 1")
    with pytest.raises(DataError, match="1 of the 1 lines of"):
        load(tmp_path, test_subset=str(path))
    assert not (tmp_path / "mpafer_tfds").exists()
    write(path, "test_0001.jpg", "test_0002.jpg")
    (tmp_path / "Image" / "aligned" / "test_0001_aligned.jpg").write_text("no image")
    part = load(tmp_path, test_subset=str(path), on_bad_image="skip")
    assert part.test is not None
    assert part.test.names.tolist() == ["test_0002.jpg"]
    assert "restricted to list.txt, 1 of 1 images; 1 others that it lists are left out" in part.description
    write(path, "test_0001.jpg")
    with pytest.raises(DataError, match=r"none of the 1 images that .*list\.txt names can be read"):
        load(tmp_path, test_subset=str(path), on_bad_image="skip")


def test_a_subset_of_no_split_is_refused() -> None:
    changes = {"data.test_subset": "list.txt", "data.test_split": "", "data.test_fraction": 0.1}
    with pytest.raises(ConfigError, match=r"test_subset 'list\.txt' restricts the split of test_split, which is empty"):
        cases.build("rafdb", **changes)
