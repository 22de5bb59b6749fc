"""The reader that docs/own_data.md shows works as it is printed."""

import re
from pathlib import Path

import pytest

from mpafer_jax.data.reader import READERS
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

PAGE = Path(__file__).parents[2] / "docs" / "own_data.md"


@pytest.fixture
def mine():
    code = re.search(r"```python\n(.*?)```", PAGE.read_text().partition("## In another layout")[2], re.DOTALL)[1]
    exec(compile(code, str(PAGE), "exec"), {"__name__": "mine"})
    yield READERS["mine"].read
    del READERS["mine"]


def write(folder: Path, train: str = "a b.png calm\nc.png upset\n") -> None:
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text("d.png upset\n")
    for number, name in enumerate(("a b.png", "c.png", "d.png")):
        layouts.save(folder / "images" / name, layouts.image(number))


def test_it_reads_its_layout(tmp_path, mine):
    write(tmp_path)
    index = mine(tmp_path)
    assert index.class_names == index.source_labels == ("calm", "upset")
    found = {split: [(record.name, record.label) for record in records] for split, records in index.splits.items()}
    assert found == {"train": [("a b.png", 0), ("c.png", 1)], "test": [("d.png", 1)]}
    assert index.splits["test"][0].image.read() == (tmp_path / "images" / "d.png").read_bytes()


def test_it_names_a_bad_line(tmp_path, mine):
    write(tmp_path, "a b.png calm\nc.png angry\n")
    with pytest.raises(
        DataError, match=r"train\.txt line 2: found 'c\.png angry', expected NAME and one of calm, upset"
    ):
        mine(tmp_path)


def test_it_says_what_is_missing(tmp_path, mine):
    with pytest.raises(
        DataError, match=r"train\.txt is not there\.\nExpected.*\n  train\.txt, test\.txt   lines NAME LABEL"
    ):
        mine(tmp_path)
