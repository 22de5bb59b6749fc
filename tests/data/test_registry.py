"""A dataset of one's own: a function with a decorator, and nothing else of the package."""

from pathlib import Path

import pytest
from PIL import Image

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Config
from mpafer_jax.data import records, registry
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import READERS
from mpafer_jax.data.records import ImageFile, Record, SourceIndex
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import ConfigError, DataError

CLASS_NAMES = ("calm", "upset")


@pytest.fixture
def mine():
    @reader(
        "mine",
        "Faces of my own.",
        class_names=CLASS_NAMES,
        layout="  list.txt   lines NAME LABEL",
        source="my own camera",
        fields=("dir", "label_rule"),
        label_rules=("first", "last"),
    )
    def read(directory: Path, rule: str) -> SourceIndex:
        listed = directory / "list.txt"
        if not listed.is_file():
            raise records.missing(listed)
        train = [
            Record(name, ImageFile(directory / name), int(labels[0 if rule == "first" else -1]))
            for name, *labels in map(str.split, listed.read_text().splitlines())
        ]
        return SourceIndex(CLASS_NAMES, {"train": train, "test": []}, {"test": "a second list"}, label_rule=rule)

    yield read
    del READERS["mine"]


def section(directory: Path, **changes) -> DataSection:
    values = {"dataset": "mine", "dir": str(directory), "label_rule": "last", "test_split": "", "test_fraction": 0.5}
    return DataSection(**{**values, "validation_fraction": 0.0, **changes})


def test_a_new_dataset_is_a_function(mine, tmp_path):
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "list.txt").write_text("".join(f"{number}.png 0 {number % 2}\n" for number in range(8)))
    dataset = load_dataset(Config(data=section(tmp_path)).data)
    assert dataset.class_names == CLASS_NAMES
    assert dataset.train.class_counts().tolist() == dataset.test.class_counts().tolist() == [2, 2]
    assert dataset.summary.label_rule == "last"
    index = mine(tmp_path, "first")
    assert (list(index.splits), index.absent, index.source_labels) == (["train"], {"test": "a second list"}, ("0", "1"))
    (folder,) = (tmp_path / "mpafer_tfds").glob("mine-*/mine/1.0.0")
    assert "Faces of my own." in (folder / "dataset_info.json").read_text()


def test_what_is_not_there_is_named_with_the_layout(mine, tmp_path):
    expected = r"list\.txt is not there\.\nExpected under config\.data\.dir:\n  list\.txt   lines NAME LABEL\nGet it f"
    with pytest.raises(DataError, match=expected):
        registry.read_source(section(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "min"}, r"config\.data\.dataset is 'min'; did you mean mine\?; known are affectnet, .*, mine$"),
        (
            {"label_rule": "owner"},
            "which does not go with dataset 'mine'; expected 'first' or 'last'",
        ),
        ({"dir": ""}, r"config\.data\.dir is empty; give the folder that holds mine"),
    ],
)
def test_what_does_not_go_with_it_is_refused(mine, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        registry.check(section(tmp_path, **changes))


def test_a_name_is_given_once(mine):
    with pytest.raises(ValueError, match=r"there is a reader 'folder' already, mpafer_jax\.data\.readers\.folder"):
        reader("folder", "Again.")(mine)


def test_a_field_of_another_dataset_is_refused(tmp_path):
    data = section(tmp_path, dataset="folder", label_rule="owner", columns={"attributes": ("age",)})
    message = r"columns\.attributes is \('age',\), which dataset 'folder' does not read; these do: list, parquet\. L"
    with pytest.raises(ConfigError, match=message):
        registry.check(data)
    registry.check(data.model_copy(update={"dataset": "list"}))


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        (
            "parquet",
            {"columns": {"box": ("box",)}},
            r"columns\.box is \('box',\), which .* not read; these do: list\. L",
        ),
        (
            "mafw",
            {"clips": {"train_list": "a.txt"}},
            r"clips\.train_list is 'a\.txt', which .* these do: clips\. Leave",
        ),
    ],
)
def test_a_field_that_a_dataset_does_not_read_of_its_section_is_refused(tmp_path, dataset, changes, message):
    data = section(tmp_path, dataset=dataset, label_rule="owner", **changes)
    with pytest.raises(ConfigError, match=message):
        registry.check(data)
    registry.check(data.model_copy(update={"dataset": "list" if dataset == "parquet" else "clips"}))


def test_a_dataset_without_examples_says_what_was_looked_for(tmp_path):
    (tmp_path / "origin").mkdir()
    (tmp_path / "label.lst").write_text("\n")
    with pytest.raises(DataError, match=r"expw has no example here; looked for\n  train: lines 'image face_id .*lst"):
        registry.read_source(section(tmp_path, dataset="expw", label_rule="owner"))
