"""Sources: a folder with metadata.jsonl, a TFDS dataset, drawn faces; each mistake is named with its place."""

import io
import json
import threading
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mpafer_jax.data.synthface import captioned
from mpafer_jax.jobs.pretraining import sources
from mpafer_jax.runtime.errors import DataError
from tests.jobs.pretraining import tiny


def section(folder, **changes):
    return tiny.config(Path(folder), **{f"data.{name}": value for name, value in changes.items()}).data


def write(folder, *lines):
    Image.fromarray(np.full((6, 8, 3), 50, np.uint8)).save(folder / "a.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return sources.read_folder(folder)


def test_a_folder_with_one_caption_or_several_and_attributes(tmp_path):
    strange = "a face\u2028in two lines"  # no end of a line of the file
    data = write(
        tmp_path,
        {"file_name": "a.png", "text": "a face", "attributes": {"old": True, "bald": 0.25}},
        "",
        {"file_name": "a.png", "text": ["one", strange], "attributes": {"old": False}, "license": "whatever"},
        {"file_name": "a.png", "text": "none"},
    )
    assert list(data.captions) == [("a face",), ("one", strange), ("none",)]
    assert [statement.phrasings for statement in data.statements] == [("bald",), ("old",)]
    np.testing.assert_array_equal(data.truth, np.array([[0.25, 1], [np.nan, 0], [np.nan, np.nan]], np.float32))
    assert data.images[2].shape == (6, 8, 3)
    assert (data.images[0] == 50).all()
    assert set(data.texts()) == {"a face", "one", strange, "none", "old", "bald"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"jsonl line 2: line: Invalid JSON"),
        ("[]", r"jsonl line 2: line: Input should be an object"),
        ({"text": "a"}, r"jsonl line 2: file_name: Field required"),
        ({"file_name": "a.png"}, r"jsonl line 2: text: Field required"),
        ({"file_name": "a.png", "text": []}, r"jsonl line 2: text"),
        ({"file_name": "a.png", "text": " "}, r"jsonl line 2: text"),
        ({"file_name": "a.png", "text": ["a", 3]}, r"jsonl line 2: text"),
        (
            {"file_name": "a.png", "text": "a", "attributes": ["old"]},
            r"jsonl line 2: attributes: .*valid dictionary|object",
        ),
        ({"file_name": "a.png", "text": "a", "attributes": {"old": "yes"}}, r"jsonl line 2: attributes\.old"),
        ({"file_name": "a.png", "text": "a", "attributes": {"old": 1.5}}, r"jsonl line 2: attributes\.old.*equal to 1"),
        ({"file_name": "a.png", "text": "a", "attributes": {"old": float("nan")}}, r"jsonl line 2: "),
        (
            {"file_name": "sub/b.png", "text": "a"},
            r"metadata\.jsonl line 2 names the image .*sub/b\.png, which does not exist",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    good = {"file_name": "a.png", "text": "a"}
    with pytest.raises(DataError, match=message):
        write(tmp_path, good, line)


def test_missing_empty_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/metadata\.jsonl does not exist; expected one JSON object a line"):
        sources.read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"metadata\.jsonl is empty"):
        write(tmp_path, "")
    data = write(tmp_path, {"file_name": "a.png", "text": "a"})
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        data.images[0]


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    line = {"file_name": "a.png", "text": "a", "attributes": {"old": 0.5}}
    first = write(tmp_path, line).fingerprint
    assert write(tmp_path, line).fingerprint == first
    assert write(tmp_path, {**line, "text": "b"}).fingerprint != first
    assert write(tmp_path, {**line, "attributes": {"old": 0.25}}).fingerprint != first
    data = write(tmp_path, line)
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(tmp_path / "a.png")
    assert sources.read_folder(tmp_path).fingerprint != data.fingerprint


def test_the_last_images_are_held_out(tmp_path):
    folder = tiny.write_folder(tmp_path, 10)
    train, held_out = sources.load_source(section(folder, held_out=3), 16, tmp_path)
    everything = sources.read_folder(folder)
    assert (len(train), len(held_out)) == (7, 3)
    assert [*train.captions, *held_out.captions] == list(everything.captions)
    np.testing.assert_array_equal(np.concatenate([train.truth, held_out.truth]), everything.truth)
    np.testing.assert_array_equal(held_out.images[2], everything.images[9])
    assert len(held_out.images) == 3
    for number in (10, 11):
        with pytest.raises(DataError, match=rf"config\.data\.held_out is {number} of 10 images, which leaves none"):
            sources.load_source(section(folder, held_out=number), 16, tmp_path)


def test_joined_sources_do_not_know_of_each_others_statements():
    one, other = (
        sources.CaptionedImages(
            images=np.full((number, 4, 4, 3), 9 * number, np.uint8),
            captions=[(f"{number} {i}",) for i in range(number)],
            statements=tuple(sources.Statement((name,), (name,), group) for name, group in statements),
            truth=np.full((number, len(statements)), 1 / number, np.float32),
            fingerprint=str(number),
        )
        for number, statements in ((3, [("a", ""), ("b", "")]), (2, [("c", "x"), ("d", "y"), ("e", "x"), ("f", "")]))
    )
    both = one.joined(other)
    assert len(both) == len(both.images) == 5
    assert [int(both.images[i][0, 0, 0]) for i in range(5)] == [27, 27, 27, 18, 18]
    assert list(both.captions) == [*one.captions, *other.captions]
    assert [statement.phrasings[0] for statement in both.statements] == list("abcdef")
    assert both.groups() == [[2, 4], [3]]
    assert one.groups() == []
    np.testing.assert_array_equal(both.truth[:3, :2], one.truth)
    np.testing.assert_array_equal(both.truth[3:, 2:], other.truth)
    assert np.isnan(both.truth[:3, 2:]).all()
    assert np.isnan(both.truth[3:, :2]).all()
    assert len({data.fingerprint for data in (one, other, both, other.joined(one))}) == 4
    assert one.joined(other).fingerprint == both.fingerprint
    np.testing.assert_array_equal(both.cut(2, 4).images[1], other.images[0])


def image(index):
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), 20 * index, np.uint8)).save(stream, "PNG")
    return io.BytesIO(stream.getvalue())


