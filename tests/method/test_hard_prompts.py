"""Hard prompts: the three types, granularities and their groups, mixed banks, and the features of several texts."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.loaded import for_classes
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts import features
from mpafer_jax.method.hard_prompts.bank import load_bank, load_banks, permuted
from mpafer_jax.method.hard_prompts.templates import (
    HardPrompts,
    build_hard_prompts,
    check_hard_prompts,
    configured_hard_prompts,
    every_prompt,
    prompt_name,
    prompt_names,
)
from mpafer_jax.runtime.errors import PromptError
from tests import tiny
from tests.jobs import runs

BANK = load_bank("expressions")
FACE = "a photo of a person making a facial expression of {}"


def texts(prompts):
    """[class][text] of prompts with one group."""
    (group,) = prompts.groups
    return [list(own) for own in group.texts]


def section(sample, **changes):
    return runs.config(sample, **{f"hard_prompts.{name}": value for name, value in changes.items()}).hard_prompts


def write_bank(path, classes):
    path.write_text(json.dumps({"name": path.stem, "source": "me", "question": "how?", "classes": classes}))
    return str(path)


def test_the_three_types():
    assert texts(build_hard_prompts(["anger"], 1, None)) == [["a photo of anger"]]
    assert texts(build_hard_prompts(["anger"], 2, None)) == [[FACE.format("anger")]]
    found = texts(build_hard_prompts(["anger"], 3, BANK))
    assert found == [[f"{FACE.format('anger')}, with {said.text}" for said in BANK.texts("anger", "holistic")]]


def test_names_of_several_words_and_synonyms():
    assert prompt_name("happily_surprised") == "happily surprised"
    ((text, *_),) = texts(build_hard_prompts(["Happy"], 3, BANK))
    assert text.startswith(f"{FACE.format('Happy')}, with lip corners pulled up")
    found = texts(build_hard_prompts(["Happily_Surprised"], 3, load_bank("compound")))
    assert found[0][0].startswith(f"{FACE.format('Happily Surprised')}, with both brows raised high")


@pytest.mark.parametrize(
    ("kind", "bank", "message"),
    [(0, BANK, "found type 0"), (4, BANK, "found type 4"), (3, None, "type 3 needs a bank")],
)
def test_other_types_are_refused(kind, bank, message):
    with pytest.raises(ValueError, match=message):
        build_hard_prompts(["anger"], kind, bank)


def test_by_default_the_first_description_of_the_whole_face(sample):
    """Results of runs without granularities stay what they were: this is the one text of a class they had."""
    found = texts(configured_hard_prompts(section(sample), ["contempt", "neutral"]))
    assert found == [
        [
            f"{FACE.format('contempt')}, with one lip corner tightened and raised on a single side of the face, a "
            "slight dimple in that cheek, and eyes half closed or looking down"
        ],
        [
            f"{FACE.format('neutral')}, with relaxed brows, a smooth forehead, calm open eyes, slack cheeks, and "
            "closed lips that neither rise nor fall"
        ],
    ]


def test_granularities_in_one_group_or_each_in_its_own(sample):
    names = ["fear", "surprise"]
    chosen = {"granularity": ("template", "mouth", "brows"), "paraphrases": 2}
    expected = {
        "template": [[FACE.format(name)] for name in names],
        **{
            region: [[f"{FACE.format(n)}, with {said.text}" for said in BANK.texts(n, region)[:2]] for n in names]
            for region in ("mouth", "brows")
        },
    }
    apart = configured_hard_prompts(section(sample, combine="separate", **chosen), names)
    assert {group.name: [list(own) for own in group.texts] for group in apart.groups} == expected
    assert [group.name for group in apart.groups] == list(expected)  # in the configuration's order
    together = configured_hard_prompts(section(sample, combine="mean", **chosen), names)
    assert together.groups[0].name == "template+mouth+brows"
    assert texts(together) == [[*t, *m, *b] for t, m, b in zip(*expected.values(), strict=True)]
    assert together.of_class(1) == apart.of_class(1) == tuple(texts(together)[1])
    everything = configured_hard_prompts(section(sample, granularity=("eyes",), paraphrases=0), names)
    assert [len(own) for own in texts(everything)] == [3, 3]


def test_banks_are_mixed_and_a_class_need_not_be_in_all(sample, tmp_path):
    mine = write_bank(
        tmp_path / "mine.json", {"Boredom": "eyes half closed", "Angry": {"holistic": ["low brows", "hard eyes"]}}
    )
    mixed = section(sample, bank=("expressions", mine))
    names = ["anger", "boredom", "fear"]
    found = texts(configured_hard_prompts(mixed, names))
    first = BANK.texts("anger", "holistic")[0].text
    assert [text.partition(", with ")[2] for text in found[0]] == [first, "low brows"]  # one of each bank
    assert found[1] == [f"{FACE.format('boredom')}, with eyes half closed"]
    assert len(found[2]) == 1
    compound = section(sample, bank=("expressions", "compound"))
    assert len(configured_hard_prompts(compound, [*BANK.classes, *load_bank("compound").classes]).every_text()) == 19
    pooled = load_banks(["expressions", mine], 0)
    assert pooled.name == "expressions + mine"
    assert len(pooled.texts("angry", "holistic")) == 6
    with pytest.raises(
        PromptError, match=r"'expressions \+ mine' says nothing of 'chin' for class 'boredom', only of ho"
    ):
        configured_hard_prompts(section(sample, bank=("expressions", mine), granularity=("chin",)), names)


def test_a_class_that_the_bank_lacks_is_named_with_what_to_do():
    with pytest.raises(PromptError, match=r"no class 'boredom', 'calm'; it has neutral, .*hard_prompts.type to 1 or 2"):
        build_hard_prompts(["anger", "boredom", "fear", "calm"], 3, BANK)
    with pytest.raises(PromptError, match="no class 'calm'"):
        permuted(BANK, ["calm", "fear"], 0)
    # By its name alone a class can be prompted without a bank.
    assert len(build_hard_prompts(["boredom", "fear"], 3, BANK, granularities=("template",)).every_text()) == 2


def test_everything_that_a_bank_lacks_is_named_at_once(tmp_path):
    classes = {"boredom": {"eyes": ["shut"]}, "calm": {"nose": ["small"]}, "anger": {"eyes": ["e"], "nose": ["n"]}}
    mine = load_bank(write_bank(tmp_path / "mine.json", classes))
    message = (
        "'mine' says nothing of 'nose' for class 'boredom', only of eyes; nothing of 'eyes' for class 'calm', only of"
    )
    with pytest.raises(PromptError, match=message):
        build_hard_prompts(["boredom", "calm", "anger"], 3, mine, granularities=("nose", "eyes"))


def test_what_a_bank_says_of_several_classes_alike_is_a_warning(sample, tmp_path):
    classes = {"calm": ["a level mouth", "eyes half shut"], "boredom": ["Eyes half shut", "a yawn"]}
    classes = {name: {"holistic": texts} for name, texts in classes.items()}
    path = pathlib.Path(write_bank(tmp_path / "mine.json", {**classes, "anger": "a frown"}))
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")  # as Windows saves it
    chosen = section(sample, bank=(str(path),), paraphrases=0)
    assert check_hard_prompts(chosen, ("Calm", "anger", "boredom")) == [
        "the description bank 'mine' says 'eyes half shut' of Calm and boredom alike: only their names differ"
    ]
    assert check_hard_prompts(section(sample, bank=(str(path),), paraphrases=1), ("calm", "boredom")) == []
    assert check_hard_prompts(section(sample), tuple(BANK.classes)) == []
    assert check_hard_prompts(section(sample, type=2, bank=(str(path),)), ("calm", "joy")) == []
    with pytest.raises(PromptError, match="no class 'joy', 'fear'"):
        check_hard_prompts(chosen, ("joy", "calm", "fear"))


def test_permuted_classes_get_everything_that_is_said_of_another(sample):
    names = ["anger", "fear", "disgust"]
    chosen = section(sample, granularity=("template", "eyes", "mouth"), combine="separate", paraphrases=0)
    own, other = (configured_hard_prompts(chosen, names, permute_seed=seed) for seed in (None, 1))
    assert own.groups[0] == other.groups[0]  # the template says the class's own name
    donors = set()
    for index, name in enumerate(names):
        said = [text.partition(", with ")[2] for text in other.of_class(index)[1:]]
        (donor,) = (n for n in names if said == [t.text for r in ("eyes", "mouth") for t in BANK.texts(n, r)])
        assert donor != name
        assert all(text.startswith(FACE.format(name)) for text in other.of_class(index))
        donors.add(donor)
    assert donors == set(names)
    assert permuted(BANK, names, 1).entry("anger").items() != BANK.entry("anger").items()


def test_every_prompt_of_a_bank_holds_whatever_can_be_configured(sample):
    everything = every_prompt(BANK)
    assert len(set(everything)) == len(everything) == 8 * (2 + 4 + 6 * 3)
    chosen = section(sample, granularity=("template", "holistic", "nose", "chin"), paraphrases=0)
    assert set(configured_hard_prompts(chosen, list(BANK.classes)).every_text()) < set(everything)


def test_a_checkpoints_description_keeps_the_groups(sample):
    chosen = section(sample, granularity=("brows", "mouth"), combine="separate", paraphrases=0)
    prompts = configured_hard_prompts(chosen, ["anger", "fear"])
    rest = {"config": {}, "class_names": ["a", "b"], "clip_name": "c", "clip_hash": "h", "data": {}, "versions": {}}
    saved = Description(hard_prompts=prompts, **rest).model_dump(mode="json")
    assert Description.model_validate(json.loads(json.dumps(saved))).hard_prompts == prompts
    for broken in ({"groups": []}, {"groups": [{"name": "x", "texts": [["a"], []]}]}):
        with pytest.raises(ValueError, match="in each of them a text for every class"):
            HardPrompts.model_validate(broken)


def unit(x):
    return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_mean_of_texts_by_hand():
    rows = jnp.array([[3.0, 0.0], [0.0, 0.5], [4.0, 3.0], [0.0, -7.0]])
    found = features.mean_of_texts(rows, [[2], [0, 1], [0, 2, 1]])
    np.testing.assert_array_equal(found[0], [4, 3])  # one text: as it is
    np.testing.assert_allclose(found[1], [np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-6)  # lengths 3 and 0.5 weigh the same
    np.testing.assert_allclose(found[2], unit([1 + 0.8, 0.6 + 1]), rtol=1e-6)


def test_class_features_by_hand():
    one = jnp.array([[[3.0, 4.0], [0.0, 2.0]]])
    np.testing.assert_array_equal(features.class_features(one), one[0])
    two = jnp.concatenate([one, jnp.array([[[0.0, 5.0], [1.0, 0.0]]])])
    np.testing.assert_allclose(features.class_features(two), [[0.3, 0.9], [0.5, 0.5]], rtol=1e-6)


@pytest.fixture(scope="module")
def encoder(sample):
    config = runs.config(sample)
    built = build.build_experiment(config, ["anger", "fear"], build.load_frozen_clip(config))
    return built, features.text_encoder(built.model, built.frozen.backbone, built.tokenizer.encode)


def test_names_that_a_dataset_brings_are_read_by_their_canonical_names_and_listed_ones_as_they_are_spelled():
    names = ("Happy", "Deep_Thought", "fear")
    assert prompt_names(names, as_spelled=False) == ("happiness", "deep thought", "fear")
    assert prompt_names(names, as_spelled=True) == ("Happy", "Deep Thought", "fear")


def test_a_folder_keeps_its_word_and_clip_reads_the_canonical_name(sample, encoder):
    built, _ = encoder
    config, clip = runs.config(sample), build.load_frozen_clip(runs.config(sample))
    called = build.build_experiment(config, ["Angry", "scared"], clip)
    assert called.class_names == ("Angry", "scared")
    assert called.hard_prompts == built.hard_prompts
    np.testing.assert_array_equal(called.frozen.soft_prompts.embeddings, built.frozen.soft_prompts.embeddings)
    np.testing.assert_array_equal(called.frozen.hard_text_features, built.frozen.hard_text_features)
    spelled = config.model_copy(
        update={"data": config.data.model_copy(update={"class_names": ("Angry=anger", "scared=fear")})}
    )
    read = build.build_experiment(spelled, ["Angry", "scared"], clip)
    assert read.hard_prompts.of_class(1)[0].startswith(FACE.format("scared"))
    params = build.initial_prompts(config, built)
    # A checkpoint goes by its own configuration, whichever evaluates it.
    parts = {"clip_name": "", "clip_hash": "", "data": {}, "versions": {}, "class_names": read.class_names}
    for made, expected in ((config, ("anger", "fear")), (spelled, ("Angry", "scared"))):
        prompts = read.hard_prompts
        saved = Description(config=made.model_dump(mode="json"), hard_prompts=prompts, **parts)
        assert saved.prompt_names == expected
        again, _ = for_classes(config, params, saved, clip, ("Angry", "scared"))
        own = read if made is spelled else built
        np.testing.assert_array_equal(again.frozen.soft_prompts.embeddings, own.frozen.soft_prompts.embeddings)


def test_groups_are_encoded_in_one_pass_and_each_text_once(sample, encoder):
    built, real = encoder
    passes = []

    def counting(lines):
        passes.append(lines)
        return real(lines)

    names = ["anger", "fear"]
    chosen = {"granularity": ("template", "brows", "mouth"), "paraphrases": 2}
    prompts = {
        "apart": configured_hard_prompts(section(sample, combine="separate", **chosen), names),
        "mean": configured_hard_prompts(section(sample, **chosen), names),
        "own": built.hard_prompts,
    }
    found = features.encode_hard_prompts(prompts, counting)
    assert [len(lines) for lines in passes] == [len(set(passes[0]))] == [2 * (1 + 2 + 2 + 1)]
    for kind in (0, 1):  # joint features, pooled token embeddings
        each = dict(zip(passes[0], np.asarray(real(passes[0])[kind]), strict=True))
        for group, texts_of_group in enumerate(prompts["apart"].groups):
            for index, own in enumerate(texts_of_group.texts):
                expected = sum(unit(each[text]) for text in own)
                np.testing.assert_allclose(
                    unit(found["apart"][kind][group, index]), unit(expected), rtol=1e-4, atol=1e-6
                )
        expected = [sum(unit(each[text]) for text in prompts["mean"].of_class(index)) for index in (0, 1)]
        np.testing.assert_allclose(found["mean"][kind][0], unit(expected), rtol=1e-4, atol=1e-6)


def test_one_text_per_class_is_encoded_to_the_bit_as_if_there_were_no_groups(encoder):
    built, real = encoder
    assert built.frozen.hard_text_features.shape == (1, 2, 64)
    text_features, token_features = real([built.hard_prompts.of_class(index)[0] for index in (0, 1)])
    np.testing.assert_array_equal(built.frozen.hard_text_features[0], text_features)
    np.testing.assert_array_equal(built.frozen.hard_token_features[0], token_features)


def test_a_text_that_is_too_long_is_named():
    encoder = features.text_encoder(tiny.model(), {}, lambda text: [98, *[1] * len(text.split()), 99])
    with pytest.raises(PromptError, match=r"4 of 4 prompts do not fit the 16 positions [\s\S]*35 tokens: 'a photo of"):
        features.encode_hard_prompts({"x": build_hard_prompts(["anger"], 3, BANK)}, encoder)
