"""Banks: their format, and the two that ship: whole, seen, sane, silent about expressions, short enough for CLIP."""

import itertools
import json
import pathlib
import re

import pytest

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import CLIPS_TOKENIZER, SHIPPED
from mpafer_jax.config.expressions import _SYNONYMS, CANONICAL_NAMES, canonical_name
from mpafer_jax.method.hard_prompts.bank import (
    ACTION_UNITS,
    GRANULARITIES,
    BankText,
    load_bank,
    load_banks,
    permuted,
)
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.runtime.errors import PromptError

# RAF-DB's compound classes in the order of its labels 1 to 11 (Li, Deng and Du, 2017).
COMPOUND = (
    "happily surprised",
    "happily disgusted",
    "sadly fearful",
    "sadly angry",
    "sadly surprised",
    "sadly disgusted",
    "fearfully angry",
    "fearfully surprised",
    "angrily surprised",
    "angrily disgusted",
    "disgustedly surprised",
)
BANKS = {name: load_bank(name) for name in ("expressions", "compound")}
PARAPHRASES = {"expressions": (4, 3), "compound": (3, 2)}  # of the whole face, of each region
# Which units leave traces in a region; 9 also lowers the brows and narrows the eyes, 10, 12, 15, 20 and 26 move the
# cheeks, 20 and 26 the chin.
UNITS_OF = {
    "brows": {1, 2, 4, 9},
    "eyes": {5, 6, 7, 9, 43, 64},
    "nose": {9, 10, 11, 12, 38},
    "cheeks": {6, 9, 10, 12, 14, 15, 20, 26},
    "mouth": {10, 12, 14, 15, 16, 17, 20, 23, 24, 25, 26},
    "chin": {17, 20, 26},
}
# Du, Tao and Martinez (2014), table 1: units of most people, and in the second set of some.
MOST = {
    "happily surprised": ({1, 2, 12, 25}, {5, 26}),
    "happily disgusted": ({10, 12, 25}, {4, 6, 9}),
    "sadly fearful": ({1, 4, 20, 25}, {2, 5, 6, 15}),
    "sadly angry": ({4, 15}, {6, 7, 11, 17}),
    "sadly surprised": ({1, 4, 25, 26}, {2, 6}),
    "sadly disgusted": ({4, 10}, {1, 6, 9, 11, 15, 17, 25}),
    "fearfully angry": ({4, 20, 25}, {5, 7, 10}),
    "fearfully surprised": ({1, 2, 5, 20, 25}, {4, 10, 26}),
    "angrily surprised": ({4, 25, 26}, {5, 7, 10}),
    "angrily disgusted": ({4, 10, 17}, {7, 9, 24}),
    "disgustedly surprised": ({1, 2, 5, 10}, {4, 9, 17, 24}),
}


def entries(bank):
    return [(name, region, said) for name in bank.classes for region, said in bank.entry(name).items()]


def units(bank, name, granularity=None):
    return {
        unit for region, said in bank.entry(name).items() if granularity in (None, region) for unit in said.action_units
    }


@pytest.mark.parametrize("name", BANKS)
def test_every_class_has_every_granularity_in_paraphrases_that_differ(name):
    bank = BANKS[name]
    assert tuple(bank.classes) == {"expressions": CANONICAL_NAMES, "compound": COMPOUND}[name]
    whole, region = PARAPHRASES[name]
    for class_name, granularity in itertools.product(bank.classes, GRANULARITIES):
        assert len(bank.texts(class_name, granularity)) == (whole if granularity == "holistic" else region)
    said = [text.text for _, _, text in entries(bank)]
    assert len(set(said)) == len(said)  # no class says word for word what another says
    for class_name, granularity in itertools.product(bank.classes, GRANULARITIES):
        words = [frozenset(re.findall("[a-z]+", text.text)) for text in bank.texts(class_name, granularity)]
        assert len(set(words)) == len(words)  # not the same words in another order


@pytest.mark.parametrize("name", BANKS)
def test_texts_are_noun_phrases_of_what_is_seen_and_name_no_expression(name):
    stems = {"happ", "sad", "surpris", "fear", "disgust", "ang(?:er|ry|ri)", "contempt", "neutral", "smil", "frown"}
    forbidden = re.compile(rf"\b(?:{'|'.join(stems | {w for words in _SYNONYMS.values() for w in words})})")
    for class_name in BANKS[name].classes:
        assert forbidden.search(class_name)  # the pattern finds what it is made for
    for _, granularity, said in entries(BANKS[name]):
        assert not forbidden.search(said.text), said.text
        assert re.fullmatch(r"[a-z][a-z ,-]*[a-z]", said.text), said.text
        assert granularity != "holistic" or said.text.count(", ") >= 1, said.text


