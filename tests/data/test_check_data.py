"""`data check` on sound, broken and duplicated data; the real FERPlus images where they are."""

import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.cli import data
from mpafer_jax.data import protocols
from mpafer_jax.data.check import check as check_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts
from tests.jobs import runs


def check(dataset: str, directory: Path, **changes: Any) -> tuple[str, str]:
    report = check_dataset(layouts.section(dataset, directory, **changes))
    return "\n".join(report.lines), "\n".join(report.attention)


def test_left_over_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        data.check(["data"])
    assert "unknown arguments: data" in capsys.readouterr().err


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_sound_dataset(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"Happy": 3, "Sad": 1})
    layouts.write_folders(tmp_path / "test", {"Sad": 2}, first_seed=9)
    text, attention = check("folder", tmp_path, test_split="test")
    assert attention == ""
    assert ["0", "Happy", "(Happy)", "3", "(75.00%)", "0", "(", "0.00%)"] in rows(text)
    assert ["1", "Sad", "(Sad)", "1", "(25.00%)", "2", "(100.00%)"] in rows(text)
    assert "majority rate of train: 75.00% (Happy)" in text
    assert "train: 12x12: 4" in text
    assert "unreadable images: 0" in text
    assert "test images that are also in train: 0" in text
    assert not (tmp_path / "mpafer_tfds").exists()  # a check writes nothing


def test_all_broken_images_are_listed(tmp_path: Path) -> None:
    labels = {f"train_{i:05d}.jpg": 1 + i % 7 for i in range(1, 15)}
    layouts.write_rafdb(tmp_path, labels)
    images = tmp_path / "Image" / "aligned"
    (images / "train_00002_aligned.jpg").unlink()
    (images / "train_00005_aligned.jpg").write_bytes(b"")
    data = (images / "train_00009_aligned.jpg").read_bytes()
    (images / "train_00009_aligned.jpg").write_bytes(data[:-500])
    layouts.save(images / "train_00011_aligned.jpg", layouts.image(1, 64, 64))
    text, attention = check("rafdb", tmp_path)
    for number in ("00002", "00005", "00009"):
        assert f"train: {images}/train_{number}_aligned.jpg: " in text
    assert "unreadable images: 3" in text
    assert "3 images that cannot be read" in attention
    assert "1 image not 100x100 as in the owner's release (train/train_00011.jpg)" in attention


def test_duplicates_and_conflicts(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 2, "sad": 2})
    shutil.copy(tmp_path / "train" / "happy" / "000.png", tmp_path / "train" / "happy" / "copy.png")
    # The same pixels in another format are the same image.
    layouts.save(tmp_path / "train" / "sad" / "same.bmp", layouts.image(1))
    layouts.write_folders(tmp_path / "test", {"sad": 1, "happy": 1}, first_seed=2)
    text, attention = check("folder", tmp_path, test_split="test")
    assert (
        "within train: 2 (train/happy/000.png = train/happy/copy.png, train/happy/001.png = train/sad/same.bmp)" in text
    )
    assert "1 image with different labels within train (train/happy/001.png (happy) = train/sad/same.bmp" in attention
    # Seeds 2 and 3 are train's two sad images; in test one of them is happy.
    assert "test images that are also in train: 2" in text
    assert "2 of them with a label on both sides" in text
    assert "1 image with different labels (train/sad/001.png (sad) = test/happy/000.png (happy))" in text
    assert "2 images of test also in train" in attention


