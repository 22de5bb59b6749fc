"""Which answers can stand in a bank, and what is said of the others."""

import json

import pytest

from mpafer_jax.method.hard_prompts.generation.answers import Expected, UnusableAnswerError, load_budget, read_answer
from mpafer_jax.method.hard_prompts.generation.backends import Reply

EXPECTED = Expected("happily_surprised", 1, load_budget("tiny-face-clip"))


def reply(text="raised brows", units=(1, 2), *, whole=None, **changes):
    content = json.dumps({"descriptions": [{"text": text, "action_units": list(units)}]})
    return Reply(text=content if whole is None else whole, model="m", answer_format="text", **changes)


@pytest.mark.parametrize(
    "given",
    [
        reply("  raised\u00a0 brows. ", (2, 1, 2)),
        reply(whole='```json\n{"descriptions": [{"text": "raised brows", "action_units": [1, 2]}]}\n```'),
        Reply('hm {?}</think>{"descriptions": [{"text": "raised brows", "action_units": [1, 2]}]} ok', "m", "text"),
        reply(cut_off=True),  # after the end of the JSON
    ],
)
def test_usable_answers(given):
    (found,) = read_answer(given, EXPECTED)
    assert (found.text, found.action_units) == ("raised brows", (1, 2))


def test_answers_are_kept_as_clip_is_to_read_them():
    (found,) = read_answer(reply("the nose\u2019s bridge,\u2003\u201c\ufb01rm\u201d brows"), EXPECTED)
    assert found.text == 'the nose\'s bridge, "firm" brows'


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (reply(""), "description 1 is empty"),
        (reply(" . "), "description 1 is empty"),
        (reply("raised\nbrows"), "holds a line break or a control character"),
        (reply("raised\x07 brows"), "holds a line break or a control character"),
        (reply("raised\u200bbrows"), "holds a line break or a control character"),
        (reply("brows<|endoftext|>"), "holds '<|', which CLIP takes for a mark of its own"),
        (reply("With raised brows"), "begins with 'with'; .* leave them out"),
        (reply("a sad mouth"), r"names an expression \(sad\)"),
        (reply("Angry eyes of a fearful face"), r"names an expression \(angry, fearful\)"),
        (reply("a happily surprised face"), r"names an expression \(.*happily surprised\)"),
        (reply("brows " * 90), r"is too long with 90 words \(\d+ tokens, at most 77\); use at most \d\d"),
        (reply(units=(3, 12)), r"action units that FACS does not have.*\[3\]"),
        (reply(units=("AU12",)), "not JSON of the form asked for: descriptions.0.action_units.0: .*integer"),
        (reply(whole="{}"), "not JSON of the form asked for: descriptions: Field required"),
        (reply(whole='{"descriptions": [{"text": "x", "action_units": [], "why": 1}]}'), "0.why: Extra inputs"),
        (reply(whole='{"descriptions": []}'), "exactly 1 descriptions, not 0"),
        (reply(whole='{"descriptions": [{"te', cut_off=True), "cut off by the limit on its length"),
        (reply(whole="", refusal="I do not judge faces"), "the model refused: I do not judge faces"),
        (reply(whole=""), "not JSON of the form asked for"),
    ],
)
def test_unusable_answers_are_explained(given, problem):
    with pytest.raises(UnusableAnswerError, match=problem):
        read_answer(given, EXPECTED)


def test_every_problem_is_named_at_once():
    content = {"descriptions": [{"text": "", "action_units": [99]}, {"text": "a sad face", "action_units": []}]}
    with pytest.raises(UnusableAnswerError) as caught:
        read_answer(reply(whole=json.dumps(content)), EXPECTED)
    assert len(caught.value.problems) == 4


def test_words_that_only_contain_an_expressions_name_are_none():
    read_answer(reply("joyless, fearsome brows"), EXPECTED)


def test_the_budget_is_the_clips_or_what_is_said(tmp_path):
    assert EXPECTED.budget.tokens == 77
    assert EXPECTED.budget.count("fear", "raised brows") == len(
        EXPECTED.budget.encode("a photo of a person making a facial expression of fear, with raised brows")
    )
    assert load_budget("tiny-face-clip", 40).tokens == 40
    with pytest.raises(ValueError, match="90 tokens do not fit the 77 positions of tiny-face-clip"):
        load_budget("tiny-face-clip", 90)
    with pytest.raises(FileNotFoundError):
        load_budget(str(tmp_path))
