"""The measurement of preparation: what it writes and runs, and its table."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.splits import load_dataset
from tests.bench import preparation as preparation_lib
from tests.jobs.runs import ROOT

pytestmark = pytest.mark.bench


def test_numbered_images_differ_after_encoding() -> None:
    face, seen = np.full((100, 100, 3), 90, np.uint8), set[bytes]()
    for count in (0, 1, 3, 4, 5, 63, 64, 4**11, 4**12 - 1):
        encoded = io.BytesIO()
        Image.fromarray(preparation_lib.numbered(face, count)).save(encoded, "JPEG", quality=90)
        pixels = np.asarray(Image.open(encoded))[-4]
        digits = np.rint(pixels.mean(axis=1)[4:96:8] / 85).astype(int)
        assert int((digits * 4 ** np.arange(12)).sum()) == count
        seen.add(pixels.tobytes())
    assert len(seen) == 9


def test_datasets_are_read_as_rafdb(tmp_path: Path) -> None:
    preparation_lib.write_dataset(tmp_path / "a", 40)
    preparation_lib.link_dataset(tmp_path / "b", tmp_path / "a", 90)
    for name, images, different in (("a", 40, 40), ("b", 90, 40)):
        dataset = load_dataset(DataSection(dataset="rafdb", dir=str(tmp_path / name)))
        splits = (dataset.train, *dataset.held_out)
        assert sum(map(len, splits)) == images
        assert len({value for split in splits for value in split.pixel_hashes.tolist()}) == different
        assert len(splits[-1]) == images // 5
        assert dataset.train.source.image(0).size == (100, 100)


def test_everything_is_measured(tmp_path: Path) -> None:
    found = preparation_lib.measure(tmp_path, {"now": ROOT}, images=20, records=50, repeats=1, profiled=True)
    assert list(found) == ["copy", "prepare, now", "start, now", "profile of prepare, now", "profile of start, now"]
    assert all(len(several) == 1 for several in found.values())
    (prepared,), (started,) = found["prepare, now"], found["start, now"]
    assert list(prepared.ends) == ["imports", "index", "preparation"]
    assert list(started.ends) == ["imports", "dataset", "first batch"]
    for taken in (prepared, started):
        assert sorted(taken.ends.values())[0] > 0
        assert list(taken.ends.values()) == sorted(taken.ends.values())
        assert max(taken.ends.values()) < taken.seconds + 0.1
        assert taken.processor > 0
        assert taken.peak > 10
    text = preparation_lib.render(found, 20, 50, 70_000)
    assert "| prepare, now" in text
    assert "| start, now" in text
    assert "cumtime" in text
    assert not list((tmp_path / "images").glob("mpafer_tfds"))


def test_memory_and_rates() -> None:
    samples = [(0.5, 100.0), (1.0, 300.0), (1.5, 200.0)]
    taken = preparation_lib.Taken(2.0, 3.0, samples, {"first batch": 1.9})
    assert (taken.memory_at(0.5), taken.memory_at(0.95), taken.peak) == (300.0, 200.0, 300.0)
    copied = preparation_lib.Taken(1.0, 0.5)
    found = {"copy": [copied], "prepare, now": [taken], "start, now": [taken]}
    text = preparation_lib.render(found, 1000, 10, 4_000_000)
    cells = next(line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| prepare"))
    rates = ["500", "2.0", "0.50"]
    assert [cell.strip() for cell in cells] == ["prepare, now", "2.0", "3.0", *rates, "300", "200", "200", "300"]