def test_near_duplicates_and_conflicts(tmp_path: Path) -> None:
    smooth = [layouts.image(seed).resize((64, 64)) for seed in range(4)]
    mirrored = smooth[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layouts.save(tmp_path / "train" / "happy" / "0.png", smooth[0])
    layouts.save(tmp_path / "train" / "happy" / "1.png", smooth[1])
    layouts.save(tmp_path / "train" / "sad" / "1.jpg", smooth[1])
    layouts.save(tmp_path / "train" / "sad" / "2.png", smooth[2])
    layouts.save(tmp_path / "test" / "sad" / "3.png", smooth[3])
    layouts.save(tmp_path / "test" / "happy" / "0.webp", mirrored.resize((50, 50)))
    data = layouts.section("folder", tmp_path, test_split="test")
    report = check_dataset(data)
    text = "\n".join(report.lines)
    assert "within train: 0" in text  # equal in all pixels
    assert "  within train: 1 (train/happy/1.png ~ train/sad/1.jpg)" in text
    assert "  test images that nearly equal one of train: 1 (train/happy/0.png ~ mirrored test/happy/0.webp)" in text
    assert "  within test: 0 \n" in text
    assert report.attention == (
        "near-duplicates with different labels within train: 1 (train/happy/1.png (happy) ~ train/sad/1.jpg (sad))",
        "1 image of test nearly equal to one of train",
    )
    # Those across splits come first.
    assert [first.caption for first, _ in report.pairs] == ["train/happy/0.png (happy)", "train/happy/1.png (happy)"]
    done = command(
        "--config=configs/folder.py", f"--config.data.dir={tmp_path}", f"--pairs={tmp_path / 'out' / 'pairs.png'}"
    )
    assert done.code == 1
    with Image.open(tmp_path / "out" / "pairs.png") as sheet:
        shown = np.asarray(sheet.crop((0, 0, 96, 96)), np.int16)
    assert np.abs(shown - np.asarray(smooth[0].resize((96, 96), Image.Resampling.BICUBIC), np.int16)).max() <= 1


def test_a_known_protocol_and_a_copy_that_is_none(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 4, "sad": 2})
    layouts.write_folders(tmp_path / "test", {"happy": 2, "sad": 1}, first_seed=9)
    counts = {"train": {"happiness": 4, "sadness": 2}, "test": {"happiness": 2, "sadness": 1}}
    known = protocols.Known("Ours", counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "KNOWN", (known,))
        text, attention = check("folder", tmp_path, test_split="test")
        assert "\nprotocol: Ours, its owners' splits (train 6, test 3)\n" in text
        assert attention == ""
        layouts.write_folders(tmp_path / "train", {"happy": 6}, first_seed=20)
        text, attention = check("folder", tmp_path, test_split="test")
        assert "protocol: test is the test split of Ours, but train 8 is none of its splits: an augmented or" in text
        assert attention.startswith("protocol: test is the test split of Ours, but train 8")


def test_splits_and_classes_that_are_not_there(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 1})
    layouts.write_folders(tmp_path / "test", {"sad": 1}, first_seed=5)
    _, attention = check("folder", tmp_path, validation_split="validation", test_split="test")
    assert (
        f"folder has no split 'validation' here; looked for the folder {tmp_path / 'validation'}. Splits that are "
        "here: train (1), test (1). To take 10% of train instead, add\n"
        "  --config.data.validation_split= --config.data.validation_fraction=0.1\n"
    ) in attention
    assert "classes without a training image: sad" in attention


def test_a_list_that_restricts_the_test_is_looked_at(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 2, "sad": 1})
    layouts.write_folders(tmp_path / "test", {"happy": 1, "sad": 1}, first_seed=5)
    listed = tmp_path / "part.txt"
    changes = {"test_split": "test", "test_subset": str(listed)}
    _, attention = check("folder", tmp_path, **changes)
    assert f"config.data.test_subset: {listed} cannot be read as a list of names" in attention
    listed.write_text("happy/000.png\nfear/000.png\n")
    _, attention = check("folder", tmp_path, **changes)
    assert f"config.data.test_subset: 1 of the 2 lines of {listed} name no image of the test split" in attention
    listed.write_text("happy/000.png\n")
    _, attention = check("folder", tmp_path, **changes)
    assert attention == ""
    _, attention = check("folder", tmp_path / "train", **changes)
    assert attention.startswith("folder has no split 'test' here")


def test_what_is_left_out_needs_attention(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 3, "sad": 1, "sad/anna": 2, "sad/anna/old": 1, "sad/bob": 4})
    layouts.write_folders(tmp_path / "test", {"happy": 1}, first_seed=50)
    layouts.write_folders(tmp_path / "more", {"happy": 2}, first_seed=60)
    layouts.save(tmp_path / "train" / "beside.png", layouts.image(70))
    for name in ("IMG_1.HEIC", "notes", "Thumbs.db", ".hidden.png"):
        (tmp_path / "train" / "happy" / name).write_text("x")
    text, attention = check("folder", tmp_path, test_split="test")
    assert attention.splitlines() == [
        f"{tmp_path}: 2 images in more, which is no split (train, validation, test), are not read",
        "left out of train: 1 image beside the class folders, in none of them",
        "left out of train: 1 no image (.HEIC)",
        "left out of train: 1 no image (no suffix)",
        "left out of train: 7 image in a folder inside a class folder",
    ]
    assert "dropped from train: 1 no image (.db)" in text
    # Class choice is the user's own.
    _, chosen = check("folder", tmp_path / "test", class_names=("happy",))
    assert chosen == ""


