"""Preparation: what is written, that it is written once and whole, and what happens to broken images."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from mpafer_jax.data import prepared as prepared_lib
from mpafer_jax.data.inspection import inspect, inspect_all
from mpafer_jax.data.prepared import Prepared, prepare
from mpafer_jax.data.readers import folder
from mpafer_jax.data.records import Clip, ImageCrop, ImageFile, Record, SourceIndex
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import DataError, ImageError
from tests.data import layouts


def prepare_folder(directory: Path, **options: str) -> Prepared:
    # Named, since a class without others is an error otherwise.
    return prepare(folder.read(directory, ("happy",)), directory / "mpafer_tfds", **options)


def test_examples_come_back_encoded_and_in_order(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 12, "sad": 3})
    layouts.write_folders(tmp_path / "test", {"sad": 2}, first_seed=50)
    prepared = prepare_folder(tmp_path)
    train = prepared.splits["train"]
    assert train.labels.tolist() == [0] * 12 + [1] * 3
    assert train.label_distributions.tolist() == [[1, 0]] * 12 + [[0, 1]] * 3
    assert train.names.tolist() == [f"happy/{i:03d}.png" for i in range(12)] + [f"sad/{i:03d}.png" for i in range(3)]
    assert len(set(train.pixel_hashes.tolist())) == 15
    assert (len(train.source), len(prepared.splits["test"].source)) == (15, 2)
    for position, name in enumerate(train.names.tolist()):
        example = train.source[position]
        assert example["image"] == (tmp_path / "train" / name).read_bytes()
        assert (example["index"], example["name"].decode(), example["label"]) == (
            position,
            name,
            train.labels[position],
        )
        np.testing.assert_array_equal(example["label_distribution"], train.label_distributions[position])
    assert "tensorflow" not in sys.modules


def test_a_split_may_have_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_folders(tmp_path, {"happy": 5, "sad": 4})
    whole = prepare_folder(tmp_path)
    expected = [whole.splits["train"].source[i]["image"] for i in range(9)]
    assert [path.name for path in sorted(whole.directory.glob("*.array_record*"))] == [
        "folder-train.array_record-00000-of-00001"
    ]
    monkeypatch.setattr(prepared_lib, "_FILE_BYTES", 2 * len(expected[0]))
    layouts.write_folders(tmp_path / "again", {"happy": 5, "sad": 4})
    parted = prepare_folder(tmp_path / "again")
    assert len(list(parted.directory.glob("folder-train.array_record-?????-of-00005"))) == 5
    assert len(list(parted.directory.iterdir())) == 5 + 4
    source = parted.splits["train"].source
    assert [source[i]["image"] for i in range(9)] == expected
    assert [source[i]["index"] for i in range(9)] == list(range(9))


def test_records_are_those_of_tfds(tmp_path: Path) -> None:
    """TFDS's own serialization, with which earlier versions wrote, is parsed to the same example."""
    image = layouts.image(3)
    layouts.save(tmp_path / "a.png", image)
    data = (tmp_path / "a.png").read_bytes()
    record = Record("caf\xe9/\udce9.png", ImageFile(tmp_path / "a.png"), 1, (0.25, 0.5, 0.25))
    name = record.name.encode("utf-8", "surrogateescape")
    weights = np.array(record.label_distribution, np.float32)
    example = {"image": io.BytesIO(data), "label": 1, "label_distribution": weights, "name": name, "index": 7}
    features = prepared_lib._features(3)
    expected = tf_example_pb2.Example.FromString(features.serialize_example(features.encode_example(example)))
    assert tf_example_pb2.Example.FromString(prepared_lib._to_record(data, record, weights.tolist(), 7)) == expected


def test_images_are_inspected_in_order_however_many_at_once(tmp_path: Path) -> None:
    for number in range(300):
        layouts.save(tmp_path / f"{number}.png", layouts.image(number, 8 + number % 5, 8))
    (tmp_path / "150.png").write_text("no image")
    images = [ImageFile(tmp_path / f"{number}.png") for number in range(300)]
    with futures.ThreadPoolExecutor(3) as pool:
        inspected = list(inspect_all(images, pool))
    assert isinstance(inspected.pop(150), ImageError)
    assert inspected == [inspect(image) for image in images if image.path.stem != "150"]