@pytest.mark.parametrize("name", BANKS)
def test_units_belong_to_their_region_and_only_a_neutral_face_has_none(name):
    bank = BANKS[name]
    for class_name, granularity, said in entries(bank):
        assert list(said.action_units) == sorted(set(said.action_units))
        if granularity != "holistic":
            assert set(said.action_units) <= UNITS_OF[granularity], (class_name, said)
    resting = {class_name for class_name in bank.classes if not units(bank, class_name)}
    assert resting == ({"neutral"} if name == "expressions" else set())
    assert set().union(*UNITS_OF.values()) <= ACTION_UNITS
    first = [frozenset(bank.texts(class_name, "holistic")[0].action_units) for class_name in bank.classes]
    assert len(set(first)) == len(first)  # classes differ in them


def test_compound_faces_show_the_units_that_most_people_show():
    bank = BANKS["compound"]
    assert tuple(MOST) == COMPOUND
    for name, (most, some) in MOST.items():
        assert most <= set(bank.texts(name, "holistic")[0].action_units) <= most | some
        every = units(bank, name)
        # Folds beside a lifted nose or lip, and where an angry gaze goes, are no units of the table.
        assert most <= every <= most | some | {5, 6, 9, 11, 12, 26, 64}


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize(("vocabulary", "longest"), [(CLIPS_TOKENIZER, 55), (SHIPPED["tiny-face-clip"].folder, 64)])
def test_every_prompt_fits_clips_77_positions(name, vocabulary, longest):
    lengths = [len(ids) for ids in load_tokenizer(vocabulary).encode_many(every_prompt(BANKS[name]))]
    assert min(lengths) >= 5
    assert max(lengths) <= longest


@pytest.mark.parametrize("name", COMPOUND)
def test_compound_names_as_datasets_spell_them(name):
    for spelled in (name.replace(" ", "_"), name.title(), name.title().replace(" ", "_"), name.replace(" ", "-")):
        assert canonical_name(spelled) == name
        assert BANKS["compound"].entry(spelled) is BANKS["compound"].classes[name]


def write(path, **changes):
    content = {"name": "mine", "source": "me", "question": "how?", "classes": {"boredom": "half-closed eyes"}}
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def test_a_bank_of_ones_own_in_its_shortest_form(tmp_path):
    bank = load_bank(write(tmp_path / "mine.json"))
    assert bank.texts("Boredom", "holistic") == (BankText(text="half-closed eyes"),)
    mixed = {"brows": ["low brows", {"text": "slack brows", "action_units": [4]}]}
    bank = load_bank(write(tmp_path / "mine.json", classes={"boredom": mixed}))
    assert bank.texts("boredom", "brows") == (
        BankText(text="low brows"),
        BankText(text="slack brows", action_units=(4,)),
    )
    assert bank.first(1).texts("boredom", "brows") == (BankText(text="low brows"),)
    assert bank.first(0) is bank
    with pytest.raises(
        PromptError, match=r"'mine' says nothing of 'holistic' for class 'boredom', only of brows; choose"
    ):
        bank.texts("boredom", "holistic")


def test_the_example_of_the_documentation_is_a_bank(tmp_path):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "hard_prompts.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.json").write_text(example)
    bank = load_bank(str(tmp_path / "mine.json"))
    assert [said.action_units for said in bank.texts("boredom", "holistic")] == [(43,), ()]
    assert bank.texts("interest", "holistic") == (BankText(text="raised brows and wide open eyes"),)


def test_texts_of_a_bank_are_cleaned_and_keep_their_capitals(tmp_path):
    said = "Wide\u00a0open eyes, \u201c\ufb01rm\u201d lips"
    (text,) = load_bank(write(tmp_path / "mine.json", classes={"boredom": said})).texts("boredom", "holistic")
    assert text.text == 'Wide open eyes, "firm" lips'


