"""Captions: true of the face, silent about its expression, and worded otherwise where they are held out."""

import dataclasses
import re

import numpy as np
import pytest

from mpafer_jax.config.expressions import _SYNONYMS
from mpafer_jax.data.synthface import captioned, captions
from mpafer_jax.data.synthface.face import Face, Scene
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.data.synthface.units import UNITS
from mpafer_jax.method.hard_prompts.bank import load_bank
from tests.data.synthface.faces import PERSON, intensities

FORBIDDEN = {word for name, words in _SYNONYMS.items() for word in (name, *words)}
FORBIDDEN |= {"smile", "frown", "laugh", "cry", "scowl", "grin", "pout"}
# Words of the bank that no phrase has; little words carry no feature.
NOT_SHOWN = {
    "flared": "the renderer knows no unit 38",
    "nostrils": "the same",
    "bares": "phrases say 'to bare' and 'bared'",
    "pushes": "phrases say 'push' and 'pushed'",
    "fold": "phrases say 'folds'",
    "below": "phrases say 'under'",
}
LITTLE = {"a", "all", "and", "are", "at", "in", "into", "is", "neither", "nor", "not", "of", "on", "or", "that", "the"}
LITTLE |= {"them", "to", "with"}


def words(text):
    return re.findall(r"[a-z'-]+", text.lower())


def all_phrases():
    return [phrase for said in captions.statements().values() for phrase in said.phrases]


def all_held_out():
    return [phrase for said in captions.statements().values() for phrase in said.held_out]


def face(active=None, **scene):
    return Face(PERSON, intensities(active), Scene(**scene))


def truth(active=None, **scene):
    return dict(zip(captions.statements(), captions.truth(face(active, **scene)).tolist(), strict=True))


@pytest.fixture(scope="module")
def jobs():
    return captioned.sample_jobs(400, [STYLES["colour"], STYLES["paint"], STYLES["sketch"]], seed=3)


@pytest.fixture(scope="module")
def described(jobs):
    return captioned.describe(jobs, held_out=100, seed=3)


def names_an_expression(text):
    """Any form of the word: 'smiling', 'angrily', 'fearless' begin like it."""
    stems = {word.removesuffix("y").removesuffix("e") for word in FORBIDDEN if " " not in word}
    plain = {word for word in words(text) if any(word.startswith(stem) for stem in stems if len(stem) > 3)}
    plain |= {word for word in words(text) if word in FORBIDDEN or word in {"cries", "cried", "crying", "joyous"}}
    return plain or ("no expression" in text.lower())


def test_nothing_names_an_expression(described):
    for text in (
        *all_phrases(),
        *all_held_out(),
        *captions._phrases().openings,
        *(t for own in described for t in own),
    ):
        assert not names_an_expression(text), text


def test_held_out_wordings_are_never_used_in_training(described):
    training = [text for own in described[:-100] for text in own]
    everything = "\n".join([*training, *all_phrases()])
    assert not [phrase for phrase in all_held_out() if phrase in everything]
    held_out = "\n".join(text for own in described[-100:] for text in own)
    assert sum(phrase in held_out for phrase in all_held_out()) > 30
    assert all(len(own) == 1 for own in described[-100:])


def test_the_banks_words_are_learnt():
    known = {word for phrase in all_phrases() for word in words(phrase)}
    entries = load_bank("expressions").classes.values()
    missing = {word for entry in entries for _, said in entry.items() for word in words(said.text)} - known - LITTLE
    assert missing - set(NOT_SHOWN) == set()
    assert set(NOT_SHOWN) <= missing  # an exception that is none any more has to go


def test_statements_are_the_units_and_then_the_states():
    names = list(captions.statements())
    assert names[: len(UNITS)] == [str(unit) for unit in UNITS]
    assert names[len(UNITS) :] == list(captions._STATES)
    for said in captions.statements().values():
        assert len(said.phrases) >= 4
        assert len(said.held_out) >= 2
    assert len({*all_phrases(), *all_held_out()}) == len(all_phrases()) + len(all_held_out())


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_is_true_where_it_moves_and_false_where_not(unit):
    assert truth({unit: 1.0})[str(unit)] == 1
    assert truth()[str(unit)] == 0
    assert truth({unit: 0.1})[str(unit)] == 0  # too weak to be seen


def test_truth_grows_with_the_intensity():
    values = [truth({4: strength})["4"] for strength in (0.1, 0.2, 0.3, 0.5)]
    assert values[0] == 0
    assert values[-1] == 1
    assert values == sorted(set(values))


