"""Zero-shot: logits by hand, permuted descriptions, texts encoded together."""

import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax import experiment, state
from mpafer_jax.baselines import zero_shot
from mpafer_jax.hard_prompts.bank import BankError, load_bank, permuted
from mpafer_jax.models.mpafer import variables
from mpafer_jax.models.prompts import tokenize
from tests import tiny
from tests.end_to_end import runs

BANK = load_bank("expressions")
NAMES = ("anger", "happiness", "neutral", "sadness", "surprise")


def test_logits_by_hand():
    only_scale = state.Frozen({"logit_scale": jnp.log(20.0)}, None, None, None, None)
    built = experiment.Experiment(tiny.model(), only_scale, ("a", "b", "c"), (), "tiny", "", 32, None)
    images, texts = np.zeros((2, 20), np.float32), np.zeros((3, 20), np.float32)
    images[0, :2] = 3, 4  # at length 5
    images[1, 2] = 0.1
    texts[0, 0], texts[1, 1], texts[2, 2] = 2, 7, -1
    # The cosines are 3/5, 4/5, 0 and 0, 0, -1.
    np.testing.assert_allclose(zero_shot.frozen_logits(built, images, texts), [[12, 16, 0], [0, 0, -20]], rtol=1e-5)


def test_no_class_keeps_its_description():
    for names in (NAMES, NAMES[:2], NAMES[:3]):
        found = set()
        for seed in range(40):
            shuffled = permuted(BANK, names, seed)
            assert all(shuffled.description(name) != BANK.description(name) for name in names)
            assert {shuffled.description(name) for name in names} == {BANK.description(name) for name in names}
            assert shuffled == permuted(BANK, names, seed)
            found.add(tuple(shuffled.classes.values()))
        assert len(found) == {2: 1, 3: 2}.get(len(names), len(found))  # all that there are
        assert len(names) < 5 or len(found) > 20


def test_one_class_cannot_be_permuted():
    with pytest.raises(BankError, match="one class cannot be permuted"):
        permuted(BANK, ("anger",), 0)


def test_what_each_baseline_reads(sample):
    config = runs.config(sample, seed=3)
    texts = {name: zero_shot.hard_prompts(name, config, NAMES) for name in zero_shot.NAMES}
    assert texts["zero_shot_type1"][0] == "a photo of anger"
    assert texts["zero_shot_type2"][0] == "a photo of a person making a facial expression of anger"
    own = [text.split(", with ") for text in texts["zero_shot_type3"]]
    other = [text.split(", with ") for text in texts["zero_shot_permuted"]]
    assert [own_class for own_class, _ in own] == [other_class for other_class, _ in other]
    assert all(mine != theirs for (_, mine), (_, theirs) in zip(own, other, strict=True))
    assert texts["zero_shot_permuted"] != zero_shot.hard_prompts("zero_shot_permuted", runs.config(sample), NAMES)


def test_texts_encoded_together_equal_each_alone(sample):
    config = runs.config(sample)
    built = experiment.build_experiment(config, NAMES, experiment.load_frozen_clip(config))
    texts = {"short": ["anger", "joy"], "long": ["a photo of a face with raised brows", "one", "two words"]}
    found = zero_shot.encode(built, texts)
    assert {name: part.texts for name, part in found.items()} == {n: tuple(t) for n, t in texts.items()}
    bound = built.model.bind(variables(built.frozen.clip, {}))
    for name, group in texts.items():
        alone, _ = bound.encode_hard_prompts(bound.embed(tokenize(group, built.tokenizer.encode, 77)))
        np.testing.assert_allclose(found[name].features, alone, rtol=1e-4, atol=1e-5)
