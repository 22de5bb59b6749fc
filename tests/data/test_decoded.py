"""The decoded copy: the same batches with and without it, made once, whole or not at all, mapped and not copied."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data import decoded_cache, pipeline, preprocess
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, some of them grey."""
    root = tmp_path_factory.mktemp("folders")
    for number in range(20):
        mode = "L" if number % 3 == 0 else "RGB"
        image = layouts.image(number, 9 + number % 4, 11 + number % 3, mode)
        layouts.save(root / "train" / f"class{number % 2}" / f"{number}.png", image)
        layouts.save(root / "test" / f"class{number % 2}" / f"{number}.jpg", image)
    return root


def load(folders: Path, **changes: Any) -> tuple[Split, Split]:
    section = layouts.section("folder", folders, test_split="test", **changes)
    dataset = load_dataset(section)
    assert dataset.test is not None
    return dataset.train, dataset.test


def streams(folders: Path, **changes: Any) -> list[pipeline.Batch]:
    train, test = load(folders, **changes)
    section = layouts.section("folder", folders, augment=layouts.STRONG_AUGMENT, **changes)
    batches = pipeline.train_batches(
        train, section=section, image_size=16, batch_size=6, seed=3, start_step=0, num_steps=8
    )
    return [*batches, *pipeline.eval_batches(test, section=section, image_size=16, batch_size=6)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_the_same_with_and_without(folders: Path, num_workers: int) -> None:
    for with_it, without in zip(
        streams(folders, cache_decoded=True, num_workers=num_workers), streams(folders), strict=True
    ):
        for name, value in without.items():
            np.testing.assert_array_equal(with_it[name], value)


def test_every_image_is_kept_as_it_is_decoded(folders: Path) -> None:
    train, _ = load(folders, cache_decoded=True)
    chosen = train.take(np.array([17, 3, 0]))
    for index in range(3):
        kept, expected = chosen.source.image(index), preprocess.decode(chosen.source[index])
        assert kept.mode == expected.mode
        np.testing.assert_array_equal(kept, expected)
    assert {train.source.image(index).mode for index in range(20)} == {"L", "RGB"}


def test_a_worker_is_sent_the_name_and_not_the_images(folders: Path) -> None:
    train, _ = load(folders, cache_decoded=True)
    train.source.image(0)  # mapped here
    assert len(pickle.dumps(train.source.decoded)) < 400


@pytest.mark.parametrize("name", ["pixels.bin", "images.npz"])
def test_a_damaged_copy_is_named_and_can_be_deleted(name: str, tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"angry": 3, "happy": 3})
    section = layouts.section("folder", tmp_path, cache_decoded=True)
    load_dataset(section)
    (path,) = tmp_path.glob(f"mpafer_tfds/**/{name}")
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:-5]), path.unlink):
        damage()
        message = rf"{path.parent} is damaged or was copied in part \(.*\); delete it, and the images are decoded again"
        with pytest.raises(DataError, match=message):
            load_dataset(section).train.source.image(0)
    shutil.rmtree(path.parent)
    load_dataset(section).train.source.image(0)


def test_nothing_is_decoded_twice(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folders, cache_decoded=True)

    def refuse(data: bytes) -> Image.Image:
        raise AssertionError

    monkeypatch.setattr(decoded_cache, "decode", refuse)
    monkeypatch.setattr(preprocess, "decode", refuse)
    assert len(streams(folders, cache_decoded=True)) == 8 + 4


@pytest.mark.processes
def test_several_processes_decode_once(folders: Path, tmp_path: Path) -> None:
    load(folders, prepared_dir=str(tmp_path))  # prepared, not decoded
    program = """
import sys
from tests.data import layouts
from mpafer_jax.runtime import console
from mpafer_jax.data.splits import load_dataset
with console.Console():
    dataset = load_dataset(layouts.section("folder", sys.argv[1], prepared_dir=sys.argv[2], cache_decoded=True))
print(sum(sum(dataset.train.source.image(i).getdata(0)) for i in range(20)))
"""
    command = [sys.executable, "-c", program, str(folders), str(tmp_path)]
    running = [
        subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert sum(err.count("decoding train: 0/20 images") for _, err in results) == 1


def test_what_was_interrupted_is_made_anew(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"prepared_dir": str(tmp_path), "cache_decoded": True}
    real, calls = decoded_cache.decode, []

    def break_off(data: bytes) -> Image.Image:
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return real(data)

    monkeypatch.setattr(decoded_cache, "decode", break_off)
    with pytest.raises(KeyboardInterrupt):
        load(folders, **changes)
    assert not list(tmp_path.rglob("pixels.bin"))
    monkeypatch.setattr(decoded_cache, "decode", real)
    (unfinished := next(tmp_path.rglob("decoded-*")) / "train.unfinished").mkdir()  # of one that was killed
    (unfinished / "pixels.bin").write_bytes(b"half")
    train, _ = load(folders, **changes)
    np.testing.assert_array_equal(train.source.image(19), preprocess.decode(train.source[19]))
    assert not unfinished.exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
def test_a_folder_that_cannot_be_written_is_named_and_other_errors_stay_what_they_are(
    code: int, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folders, prepared_dir=str(tmp_path))

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    # The tests may run as root, whom no permission stops, and cannot mount a disk.
    monkeypatch.setattr(Path, "mkdir", refuse)
    error = OSError if code == errno.EIO else DataError
    with pytest.raises(error, match=r"Input/output|config\.data\.cache_decoded: .*cannot be written.*prepared_dir"):
        decoded_cache.open_or_make(tmp_path, "train", [])  # type: ignore[arg-type]
    with pytest.raises(error, match=r"Input/output|elsewhere cannot be written .*set config\.data\.prepared_dir"):
        load(folders, prepared_dir=str(tmp_path / "elsewhere"))
    together = {"validation_fraction": 0.2, "near_duplicates_together": True}
    with pytest.raises(error, match=r"Input/output|near_duplicates_together: .*cannot be written.*prepared_dir"):
        load(folders, prepared_dir=str(tmp_path), **together)


def test_a_full_disk_is_named_and_a_later_call_goes_on(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folders, prepared_dir=str(tmp_path))

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(np, "savez", fail)
        with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}.*train'"):
            load(folders, prepared_dir=str(tmp_path), cache_decoded=True)
    assert not list(tmp_path.rglob("pixels.bin"))
    train, _ = load(folders, prepared_dir=str(tmp_path), cache_decoded=True)
    assert train.source.image(0).size == preprocess.decode(train.source[0]).size