def test_numbered_folders_that_have_names_need_no_attention(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"1": 2, "4": 2, "7": 2})
    _, attention = check("folder", tmp_path, class_names=("happiness=4", "surprise=1"))
    assert attention == ""
    _, attention = check("folder", tmp_path, class_names=("happiness=4", "7"))
    assert "class folders 7 are numbers" in attention


def test_class_folders_without_a_test_split_get_one(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 10, "sad": 5})
    text, attention = check("folder", tmp_path, test_split="test")
    assert attention == ""
    assert "there is no test split: 20% of train are split off, class by class, seed 0 (as --config.data." in text


@pytest.mark.skipif(sys.platform == "darwin", reason="this file system takes UTF-8 names only")
def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 2, "sad": 1})
    strange = os.fsdecode(os.fsencode(tmp_path / "train" / "happy") + b"/caf\xe9.png")
    Path(strange).write_text("no image")
    text, attention = check("folder", tmp_path)
    assert "1 image that cannot be read" in attention
    assert "caf\udce9.png: cannot be read as an image" in text
    Path(strange).parent.rename(os.fsdecode(os.fsencode(tmp_path / "train") + b"/tr\xe8s"))
    with pytest.raises(DataError, match=r"the class folder 'tr\\udce8s' is not called in UTF-8; rename it"):
        check("folder", tmp_path)


def test_images_without_a_label_count_among_duplicates(tmp_path: Path) -> None:
    clear, unknown = (9, 0, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0, 9, 0)
    layouts.write_label_csv(tmp_path / "FER2013Train", {"fer0000000.png": clear, "fer0000001.png": unknown})
    layouts.write_label_csv(tmp_path / "FER2013Valid", {"fer0000005.png": clear}, first_seed=1)
    text, _ = check("ferplus", tmp_path)
    assert "validation images that are also in train: 1 (validation/fer0000005.png)" in text
    assert "0 of them with a label on both sides" in text


def test_persons_are_counted(tmp_path: Path) -> None:
    layouts.write_jaffe(tmp_path, ["KA.AN1.39", "KA.HA1.29", "YM.AN1.61"])
    text, _ = check("jaffe", tmp_path)
    assert "train shows 2 persons" in text


def command(*arguments: str) -> runs.Done:
    return runs.call("data check", *arguments)


def test_the_command(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 2, "sad": 1})
    layouts.write_folders(tmp_path / "test", {"happy": 1}, first_seed=5)
    good = command("--config=configs/folder.py", f"--config.data.dir={tmp_path}", f"--pairs={tmp_path / 'pairs.png'}")
    assert good.code == 0
    assert not (tmp_path / "pairs.png").exists()
    assert all("opening " in line or "comparing" in line for line in good.err.splitlines())
    assert good.out.startswith(f"no near-duplicates, so {tmp_path / 'pairs.png'} is not written\n")
    assert good.out.endswith("nothing needs attention\n")
    (tmp_path / "test" / "happy" / "000.png").write_text("no image")
    bad = command("--config=configs/folder.py", f"--config.data.dir={tmp_path}")
    assert bad.code == 1
    assert all("opening " in line or "comparing" in line for line in bad.err.splitlines())
    assert bad.out.endswith("needs attention:\n  1 image that cannot be read (listed above)\n")
    layouts.write_folders(tmp_path / "train", {"calm": 1, "boredom": 1}, first_seed=9)
    bad = command("--config=configs/folder.py", f"--config.data.dir={tmp_path}")
    assert "the description bank 'expressions' has no class 'boredom', 'calm'; it has neutral" in bad.out
    absent = command("--config=configs/rafdb.py", f"--config.data.dir={tmp_path}")
    assert (absent.code, absent.out) == (2, "")
    assert "list_patition_label.txt is not there." in absent.err


@pytest.mark.slow
@pytest.mark.skipif(not (layouts.FERPLUS / "unpack.py").is_file(), reason="needs FERPlus; set MPAFER_FERPLUS_DIR")
def test_real_ferplus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unpack.py", str(tmp_path)])
    runpy.run_path(str(layouts.FERPLUS / "unpack.py"), run_name="__main__")
    text, attention = check("ferplus", tmp_path, validation_split="validation")
    assert "validation images that are also in train: 279" in text
    assert "279 images of validation also in train" in attention
    assert "train: 48x48: 28558" in text
    assert "unreadable images: 0" in text
