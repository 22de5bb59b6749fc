"""Near-duplicates among drawn faces: changed copies are found, other faces are not."""

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mpafer_jax.data import inspection, near_duplicates
from mpafer_jax.data.near_duplicates import Pair
from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES

NUMBER = 30


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    """One face each of many persons."""
    jobs = [face_of(0, "train", 4 * index, STYLES["colour"]).job for index in range(NUMBER)]
    return [Image.fromarray(job.pixels(64)) for job in jobs]


def pairs_of(images: list[Image.Image]) -> list[Pair]:
    thumbnails = np.stack([inspection.thumbnail(image) for image in images])
    return [pair for batch in near_duplicates.find(thumbnails) for pair in batch]


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def encoded_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": mirrored,
    "encoded again": encoded_again,
    "enlarged": lambda image: image.resize((224, 224), Image.Resampling.BICUBIC),
    "reduced": lambda image: image.resize((40, 40)),
    "grey": lambda image: image.convert("L"),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "all at once": lambda image: encoded_again(
        mirrored(ImageEnhance.Brightness(image).enhance(0.8)).resize((128, 128))
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_paired_with_their_originals(faces, name):
    pairs = pairs_of([*faces, *map(CHANGES[name], faces)])
    assert [(pair.first, pair.second) for pair in pairs] == [(i, i + NUMBER) for i in range(NUMBER)]
    assert {pair.mirrored for pair in pairs} == {name in ("mirrored", "all at once")}
    assert all(0.8 <= pair.similarity <= 1 + 1e-5 for pair in pairs)


def test_other_faces_are_none(faces):
    assert pairs_of(faces) == []


def test_groups_join_chains_and_leave_others_alone(faces):
    copies = [mirrored(faces[2]), CHANGES["darker"](mirrored(faces[2])), CHANGES["grey"](faces[7])]
    thumbnails = np.stack([inspection.thumbnail(image) for image in [*faces, *copies]])
    groups = near_duplicates.groups(thumbnails).tolist()
    assert groups[2] == groups[NUMBER] == groups[NUMBER + 1]
    assert groups[7] == groups[NUMBER + 2]
    assert len(set(groups)) == NUMBER
    assert len(set(near_duplicates.groups(thumbnails[:NUMBER]).tolist())) == NUMBER


def test_two_images_are_enough(faces):
    (pair,) = pairs_of([faces[0], encoded_again(mirrored(faces[0]))])
    assert (pair.first, pair.second, pair.mirrored) == (0, 1, True)


def test_a_symmetric_image_makes_one_pair(faces):
    pixels = np.asarray(faces[0].convert("L")).astype(np.int32)
    symmetric = Image.fromarray(((pixels + pixels[:, ::-1]) // 2).astype(np.uint8))
    assert len(pairs_of([symmetric, encoded_again(symmetric)])) == 1


def test_images_without_details_are_none():
    assert pairs_of([Image.new("L", (20, 20), tone) for tone in (0, 100, 255)]) == []


def test_blocks_of_rows_give_all_pairs(faces, monkeypatch):
    images = [*faces[:20], *map(mirrored, faces[:20])]
    whole = pairs_of(images)
    monkeypatch.setattr(near_duplicates, "ROWS", 7)
    assert pairs_of(images) == [
        Pair(pair.first, pair.second, pair.mirrored, pytest.approx(pair.similarity)) for pair in whole
    ]
    assert len(whole) == 20
    monkeypatch.undo()
    monkeypatch.setattr(near_duplicates, "_COLUMNS", 7)
    assert pairs_of(images) == whole


def test_memory_does_not_grow_with_the_number_of_images():
    """A block of rows with all hashes would take 185 MB here."""
    hashes = np.random.default_rng(0).integers(0, 2**63, 40_000, dtype=np.uint64)
    thumbnails = np.zeros((40_000, 32, 32), np.uint8)
    tracemalloc.start()
    try:
        assert near_duplicates._pairs(thumbnails, hashes, hashes, 0) == []
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
