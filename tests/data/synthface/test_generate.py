"""Many images: reproducible, whoever draws them; splits of different people; tied to the renderer's version."""

import collections
import dataclasses

import numpy as np
import pytest

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.expressions import FREQUENCIES, PROTOTYPES
from mpafer_jax.data.synthface.styles import STYLES
from tests.data.synthface import golden

STYLE = STYLES["colour"]


def test_images_do_not_depend_on_the_number_of_processes():
    jobs = [generate.face_of(0, "train", index, STYLES["grey"]).job for index in range(70)]
    alone = generate.render_all(jobs, 32, processes=1)
    assert (alone.shape, alone.dtype) == ((70, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(alone, generate.render_all(jobs, 32, processes=2))
    # Nor on what was drawn before.
    np.testing.assert_array_equal(alone[65], generate.face_of(0, "train", 65, STYLES["grey"]).job.pixels(32))
    assert generate.render_all([], 32).shape == (0, 32, 32, 3)


def test_seed_split_index_and_style_all_matter():
    base = generate.face_of(0, "train", 0, STYLE).job.pixels(32)
    for other in (
        generate.face_of(1, "train", 0, STYLE),
        generate.face_of(0, "test", 0, STYLE),
        generate.face_of(0, "train", 1, STYLE),
        generate.face_of(0, "train", 0, STYLES["paint"]),
    ):
        assert (base != other.job.pixels(32)).mean() > 0.5


def test_a_person_is_in_four_images_in_a_row_and_in_one_split():
    people = {
        split: [generate.face_of(3, split, index, STYLE) for index in range(120)]
        for split in ("train", "validation", "test")
    }
    identities = {split: {sample.job.face.identity for sample in samples} for split, samples in people.items()}
    assert [len(found) for found in identities.values()] == [30, 30, 30]
    assert len(set.union(*identities.values())) == 90
    for samples in people.values():
        for index, sample in enumerate(samples):
            assert sample.person == index // 4
            assert sample.job.face.identity == samples[4 * (index // 4)].job.face.identity


def test_expressions_come_at_their_frequencies():
    counts = collections.Counter(generate.expression_of(0, "train", index) for index in range(6000))
    assert set(counts) == set(FREQUENCIES) == set(PROTOTYPES)
    total = sum(FREQUENCIES.values())
    for name, frequency in FREQUENCIES.items():
        assert counts[name] / 6000 == pytest.approx(frequency / total, abs=0.02)
    assert max(counts.values()) / min(counts.values()) < 2.5


def test_a_bald_person_has_no_strand_of_hair_before_the_face():
    often = dataclasses.replace(STYLE, occlusion=1.0)
    faces = [generate.face_of(0, "train", index, often).job.face for index in range(600)]
    bald = [face.scene.occlusion for face in faces if face.identity.hair == "bald"]
    assert len(bald) > 20
    assert "hair" not in bald
    assert "hair" in {face.scene.occlusion for face in faces}


def test_the_version_stands_for_what_is_drawn():
    """Prepared datasets are found by the version; one that draws other images under the same number is a trap."""
    assert golden.path().is_file(), "a new version: run python -m tests.data.synthface.golden"
    with np.load(golden.path(), allow_pickle=False) as stored:
        expected = dict(stored)
    drawn = golden.coarse()
    assert drawn.keys() == expected.keys(), "styles came or went: run python -m tests.data.synthface.golden"
    for name, images in drawn.items():
        # Far above what another processor's or Pillow's rounding does to a mean of 144 pixels.
        assert np.abs(images.astype(int) - expected[name].astype(int)).max() <= 2, (
            f"the renderer draws other images in {name} than its version did: raise generate.VERSION, "
            "then run python -m tests.data.synthface.golden"
        )
