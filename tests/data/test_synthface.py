"""Drawn faces as a dataset: what is listed, what a preparation holds, and what makes it new."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpafer_jax.config.data_section import DataSection, SynthfaceSection
from mpafer_jax.data.check import check
from mpafer_jax.data.prepared import prepare
from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.registry import prepared_root, read_source
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.expressions import PROTOTYPES
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts


def section(directory: Path | str, drawn: dict[str, Any] | None = None, **changes: Any) -> DataSection:
    values = SynthfaceSection(**(layouts.SYNTHFACE | (drawn or {})))
    data = layouts.section("synthface", Path("unused"), synthface=values, **changes)
    return data.model_copy(update={"dir": str(directory)})


def fingerprint(drawn: dict[str, Any] | None = None, **changes: Any) -> str:
    return read_source(section("", drawn, **changes)).fingerprint()


def test_a_preparation_holds_the_drawn_images(tmp_path: Path) -> None:
    data = section(tmp_path)
    index = read_source(data)
    prepared = prepare(index, prepared_root(data))
    assert prepared.directory.is_relative_to(tmp_path / "mpafer_tfds")
    assert prepared.summary.class_names == tuple(PROTOTYPES)
    assert {split: len(found.labels) for split, found in prepared.splits.items()} == {
        "train": 40,
        "validation": 12,
        "test": 20,
    }
    for split, found in prepared.splits.items():
        for position in (0, 5, 11):
            sample = generate.face_of(0, split, position, STYLES["colour"])
            image = decode_rgb(found.source[position]["image"])
            np.testing.assert_array_equal(np.asarray(image), sample.job.pixels(32))
            assert prepared.summary.class_names[found.labels[position]] == sample.expression
    hashes = np.concatenate([found.pixel_hashes for found in prepared.splits.values()])
    assert len(set(hashes.tolist())) == 72


def test_a_second_opening_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = section(tmp_path, {"train": 3, "validation": 1, "test": 1})
    first = prepare(read_source(data), prepared_root(data))

    def refuse(*_: object) -> None:
        raise AssertionError("an image was drawn again")

    monkeypatch.setattr(generate, "face_of", refuse)
    again = prepare(read_source(data), prepared_root(data))
    assert again.splits["train"].names.tolist() == first.splits["train"].names.tolist()


def test_only_listed_classes_occur_in_the_listed_order() -> None:
    index = read_source(section("", class_names=("joy", "anger", "grief=sadness")))
    assert index.class_names == ("joy", "anger", "grief")
    assert index.source_labels == ("happiness", "anger", "sadness")
    assert {split: len(records) for split, records in index.splits.items()} == {
        "train": 40,
        "validation": 12,
        "test": 20,
    }
    assert [record.name for record in index.splits["train"]][3:5] == [
        "train_000003_person_00000",
        "train_000004_person_00001",
    ]
    for number, record in enumerate(index.splits["train"]):
        drawn = generate.expression_of(0, "train", number, ("happiness", "sadness", "anger"))
        assert index.source_labels[record.label] == drawn
    assert not any(index.dropped.values())


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match=r"synthface\.style is 'oil'; expected one of colour, paint, grey, sketch"):
        read_source(section("", {"style": "oil"}))
    with pytest.raises(DataError, match="'boredom' matches no class of synthface"):
        read_source(section("", class_names=("boredom", "joy")))
    with pytest.raises(DataError, match="'boredom' matches no class of synthface"):
        read_source(section("", class_names=("boredom",)))


def test_a_split_of_no_images_is_not_there() -> None:
    index = read_source(section("", {"validation": 0}))
    assert list(index.splits) == ["train", "test"]
    assert "config.data.synthface.validation" in index.absent["validation"]


def test_whatever_changes_the_images_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        fingerprint(),
        fingerprint({"style": "paint"}),
        fingerprint({"seed": 1}),
        fingerprint({"image_size": 33}),
        fingerprint({"train": 41}),
        fingerprint(class_names=("joy", "anger")),
    }
    monkeypatch.setattr(generate, "VERSION", "next")
    found.add(fingerprint())
    assert len(found) == 7


def test_faces_are_kept_in_the_cache_unless_a_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert prepared_root(section("")) == tmp_path / "cache" / "mpafer_jax" / "synthface" / "mpafer_tfds"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert prepared_root(section("")) == tmp_path / "home/.cache/mpafer_jax/synthface/mpafer_tfds"
    assert prepared_root(section("/somewhere")) == Path("/somewhere/mpafer_tfds")
    assert prepared_root(section("/somewhere", prepared_dir="/else")) == Path("/else")


def test_check_data_draws_all_and_finds_nothing_wrong() -> None:
    data = section("", validation_split="validation", test_split="test")
    report = check(data)
    text = "\n".join(report.lines)
    assert report.attention == ()
    assert text.startswith("dataset synthface drawn here")
    assert "train: 32x32: 40" in text
    assert "unreadable images: 0" in text
