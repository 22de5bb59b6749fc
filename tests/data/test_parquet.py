"""Parquet files as the Hub has them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpafer_jax.config.data_section import ColumnsSection
from mpafer_jax.data.readers import parquet
from mpafer_jax.data.records import SourceIndex, select_classes
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

CLASSES = ("sad", "happy", "fear")


def labelled(index: SourceIndex, split: str = "train") -> list[tuple[str, str]]:
    return [(record.name, index.class_names[record.label]) for record in index.splits[split]]


@pytest.mark.parametrize("inside", ["", "data"])
def test_names_come_from_the_schema(tmp_path: Path, inside: str) -> None:
    root = tmp_path / inside
    layouts.write_parquet(root / "train-00000-of-00002.parquet", [0, 2, 1, 1, 0, 2], CLASSES, rows_in_group=2)
    layouts.write_parquet(root / "train-00001-of-00002.parquet", [1, -1, None], CLASSES, first_seed=6)
    layouts.write_parquet(root / "validation-00000-of-00001.parquet", [2], CLASSES, first_seed=20)
    index = parquet.read(tmp_path)
    assert index.class_names == CLASSES
    assert index.source_labels == ("0", "1", "2")
    assert [name for _, name in labelled(index)] == ["sad", "fear", "happy", "happy", "sad", "fear", "happy"]
    assert labelled(index, "validation") == [("020.png", "fear")]
    assert index.dropped == {"train": {"no label": 2}}
    for seed, record in enumerate(index.splits["train"]):
        layouts.save(tmp_path / "expected.png", layouts.image(seed))
        assert record.name == f"{seed:03d}.png"
        assert record.image.read() == (tmp_path / "expected.png").read_bytes()


def test_another_order_of_the_same_classes_is_another_meaning_of_numbers(tmp_path: Path) -> None:
    layouts.write_parquet(tmp_path / "train.parquet", [0, 1, 2], CLASSES)
    layouts.write_parquet(tmp_path / "test.parquet", [0, 1, 2], CLASSES[::-1])
    with pytest.raises(
        DataError, match=r"name their classes differently: .*fear, happy, sad.*; give a folder of files"
    ):
        parquet.read(tmp_path)
    (tmp_path / "train.parquet").unlink()
    index = select_classes(parquet.read(tmp_path), ("happiness", "fear"))
    assert labelled(index, "test") == [("000.png", "fear"), ("001.png", "happiness")]


def test_numbers_without_names_are_refused(tmp_path: Path) -> None:
    layouts.write_parquet(tmp_path / "train.parquet", [0, 1, 1])
    message = (
        r"without info\.features\.label\.names in their schema's metadata 'huggingface'\): labels 0, 1 are numbers"
    )
    with pytest.raises(DataError, match=message):
        parquet.read(tmp_path)
    chosen = ("anger=1", "fear=0")
    assert [name for _, name in labelled(select_classes(parquet.read(tmp_path, chosen), chosen))] == [
        *("fear", "anger", "anger")
    ]


def test_texts_as_labels_and_other_columns(tmp_path: Path) -> None:
    layouts.write_parquet(
        tmp_path / "all.parquet",
        ["sad", "happy", "sad"],
        with_names=False,
        usage=["Training", "PublicTest", "Training"],
        subject=["a", "b", "c"],
        age=[1, 2, None],
    )
    index = parquet.read(tmp_path, (), ColumnsSection(attributes=("age",)))
    assert labelled(index) == [("row 0", "sad"), ("row 2", "sad")]
    assert labelled(index, "validation") == [("row 1", "happy")]
    (record,) = index.splits["validation"]
    assert (record.person, record.attributes) == ("b", {"age": "2"})
    assert index.splits["train"][1].attributes == {"age": ""}


def test_a_column_that_is_called_as_that_of_the_splits_but_names_none(tmp_path: Path) -> None:
    for shard in range(2):
        layouts.write_parquet(tmp_path / f"test-0000{shard}-of-00002.parquet", [0, 1], CLASSES, 2 * shard, set=[1, 2])
    index = parquet.read(tmp_path)
    assert len(labelled(index, "test")) == 4
    (warning,) = index.warnings
    assert f"the Parquet files in {tmp_path}: the column 'set' is called as that of the splits usually is" in warning
    assert "its values are '1', '2'. If" in warning
    message = (
        r"-of-00002\.parquet: the split, in the column 'set', is '1', expected .*--config\.data\.columns\.split=\.\.\."
    )
    with pytest.raises(DataError, match=message):
        parquet.read(tmp_path, (), ColumnsSection(split="set"))
    layouts.write_parquet(tmp_path / "test-00001-of-00002.parquet", [0, 1], CLASSES, 2, set=["test", "3"])
    layouts.write_parquet(tmp_path / "test-00000-of-00002.parquet", [0, 1], CLASSES, set=["1", "2"])
    with pytest.raises(DataError, match=message):
        parquet.read(tmp_path)


@pytest.mark.parametrize("name", ["default/train/0000.parquet", "train_0.parquet", "faces.parquet", "Train.parquet"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    layouts.write_parquet(tmp_path / name, [0, 1], CLASSES)
    assert list(parquet.read(tmp_path).splits) == ["train"]


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is not there.\nExpected under config"):
        parquet.read(tmp_path)
    layouts.write_parquet(tmp_path / "a" / "train-00001-of-00003.parquet", [0, 1], CLASSES)
    with pytest.raises(DataError, match=r"of the 3 files train-\*-of-00003\.parquet 00000, 00002 are not there; down"):
        parquet.read(tmp_path)
    (tmp_path / "a" / "train-00001-of-00003.parquet").rename(tmp_path / "a" / "train.parquet")
    layouts.write_parquet(tmp_path / "b" / "train.parquet", [0, 1], CLASSES)
    with pytest.raises(
        DataError, match=r"several sets of files for one split, in .*/a, .*/b; set config\.data\.dir to"
    ):
        parquet.read(tmp_path)
    (tmp_path / "b" / "train.parquet").rename(tmp_path / "b" / "more.parquet")
    with pytest.raises(DataError, match=r"b/more\.parquet names no split, and other files do"):
        parquet.read(tmp_path)
    (tmp_path / "a" / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as Parquet \("):
        parquet.read(tmp_path / "a")


@pytest.mark.parametrize("other", ["train-00000-of-00001-abcdef0123", "train-00000-of-00002"])
def test_two_uploads_of_a_shard_are_not_read_twice(tmp_path: Path, other: str) -> None:
    for name in ("train-00000-of-00001", other, "test-00000-of-00001"):
        layouts.write_parquet(tmp_path / f"{name}.parquet", [0, 1], CLASSES)
    with pytest.raises(
        DataError, match=r"-of-00001\S*\.parquet and train-00000\S*\.parquet are both number 00000 of tra"
    ):
        parquet.read(tmp_path)


def test_columns_that_do_not_fit(tmp_path: Path) -> None:
    layouts.write_parquet(tmp_path / "train.parquet", [0, 3], CLASSES)
    with pytest.raises(DataError, match=r"found the label '3', expected 0 to 2 \(sad, happy, fear\)"):
        parquet.read(tmp_path)
    pq.write_table(pa.table({"picture": [b"1"], "answer": [1]}), tmp_path / "train.parquet")
    with pytest.raises(
        DataError, match="none of its columns is called as the image usually is; it has 'picture', 'ans"
    ):
        parquet.read(tmp_path)
    table = pa.table({"image": [b"1"], "label": [1]}).replace_schema_metadata({"huggingface": json.dumps({"info": 1})})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="the schema's metadata 'huggingface' is not as the Hub's"):
        parquet.read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([[0], [1]], r"list<\w+: int64>"),
        ([{"a": 0}, {"a": 1}], "struct<a: int64>"),
        ([b"sad", b"happy"], "binary"),
        ([1.0, None, 0.5], r"the fraction 0\.5"),
    ],
)
def test_columns_that_are_no_labels_are_refused(tmp_path: Path, labels: list[object], found: str) -> None:
    layouts.write_parquet(tmp_path / "train.parquet", labels)
    message = f"the column of labels, 'label', holds {found}, expected one whole number or text for each image; name"
    with pytest.raises(DataError, match=message):
        parquet.read(tmp_path)


def test_whole_numbers_may_be_stored_as_fractions(tmp_path: Path) -> None:
    layouts.write_parquet(tmp_path / "train.parquet", [1.0, 0.0, None, float("nan"), -1.0], CLASSES)
    index = parquet.read(tmp_path)
    assert [name for _, name in labelled(index)] == ["happy", "sad"]
    assert index.dropped == {"train": {"no label": 3}}


def test_it_is_prepared_as_a_list_of_the_same_images_is(tmp_path: Path) -> None:
    labels = [0, 1, 2] * 5
    layouts.write_parquet(tmp_path / "a" / "train.parquet", labels, CLASSES, rows_in_group=4)
    names = [f"{seed:03d}.png" for seed in range(15)]
    layouts.write_images(tmp_path / "b", names)
    rows = [(name, CLASSES[label]) for name, label in zip(names, labels, strict=True)]
    layouts.write_table(tmp_path / "b" / "labels.csv", rows, ("image", "label"))
    loaded = [
        load_dataset(layouts.section(*place, class_names=CLASSES, test_fraction=0.4)).train
        for place in (("parquet", tmp_path / "a"), ("list", tmp_path / "b"))
    ]
    for field in ("labels", "names", "pixel_hashes"):
        assert getattr(loaded[0], field).tolist() == getattr(loaded[1], field).tolist()
    assert [loaded[0].source[at] for at in range(9)] == [loaded[1].source[at] for at in range(9)]


def test_a_row_without_bytes_is_an_unreadable_image(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", None], "label": ["sad", "happy"]})
    pq.write_table(table, tmp_path / "train.parquet")
    image = parquet.read(tmp_path).splits["train"][1].image
    assert image.place == f"{tmp_path / 'train.parquet'} row 1 of row group 0"
    with pytest.raises(ValueError, match="the row holds no bytes of an image"):
        image.read()