@pytest.mark.parametrize(
    ("statement", "true", "false"),
    [
        ("both brow ends raised", {1: 0.8, 2: 0.8}, {1: 0.8, 2: 0.8, 4: 0.8}),
        ("both brow ends raised", {1: 0.8, 2: 0.8}, {1: 0.8}),
        ("inner ends up and drawn together", {1: 0.8, 4: 0.8}, {4: 0.8}),
        ("lids droop", {43: 0.5}, {43: 1.0}),
        ("lids droop", {43: 0.5}, {}),
        ("mouth raised on one side", {12: (0.8, 0.0)}, {12: 0.8}),
        ("12", {12: 0.8}, {12: (0.8, 0.0)}),
        ("43", {43: 1.0}, {43: 0.5}),
        ("brows at rest", {12: 0.8}, {2: 0.8}),
        ("eyes at rest", {12: 0.8}, {7: 0.8}),
        ("cheeks at rest", {4: 0.8}, {6: 0.8}),
        ("nose at rest", {12: 0.8}, {9: 0.8}),
        ("chin at rest", {26: 0.8}, {17: 0.8}),
        ("mouth at rest", {4: 0.8}, {26: 0.8}),
    ],
)
def test_states_of_several_units(statement, true, false):
    assert truth(true)[statement] == 1
    assert truth(false)[statement] == 0


@pytest.mark.parametrize(
    ("occlusion", "hidden"),
    [
        (
            "scarf",
            {
                *("10", "12", "14", "15", "16", "17", "20", "23", "24", "25", "26", "27"),
                *("mouth raised on one side", "cheeks at rest", "mouth at rest", "chin at rest"),
            },
        ),
        ("sunglasses", {"5", "6", "7", "43", "lids droop", "eyes at rest", "cheeks at rest"}),
    ],
)
def test_hidden_parts_are_unknown_and_unsaid(occlusion, hidden):
    """A statement about several units is unknown as soon as one of them cannot be seen."""
    everything = dict.fromkeys((1, 5, 7, 9, 12, 25), 0.9)
    known = truth(everything)
    for name, value in truth(everything, occlusion=occlusion).items():
        if name in hidden:
            assert np.isnan(value), name
        else:
            assert value == known[name], name
    unsaid = [phrase for name in hidden for phrase in captions.statements()[name].phrases]
    rng = np.random.default_rng(0)
    covered, open_face = (face(everything, occlusion=kind) for kind in (occlusion, "none"))
    said = [captions.caption(covered, STYLES["colour"], rng) for _ in range(150)]
    assert not [text for text in said for phrase in unsaid if phrase in text]
    plain = [captions.caption(open_face, STYLES["colour"], rng) for _ in range(150)]
    assert [text for text in plain for phrase in unsaid if phrase in text]


def test_captions_say_only_what_is_true(jobs):
    rng = np.random.default_rng(0)
    said, found = captions.statements(), 0
    meant = {phrase: name for name, own in said.items() for phrase in own.phrases}
    for job in jobs[:200]:
        values = dict(zip(said, captions.truth(job.face).tolist(), strict=True))
        text = captions.caption(job.face, job.style, rng)
        for part in re.split(r", and |, ", text.partition(" with ")[2]):
            if part in meant:
                assert values[meant[part]] >= 0.5, (text, part)
                found += 1
    assert found > 200


def test_a_relaxed_face_is_described_by_what_rests():
    rng = np.random.default_rng(0)
    states = captions._STATES.items()
    resting = [p for name, state in states if state.resting for p in captions.statements()[name].phrases]
    moving = [str(unit) for unit in UNITS] + [name for name, state in states if not state.resting]
    active = [p for name in moving for p in captions.statements()[name].phrases]
    texts = [captions.caption(face(), STYLES["colour"], rng) for _ in range(50)]
    assert all(any(phrase in text for phrase in resting) for text in texts)
    assert not [(text, phrase) for text in texts for phrase in active if f" {phrase}," in f" {text},"]


def test_faces_and_captions_are_drawn_from_their_seed(jobs, described):
    styles = [STYLES["colour"], STYLES["paint"], STYLES["sketch"]]
    shorter = captioned.sample_jobs(5, styles, seed=3)
    for one, other in zip(shorter, jobs, strict=False):
        assert (one.seed, one.style, one.face.identity) == (other.seed, other.style, other.face.identity)
        np.testing.assert_array_equal(one.face.units, other.face.units)
    assert captioned.describe(jobs[:20], 0, seed=3) == described[:20]
    assert captioned.describe(jobs[:20], 0, seed=4) != described[:20]
    assert {job.style.name for job in jobs} == {"colour", "paint", "sketch"}
    other = captioned.sample_jobs(5, styles, seed=4)
    assert [job.face.identity for job in other] != [job.face.identity for job in shorter]


def test_the_fingerprint_covers_everything_that_is_drawn(jobs, monkeypatch):
    first, *others = jobs[:3]
    turned = dataclasses.replace(first.face, scene=dataclasses.replace(first.face.scene, yaw=1.0))
    changed = [
        jobs[:4],
        [dataclasses.replace(first, seed=(0,)), *others],
        [dataclasses.replace(first, style=STYLES["grey"]), *others],
        [dataclasses.replace(first, face=turned), *others],
    ]
    digests = [captioned.fingerprint(own, 96) for own in (jobs[:3], *changed)]
    digests.append(captioned.fingerprint(jobs[:3], 48))
    monkeypatch.setattr(captioned, "VERSION", "another")
    digests.append(captioned.fingerprint(jobs[:3], 96))
    assert len(set(digests)) == 7