def test_a_second_call_opens_what_is_there_wherever_it_was_moved(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "old", {"happy": 2})
    first = prepare_folder(tmp_path / "old")
    written = (first.directory / "summary.json").stat().st_mtime_ns
    (tmp_path / "old").rename(tmp_path / "new")
    second = prepare_folder(tmp_path / "new")
    assert (second.directory / "summary.json").stat().st_mtime_ns == written
    assert second.summary == first.summary
    assert len(list((tmp_path / "new" / "mpafer_tfds").glob("folder-*/folder"))) == 1


@pytest.mark.parametrize("name", ["examples.npz", "summary.json", "dataset_info.json", "features.json", "record"])
def test_a_damaged_preparation_is_named_and_can_be_deleted(name: str, tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 3})
    directory = prepare_folder(tmp_path).directory
    (path,) = directory.glob(f"*{name}*")
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[: len(whole) // 100]), path.unlink):
        damage()
        message = (
            rf"{directory} is damaged or was copied in part \(.*\); delete {directory.parents[1]}, and the dataset is"
        )
        with pytest.raises(DataError, match=message):
            _ = [prepare_folder(tmp_path).splits["train"].source[position] for position in range(3)]
    shutil.rmtree(directory.parents[1])
    assert len(prepare_folder(tmp_path).splits["train"].source[2]["image"]) > 0


def test_changed_sources_are_prepared_anew(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 2, "sad": 1})
    seen = {prepare_folder(tmp_path).directory}
    layouts.save(tmp_path / "happy" / "000.png", layouts.image(99, 30, 30))
    seen.add(prepare_folder(tmp_path).directory)
    (tmp_path / "sad" / "000.png").rename(tmp_path / "happy" / "000a.png")
    layouts.write_folders(tmp_path, {"sad": 1}, first_seed=7)
    changed = prepare_folder(tmp_path)
    seen.add(changed.directory)
    seen.add(prepare_folder(tmp_path, on_bad_image="skip").directory)
    assert len(seen) == 4
    assert changed.splits["train"].labels.tolist() == [0, 0, 0, 1]


def test_images_of_the_same_names_and_sizes_are_told_apart(tmp_path: Path) -> None:
    """Folders of BMPs, before and after a change of contrast, that share `data.prepared_dir`."""
    for number, name in enumerate(("raw", "changed")):
        layouts.write_folders(root := tmp_path / name, {"happy": 40, "sad": 40}, 100 * number, ".bmp")
        dataset = load_dataset(layouts.section("folder", root, prepared_dir=str(tmp_path / "prepared")))
        for position, image in enumerate(dataset.train.names.tolist()):
            assert dataset.train.source[position] == (root / image).read_bytes()
    # Also of whole images that faces are cut from, and of frames of clips.
    boxes = [ImageCrop(tmp_path / name / "happy" / "000.bmp", (0, 0, 9, 9)) for name in ("raw", "changed")]
    clips = [Clip(tmp_path / name / "happy", ("000.bmp", "001.bmp")) for name in ("raw", "changed")]
    for one, other in (boxes, clips):
        indices = [SourceIndex(("happy",), {"train": [Record("x", image, 0)]}) for image in (one, other)]
        assert one.stamp() == other.stamp()
        assert indices[0].fingerprint() != indices[1].fingerprint()


def break_images(root: Path) -> None:
    data = (root / "happy" / "001.png").read_bytes()
    (root / "happy" / "001.png").write_bytes(data[: len(data) // 2])
    (root / "sad" / "000.png").write_text("no image")


def test_a_broken_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 3, "sad": 2})
    break_images(tmp_path)
    with pytest.raises(ImageError, match=r"happy/001\.png: cannot be read as an image") as error:
        prepare_folder(tmp_path)
    assert "config.data.on_bad_image='skip' leaves them out" in str(error.value)
    assert list((tmp_path / "mpafer_tfds").glob("folder-*/folder/*")) == []


