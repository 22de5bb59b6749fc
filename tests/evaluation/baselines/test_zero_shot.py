"""Zero-shot: logits by hand, permuted descriptions, texts encoded together."""

import jax.numpy as jnp
import numpy as np

from mpafer_jax.evaluation.baselines import zero_shot
from mpafer_jax.method import build, state
from mpafer_jax.method.hard_prompts.bank import load_bank, permuted
from mpafer_jax.method.hard_prompts.features import encode_hard_prompts, text_encoder
from tests import tiny
from tests.jobs import runs

BANK = load_bank("expressions")
NAMES = ("anger", "happiness", "neutral", "sadness", "surprise")


def test_logits_by_hand():
    only_scale = state.Frozen({"logit_scale": jnp.log(20.0)}, None, None, None, None)
    built = build.Experiment(tiny.model(), only_scale, ("a", "b", "c"), (), "tiny", "", 32, None)
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
            said = [shuffled.entry(name) for name in names]
            assert all(entry != BANK.entry(name) for name, entry in zip(names, said, strict=True))
            assert sorted(map(repr, said)) == sorted(repr(BANK.entry(name)) for name in names)
            assert shuffled == permuted(BANK, names, seed)
            found.add(repr(said))
        assert len(found) == {2: 1, 3: 2}.get(len(names), len(found))  # all that there are
        assert len(names) < 5 or len(found) > 20


def test_what_each_baseline_reads(sample):
    config = runs.config(sample, seed=3)
    prompts = {name: zero_shot.hard_prompts(name, config, NAMES) for name in zero_shot.TYPES}
    texts = {name: [text for (text,) in found.groups[0].texts] for name, found in prompts.items()}
    assert texts["zero_shot_type1"][0] == "a photo of anger"
    assert texts["zero_shot_type2"][0] == "a photo of a person making a facial expression of anger"
    own = [text.split(", with ") for text in texts["zero_shot_type3"]]
    other = [text.split(", with ") for text in texts["zero_shot_permuted"]]
    assert [own_class for own_class, _ in own] == [other_class for other_class, _ in other]
    assert all(mine != theirs for (_, mine), (_, theirs) in zip(own, other, strict=True))
    assert prompts["zero_shot_permuted"] != zero_shot.hard_prompts("zero_shot_permuted", runs.config(sample), NAMES)


def test_one_feature_per_class_whatever_the_granularity(sample):
    """Type 3 and its control follow the configuration; several groups weigh the same however many texts they hold."""
    changes = {"granularity": ("template", "mouth"), "paraphrases": 2, "combine": "separate"}
    config = runs.config(sample, **{f"hard_prompts.{name}": value for name, value in changes.items()})
    built = build.build_experiment(config, NAMES, build.load_frozen_clip(config))
    assert built.frozen.hard_text_features.shape == (2, 5, 64)
    prompts = {name: zero_shot.hard_prompts(name, config, NAMES) for name in zero_shot.TYPES}
    assert prompts["zero_shot_type3"] == built.hard_prompts
    found = zero_shot.encode(built, prompts)
    assert {name: part.features.shape for name, part in found.items()} == dict.fromkeys(zero_shot.TYPES, (5, 64))
    template, mouth = np.asarray(built.frozen.hard_text_features)
    directions = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (template, mouth)]
    expected = np.mean(directions, axis=0)
    np.testing.assert_allclose(found["zero_shot_type3"].features, expected, rtol=1e-4, atol=1e-5)
    # Type 2 is the template alone; encoded together, texts equal each alone.
    np.testing.assert_allclose(found["zero_shot_type2"].features, template, rtol=1e-4, atol=1e-5)
    encoder = text_encoder(built.model, built.frozen.backbone, built.tokenizer.encode)
    alone = encode_hard_prompts({"short": prompts["zero_shot_type1"]}, encoder)["short"][0][0]
    np.testing.assert_allclose(found["zero_shot_type1"].features, alone, rtol=1e-4, atol=1e-5)
    permuted_features = np.asarray(found["zero_shot_permuted"].features)
    assert not np.allclose(permuted_features, expected, rtol=1e-2, atol=1e-3)
