"""Hard prompts: the three types, the bank, and their lengths under CLIP's vocabulary."""

import json
import os
import pathlib

import pytest

from mpafer_jax.expressions import CANONICAL_NAMES
from mpafer_jax.hard_prompts.bank import BankError, load_bank
from mpafer_jax.hard_prompts.templates import build_hard_prompts, prompt_name
from mpafer_jax.models.prompts import tokenize
from mpafer_jax.weights.tokenizer import load_tokenizer

BANK = load_bank("expressions")
VOCABULARY = pathlib.Path(
    os.environ.get("MPAFER_CLIP_BPE_DIR", pathlib.Path(__file__).parents[2] / "shared" / "data" / "clip_bpe")
)


def test_the_three_types():
    assert build_hard_prompts(["anger"], 1, None) == ["a photo of anger"]
    assert build_hard_prompts(["anger"], 2, None) == ["a photo of a person making a facial expression of anger"]
    (text,) = build_hard_prompts(["anger"], 3, BANK)
    assert text == f"a photo of a person making a facial expression of anger, with {BANK.classes['anger']}"


def test_names_of_several_words_and_synonyms():
    assert prompt_name("happily_surprised") == "happily surprised"
    (text,) = build_hard_prompts(["Happy"], 3, BANK)
    assert text.startswith("a photo of a person making a facial expression of Happy, with lip corners pulled up")


@pytest.mark.parametrize("kind", [0, 4])
def test_other_types_are_refused(kind):
    with pytest.raises(ValueError, match=f"found type {kind}"):
        build_hard_prompts(["anger"], kind, BANK)


def test_type_3_needs_a_bank():
    with pytest.raises(ValueError, match="type 3 needs a bank"):
        build_hard_prompts(["anger"], 3, None)


def test_the_bank_has_every_expression_once_and_never_names_one():
    assert sorted(BANK.classes) == sorted(CANONICAL_NAMES)
    assert len(set(BANK.classes.values())) == 8
    for text in BANK.classes.values():
        assert not any(name in text for name in CANONICAL_NAMES)


def test_a_class_that_the_bank_lacks_is_named_with_what_to_do():
    with pytest.raises(BankError, match=r"no class 'boredom'; it has neutral, .*hard_prompts.type to 1 or 2"):
        build_hard_prompts(["anger", "boredom"], 3, BANK)


def test_a_bank_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    content = {"name": "mine", "source": "me", "question": "how?", "classes": {"boredom": "half-closed eyes"}}
    path.write_text(json.dumps(content))
    assert build_hard_prompts(["boredom"], 3, load_bank(str(path)))[0].endswith("boredom, with half-closed eyes")
    path.write_text(json.dumps({**content, "classes": ["boredom"]}))
    with pytest.raises(BankError, match=r"mine.json is not a description bank: .*\n?classes"):
        load_bank(str(path))
    with pytest.raises(BankError, match=r"'nobody' is neither a file nor .*\(expressions\)"):
        load_bank("nobody")


@pytest.mark.skipif(not VOCABULARY.is_dir(), reason=f"CLIP's vocabulary is not at {VOCABULARY} (MPAFER_CLIP_BPE_DIR)")
def test_every_hard_prompt_fits_clips_77_positions():
    tokenizer = load_tokenizer(VOCABULARY)
    for kind in (1, 2, 3):
        texts = tokenize(build_hard_prompts(list(CANONICAL_NAMES), kind, BANK), tokenizer.encode, 77)
        assert texts.ids.shape[1] <= 50
        assert (texts.ids.max(axis=1) == tokenizer.eos_id).all()


def test_they_fit_the_samples_vocabulary_too(sample):
    tokenizer = load_tokenizer(sample / "clip")
    tokenize(build_hard_prompts(list(CANONICAL_NAMES), 3, BANK), tokenizer.encode, 77)