def test_what_is_written_is_read_again(tmp_path):
    for bank in BANKS.values():
        (tmp_path / "again.json").write_text(bank.model_dump_json())
        assert load_bank(str(tmp_path / "again.json")) == bank


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["boredom"]}, r"classes\n"),
        ({"author": "me"}, r"author\n  Extra"),
        ({"name": 3}, r"name\n"),
        ({"classes": {"boredom": {"forehead": ["lines"]}}}, r"classes.boredom.forehead\n  Extra"),
        ({"classes": {"boredom": {}}}, "a class needs a text in at least one of holistic, brows"),
        ({"classes": {"boredom": {"eyes": []}}}, "a class needs a text in at least one of holistic, brows"),
        ({"classes": {"boredom": {"eyes": "half closed"}}}, r"classes.boredom.eyes\n"),
        ({"classes": {"boredom": {"eyes": [{"text": "half", "units": [43]}]}}}, r"boredom.eyes.0.units\n  Extra"),
        (
            {"classes": {"boredom": {"eyes": [{"text": "half", "action_units": [40, 43]}]}}},
            r"has no action units \[40\]",
        ),
        ({"classes": {"boredom": {"eyes": [{"text": "half", "action_units": ["43"]}]}}}, "valid integer"),
        ({"classes": {"boredom": ""}}, r"one line of text without blanks around it, found ''"),
        ({"classes": {"boredom": "two\nlines"}}, r"found 'two\\nlines'"),
        ({"classes": {"boredom": " eyes"}}, "found ' eyes'"),
        ({"classes": {"Happy": "one", "joy": "two"}}, "'Happy' and 'joy' are the same class, 'happiness'"),
        ({"provenance": {"model": "m"}}, r"provenance.date\n  Field required"),
    ],
)
def test_what_is_no_bank_is_refused_by_name_and_place(tmp_path, changes, message):
    path = write(tmp_path / "mine.json", **changes)
    with pytest.raises(
        PromptError, match=rf"mine.json is not a description bank \(docs/hard_prompts.md .*\): [\s\S]*{message}"
    ):
        load_bank(path)


def test_a_bank_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(PromptError, match=r"'nobody' is neither a file nor .*\(compound, expressions\)"):
        load_bank("nobody")
    for content in (b"\xff\xfe", b"{"):
        (tmp_path / "mine.json").write_bytes(content)
        with pytest.raises(PromptError, match=r"mine.json is not a description bank"):
            load_bank(str(tmp_path / "mine.json"))


@pytest.mark.parametrize(
    ("classes", "twice"),
    [('"a": {"holistic": ["x"]}, "a": {"mouth": ["y"]}', "a"), ('"a": {"mouth": ["x"], "mouth": ["y"]}', "mouth")],
)
def test_what_stands_twice_in_a_bank_is_refused(tmp_path, classes, twice):
    path = tmp_path / "mine.json"
    path.write_text(f'{{"name": "mine", "source": "me", "question": "?", "classes": {{{classes}}}}}')
    with pytest.raises(PromptError, match=rf"mine.json is not .*: '{twice}' stands twice in one object"):
        load_bank(str(path))


def test_pooling_keeps_the_order_of_the_banks_and_cuts_each_of_them(tmp_path):
    one = write(tmp_path / "one.json", name="one", classes={"joy": {"eyes": ["a", "b"], "mouth": ["c"]}})
    two = write(tmp_path / "two.json", name="two", classes={"Happy": {"eyes": ["d", "e"]}, "calm": "f"})

    def said(bank, name, granularity):
        return [text.text for text in bank.texts(name, granularity)]

    bank = load_banks([one, two], 0)
    assert list(bank.classes) == ["joy", "calm"]
    assert said(bank, "happiness", "eyes") == ["a", "b", "d", "e"]
    assert said(bank, "happiness", "mouth") == ["c"]
    assert said(bank, "calm", "holistic") == ["f"]
    assert said(load_banks([two, one], 1), "happiness", "eyes") == ["d", "a"]
    assert load_banks(["expressions"], 0) == BANKS["expressions"]


def test_one_class_cannot_be_permuted():
    with pytest.raises(PromptError, match="one class cannot be permuted"):
        permuted(BANKS["expressions"], ("anger",), 0)


def test_the_path_of_a_bank_may_be_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    bank = load_bank(write(tmp_path / "mine.json"))
    assert load_bank("~/mine.json") == bank
    with pytest.raises(PromptError, match=r"hard_prompts\.bank is 'gs://bucket/mine.json': expected a file"):
        load_bank("gs://bucket/mine.json")