def test_broken_images_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 3, "sad": 2})
    break_images(tmp_path)
    for _ in range(2):  # prepared, then read back
        prepared = prepare_folder(tmp_path, on_bad_image="skip")
        assert prepared.splits["train"].names.tolist() == ["happy/000.png", "happy/002.png", "sad/001.png"]
        messages = prepared.summary.skipped["train"]
        assert [message.partition(":")[0] for message in messages] == [
            str(tmp_path / "happy" / "001.png"),
            str(tmp_path / "sad" / "000.png"),
        ]
    assert [prepared.splits["train"].source[i]["index"] for i in range(3)] == [0, 1, 2]


def test_a_split_without_a_good_image_is_an_error(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 1})
    (tmp_path / "happy" / "000.png").write_text("no image")
    with pytest.raises(DataError, match="'train' of folder: none of its 1 images can be read"):
        prepare_folder(tmp_path, on_bad_image="skip")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 2})
    index = folder.read(tmp_path, ("happy",))
    (tmp_path / "happy" / "001.png").unlink()
    with pytest.raises(ImageError, match=r"happy/001\.png: no such file"):
        prepare(index, tmp_path / "mpafer_tfds")


@pytest.mark.processes
def test_several_processes_prepare_once(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 30})
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    with futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs
    assert sorted(run.stderr.count("preparing folder: 0/30 images") for run in runs) == [0, 1]
    assert [run.stdout for run in runs] == ["30\n", "30\n"]


PREPARE = """
import pathlib, sys
from mpafer_jax.runtime import console
from mpafer_jax.data.readers import folder
from mpafer_jax.data.prepared import prepare
root = pathlib.Path(sys.argv[1])
with console.Console():
    print(len(prepare(folder.read(root, ("happy",)), root / "mpafer_tfds").splits["train"].labels))
"""
# Reading this image waits for ever, so that the preparation stands still in the middle.
STAND_STILL = """
import time
from mpafer_jax.data import records
read = records.ImageFile.read
records.ImageFile.read = lambda image: time.sleep(3600) if image.path.name == "zzz.png" else read(image)
"""


@pytest.mark.processes
def test_a_killed_preparation_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 5})
    layouts.save(tmp_path / "happy" / "zzz.png", layouts.image(77))
    process = subprocess.Popen([sys.executable, "-c", STAND_STILL + PREPARE, str(tmp_path)])
    prepared = tmp_path / "mpafer_tfds"
    deadline = time.monotonic() + 60
    while not list(prepared.glob("folder-*/folder/incomplete.*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left_over = list(prepared.glob("folder-*/folder/*"))
    assert left_over
    assert all(path.name.startswith("incomplete.") for path in left_over)
    assert len(prepare_folder(tmp_path).splits["train"].labels) == 6


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 2})
    strange = os.fsencode(tmp_path / "happy") + b"/caf\xe9.png"
    os.rename(tmp_path / "happy" / "000.png", strange)  # noqa: PTH104
    for _ in range(2):  # prepared, then read back
        (split,) = prepare_folder(tmp_path).splits.values()
        assert [os.fsencode(name) for name in split.names] == [b"happy/001.png", b"happy/caf\xe9.png"]
        assert split.source[1]["name"] == b"happy/caf\xe9.png"


class FullDisk:
    """An image whose reading stands for a disk that becomes full while the records are written."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    def fail_once(self, data: bytes) -> bytes:
        error, self.error = self.error, None
        if error:
            raise error
        return data


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("INTERNAL: array_record: write failed: No space left on device"),
        RuntimeError("INTERNAL: Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_named_and_a_later_call_goes_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_folders(tmp_path, {"happy": 3})
    full = FullDisk(error)
    save = np.savez
    monkeypatch.setattr(np, "savez", lambda *given, **arrays: (full.fail_once(b""), save(*given, **arrays)))
    with pytest.raises(OSError, match=rf"(No space left on device|Disk quota exceeded): '{tmp_path}/mpafer_tfds"):
        prepare_folder(tmp_path)
    assert [
        path.name for path in (tmp_path / "mpafer_tfds").rglob("*") if path.is_file() and path.suffix != ".lock"
    ] == []
    assert len(prepare_folder(tmp_path).splits["train"].labels) == 3