class CaptionedSquares(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Grey rectangles."""

    VERSION = tfds.core.Version("1.0.0")
    name = "captioned_squares"
    code_path = None  # TFDS would look for download checksums beside the module

    def _info(self):
        text, features = tfds.features.Text(), tfds.features
        names = {"image": features.Image(shape=(None, None, 3)), "caption": text, "number": np.int64}
        names |= {"face": {"image": features.Image(shape=(None, None, 3))}}
        names |= {"several": features.Sequence(text), "captions": features.Sequence({"id": np.int64, "text": text})}
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(names))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, number):
        for i in range(number):
            nested = [{"id": 1, "text": f"nested {i}"}, {"id": 2, "text": f"also nested {i}"}]
            yield (
                i,
                {
                    "image": image(i),
                    "face": {"image": image(i + 1)},
                    "caption": f"square {i}",
                    "several": [f"one {i}", f"ünö {i}"] if i else [],
                    "captions": nested,
                    "number": i,
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    CaptionedSquares(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def tfds_section(folder, **changes):
    values = {"source": "tfds", "name": "captioned_squares:1.0.0/train", "image_feature": "image"}
    return section(folder, **{**values, "text_feature": "caption", **changes})


def test_a_tfds_dataset_with_one_caption_each(prepared, tmp_path):
    train, held_out = sources.load_source(tfds_section(prepared, held_out=2), 16, tmp_path)
    assert (len(train), len(held_out), train.truth.shape, train.statements) == (4, 2, (4, 0), ())
    for data in (train, held_out):
        for index, (caption,) in enumerate(data.captions):
            assert data.images[index].shape == (10, 12, 3)
            assert (data.images[index] == 20 * int(caption.removeprefix("square "))).all()
    assert len({caption for data in (train, held_out) for caption in data.captions}) == 6


def test_a_tfds_dataset_with_several_captions_inside_another_feature(prepared):
    data = sources.read_tfds(tfds_section(prepared, text_feature="captions/text", name="captioned_squares/test"))
    assert sorted(data.captions) == [(f"nested {i}", f"also nested {i}") for i in range(2)]
    other = sources.read_tfds(tfds_section(prepared, name="captioned_squares/test"))
    assert other.fingerprint != data.fingerprint


def test_a_tfds_dataset_with_images_inside_another_feature(prepared):
    data = sources.read_tfds(tfds_section(prepared, image_feature="face/image"))
    for index, (caption,) in enumerate(data.captions):
        assert (data.images[index] == 20 + 20 * int(caption.removeprefix("square "))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_feature": "text"}, r"text_feature is 'text', which TFDS dataset .* has not; it has .*captions/text"),
        ({"image_feature": "photo"}, r"config\.data\.image_feature is 'photo', which"),
        ({"text_feature": "number"}, r"example 0 of .* has .* there; expected a caption"),
        ({"text_feature": "captions"}, r"example 0 of .* has .* there; expected a caption"),
        ({"text_feature": "several"}, r"example \d of .* has \[\] there; expected a caption or several"),
        ({"name": "captioned_squares/validation"}, r"split 'validation' cannot be opened"),
        ({"name": "no_such_dataset/train"}, r"'no_such_dataset', split 'train' cannot be opened .*tfds build"),
    ],
)
def test_a_tfds_dataset_of_another_form_is_named(prepared, changes, message):
    with pytest.raises(DataError, match=message):
        sources.read_tfds(tfds_section(prepared, **changes))


def faces(folder, **changes):
    values = {"source": "synthface", "dir": "", "images": 7, "styles": ("colour", "paint"), "held_out": 3}
    size = changes.pop("size", 32)
    return sources.load_source(section(folder, **{**values, **changes}), size, folder)


def test_drawn_faces_are_drawn_once_and_kept(tmp_path):
    train, held_out = faces(tmp_path)
    assert (len(train), len(held_out)) == (4, 3)
    assert train.images[0].shape == (32, 32, 3)
    assert {len(own) for own in train.captions} == {4}
    assert {len(own) for own in held_out.captions} == {1}
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    again, _ = faces(tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert again.fingerprint == train.fingerprint
    np.testing.assert_array_equal(again.images[3], train.images[3])
    assert faces(tmp_path, seed=2)[0].fingerprint != train.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"styles": ("colour", "oil")}, r"config\.data\.styles is \('colour', 'oil'\); expected some of colour, paint"),
        ({"styles": ()}, r"config\.data\.styles is \(\); expected some of"),
        ({"size": 24}, r"config\.model\.image_size is 24; faces are drawn at 32 to 224 pixels"),
        ({"images": 3}, r"config\.data\.held_out is 3 of 3 images"),
    ],
)
def test_impossible_faces_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        faces(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_share_a_folder_draw_its_faces_once(tmp_path, monkeypatch):
    drawn, together = [], threading.Barrier(2)

    def render(jobs, size):
        drawn.append(size)
        time.sleep(0.3)
        return np.full((len(jobs), size, size, 3), 7, np.uint8)

    def draw():
        together.wait()
        return captioned.draw(jobs, 24, tmp_path)

    jobs = captioned.sample_jobs(2, captioned.style_names(["colour"]), 0)
    monkeypatch.setattr(captioned, "render_all", render)
    with futures.ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(draw) for _ in range(2)]]
    assert drawn == [24]
    assert all((faces == 7).all() for faces in found)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
