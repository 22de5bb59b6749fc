"""Captions and statements from votes made by hand; a labelled dataset as the source."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.expressions import CANONICAL_NAMES, canonical_name
from mpafer_jax.jobs.pretraining.config import LabelledSection
from mpafer_jax.jobs.pretraining.labelled import caption_all, read_labelled, wordings
from mpafer_jax.method.hard_prompts.bank import Bank, load_bank
from mpafer_jax.runtime.errors import ConfigError, DataError, PromptError
from tests.jobs.pretraining import tiny

PARTS = {"brows": [["low brows"], ["high brows"]], "mouth": [["a thin mouth"], ["a wide mouth"]]}


def phrases(*votes, parts=PARTS, images=60):
    """What the captions of some images with these votes say, without their openings."""
    captions = [caption_all(np.array(votes, np.float32), parts, (0, i)) for i in range(images)]
    assert {len(of_image) for of_image in captions} == {4}
    found = [re.fullmatch(r"an? [a-z ]*?(?:face|person) with (.*)", text) for texts in captions for text in texts]
    return [re.split(", and |, ", match[1]) for match in found]


def test_the_share_of_the_votes_says_how_plainly_a_part_is_described():
    spoken = phrases(0.65, 0.35)
    first = {"low brows", "a thin mouth"}
    second = {
        form.format(text)
        for form in ("{} to some degree", "more or less {}")
        for text in ("high brows", "a wide mouth")
    }
    counts = Counter(phrase for said in spoken for phrase in said)
    assert set(counts) == first | second
    assert 0.57 < sum(counts[phrase] for phrase in first) / counts.total() < 0.73
    hints = {form.format(text) for form in ("a hint of {}", "a trace of {}") for text in ("high brows", "a wide mouth")}
    assert {phrase for said in phrases(0.66, 0.34) for phrase in said} == first | hints
    assert {phrase for said in phrases(0, 1) for phrase in said} == {"high brows", "a wide mouth"}


def test_a_caption_says_something_of_one_to_three_parts_each_once():
    parts = {name: [[f"{name} one", f"{name} other"]] for name in ("holistic", "brows", "eyes", "nose", "mouth")}
    spoken = phrases(1.0, parts=parts)
    assert {len(said) for said in spoken} == {1, 2, 3}
    assert all(len({phrase.split()[0] for phrase in said}) == len(said) for said in spoken)
    assert {phrase for said in spoken for phrase in said} == {text for texts in parts.values() for text in texts[0]}


def test_captions_are_a_function_of_the_votes_and_the_seed():
    votes = np.array([0.5, 0.5], np.float32)
    assert caption_all(votes, PARTS, (1, 2)) == caption_all(votes, PARTS, (1, 2))
    assert len({caption_all(votes, PARTS, seed) for seed in ((1, 2), (1, 3), (2, 2))}) == 3


def test_parts_that_a_class_lacks_are_left_out():
    bank = Bank(
        name="two",
        source="",
        question="",
        classes={
            "happiness": {"holistic": ["round cheeks"], "brows": ["calm brows", "brows at rest"], "mouth": ["a grin"]},
            "anger": {"holistic": ["tense lids"], "brows": ["low brows"], "chin": ["a raised chin"]},
        },
    )
    assert wordings(("angry", "happy"), bank) == {
        "holistic": [["tense lids"], ["round cheeks"]],
        "brows": [["low brows"], ["calm brows", "brows at rest"]],
    }
    with pytest.raises(PromptError, match="'two' has no class 'fear'"):
        wordings(("anger", "fear"), bank)
    apart = {"happiness": {"mouth": ["a grin"]}, "anger": {"chin": ["a raised chin"]}}
    with pytest.raises(PromptError, match=r"labelled\.bank: there is no part .* for all of anger, happiness"):
        wordings(("anger", "happiness"), Bank(name="apart", source="", question="", classes=apart))


def test_the_shipped_bank_names_no_class():
    parts = wordings(CANONICAL_NAMES, load_bank("expressions"))
    assert list(parts) == ["holistic", "brows", "eyes", "nose", "cheeks", "mouth", "chin"]
    votes = np.random.default_rng(0).dirichlet([0.3] * 8, 100).astype(np.float32)
    captions = [text for i, row in enumerate(votes) for text in caption_all(row, parts, (0, i))]
    assert len(set(captions)) > 350
    for text in {*captions, *(text for by_class in parts.values() for texts in by_class for text in texts)}:
        words = re.findall(r"[a-z]+", text)
        for named in (*words, *map(" ".join, itertools.pairwise(words))):
            assert canonical_name(named) not in CANONICAL_NAMES, text


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    return LabelledSection(**tiny.write_labelled(tmp_path_factory.mktemp("labelled")), held_out_fraction=0.25)


def test_images_of_a_dataset_with_their_votes(section):
    train, held_out = read_labelled(section, seed=0)
    assert (len(train), len(held_out)) == (12, 4)
    pixels = {name: np.asarray(Image.open(tiny.labelled_image(section.dir, name))) for name in tiny.VOTES}
    seen = []
    for data in (train, held_out):
        assert data.truth.dtype == np.float32
        assert len(data.images) == len(data)
        for i in range(len(data)):
            image = data.images[i]
            assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
            (name,) = [name for name, grey in pixels.items() if np.array_equal(grey, image[:, :, 0])]
            seen.append(name)
            votes = np.array(tiny.VOTES[name][:8]) / sum(tiny.VOTES[name])
            np.testing.assert_allclose(data.truth[i], [*votes, *votes], rtol=1e-6)
    assert sorted(seen) == sorted(tiny.VOTES)
    # Two groups, of the whole face and of the mouth: the bank describes no other part of every class.
    assert train.statements == held_out.statements
    assert train.groups() == [list(range(8)), list(range(8, 16))]
    assert [statement.group for statement in train.statements] == ["holistic"] * 8 + ["mouth"] * 8
    assert train.statements[9].phrasings == train.statements[9].held_out == ("mouth b", "lips b")


def test_fields_are_named_as_they_are_configured(section):
    with pytest.raises(PromptError, match=r"config\.data\.labelled\.bank 'nosuch' is neither a file nor a bank"):
        read_labelled(section.model_copy(update={"bank": "nosuch"}), seed=0)


def test_reading_again_gives_the_same(section):
    for one, same, other in zip(*(read_labelled(section, seed) for seed in (0, 0, 1)), strict=True):
        assert one.captions == same.captions != other.captions
        assert one.fingerprint == same.fingerprint != other.fingerprint
        np.testing.assert_array_equal(one.truth, other.truth)
    moved = [read_labelled(section.model_copy(update={"split_seed": seed}), 0)[1].truth for seed in (0, 1)]
    assert not np.array_equal(*moved)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dir": ""}, ConfigError, r"^config\.data\.labelled\.dir is empty"),
        ({"dataset": "ferpluss"}, ConfigError, r"^config\.data\.labelled\.dataset is 'ferpluss'"),
        ({"label_rule": "owner"}, ConfigError, r"label_rule is 'owner', which does not go with dataset 'ferplus'"),
        ({"held_out_fraction": 0.0}, DataError, r"config\.data\.labelled\.held_out_fraction is 0"),
        ({"bank": "poems"}, PromptError, "'poems'"),
    ],
)
def test_mistakes_are_named(section, changes, error, message):
    with pytest.raises(error, match=message):
        read_labelled(section.model_copy(update=changes), seed=0)
