"""The contact sheet: a row for each class, holding that class's images and no others."""

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.contact_sheet import contact_sheet
from mpafer_jax.runtime.errors import DataError
from tests.jobs import runs

TONES = {"anger": 40, "happiness": 90, "sadness": 140}
NUMBERS = {"anger": 5, "happiness": 2, "sadness": 7}
TILE = 40


@pytest.fixture
def data(sample, tmp_path):
    """Class folders whose images are grey: each class its tone, each image of it a little lighter."""
    for name, tone in TONES.items():
        for number in range(NUMBERS[name]):
            path = tmp_path / "faces" / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (tone + 2 * number,) * 3).save(path)
    return runs.config(sample, **{"data.dir": str(tmp_path / "faces")}).data


def shown(sheet, per_class):
    """Tones of the images, row by row; each lies in the middle of its tile."""
    values = np.asarray(sheet)
    margin = sheet.width - per_class * TILE
    rows = values[TILE // 2 :: TILE, margin + TILE // 2 :: TILE, 0]
    return [[int(tone) for tone in row if tone != 255] for row in rows]


def test_rows_hold_their_class(data):
    sheet = contact_sheet(data, "train", per_class=4, tile=TILE)
    assert sheet.height == 3 * TILE
    rows = shown(sheet, 4)
    assert [len(row) for row in rows] == [4, 2, 4]  # as many as there are
    for row, (name, tone) in zip(rows, TONES.items(), strict=True):
        assert len(set(row)) == len(row)
        assert set(row) <= {tone + 2 * number for number in range(NUMBERS[name])}
    names = np.asarray(sheet)[:, : sheet.width - 4 * TILE]
    for row in range(3):
        assert (names[row * TILE : (row + 1) * TILE] < 128).any()  # a name is written beside it


def test_images_keep_their_shape(data):
    sheet = np.asarray(contact_sheet(data, "train", per_class=1, tile=TILE))
    column = sheet[:TILE, -TILE // 2, 0]
    assert (column == 255).sum() == TILE // 2  # twice as wide as high


def test_the_choice_is_drawn_by_seed(data):
    first, again, other = (contact_sheet(data, "train", 3, TILE, seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert shown(first, 3) != shown(other, 3)


def test_a_split_that_is_not_there_is_named(data):
    with pytest.raises(DataError, match="no split 'holiday' to show; folder has train"):
        contact_sheet(data, "holiday", 3)


def test_the_command(data, tmp_path):
    out = tmp_path / "new" / "sheet.png"
    words = ["--config=configs/folder.py", f"--out={out}"]
    done = runs.call("data sheet", *words, f"--config.data.dir={data.dir}", "--per_class=2", "--tile=32")
    assert done.code == 0, done.err
    with Image.open(out) as sheet:
        assert sheet.height == 3 * 32
    assert f"{out}: " in done.out
    failed = runs.call("data sheet", *words, f"--config.data.dir={tmp_path}/no")
    assert failed.code == 2
    assert "is not there" in failed.err
