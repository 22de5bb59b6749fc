"""What was set and is not read is said by a run, and by none of the configurations that there are."""

import itertools

import pytest

from mpafer_jax.config.fields import settings
from mpafer_jax.config.schema import Config
from mpafer_jax.jobs import train
from mpafer_jax.jobs.idle_fields import RULES, idle_fields
from tests.golden import cases
from tests.jobs import runs

CROSS_ENTROPY = {"loss.terms": ("cross_entropy",)}
L1 = {"loss.token_distance": "l1", "loss.prompt_distance": "l1"}
COSINE = {"loss.token_weight": 0.0, "loss.prompt_distance": "cosine"}
# Fields with a value of their own, what leaves them unread, and what has them read.
CASES = [
    ({"lora.rank": 4, "lora.alpha": 2.0}, {}, {"learner": "lora"}),
    ({"mask_width": 8}, {"learner": "maple"}, {"learner": "cafe"}),
    (
        {"hard_prompts.granularity": ("eyes",), "hard_prompts.paraphrases": 0, "hard_prompts.combine": "separate"},
        {"hard_prompts.type": 1, "eval.baselines": ("zero_shot_type1",)},
        {"hard_prompts.type": 2, "eval.baselines": ("zero_shot_permuted",)},
    ),
    (
        {"head.motion_prior": "features", "head.motion_strength": 0.5, "head.center_patch_scores": True},
        {"head.local_weight": 0.0},
        {"head.local_weight": 0.1},
    ),
    ({"head.motion_strength": 0.5}, {}, {"head.motion_prior": "images"}),
    ({"loss.temperature": 0.1}, L1, {**L1, "loss.prompt_distance": "contrastive"}),
    ({"loss.temperature": 0.1}, COSINE, {**COSINE, "loss.token_weight": 0.5}),
    ({"loss.temperature": 0.1}, CROSS_ENTROPY, {"loss.terms": ("cross_entropy", "prompt_alignment")}),
    ({"loss.temperature": 0.1}, {"loss.beta": 0.0}, {}),
    ({"loss.prototype_distance": "l1", "prototypes.images_per_class": 4}, CROSS_ENTROPY, {}),
    ({"prototypes.normalize": True, "prototypes.images_per_class": 4}, {"loss.gamma": 0.0}, {}),
    ({"prototypes.images_per_class": 4}, {"loss.gamma": 0.0}, {"loss.gamma": 0.0, "head.motion_prior": "images"}),
    ({"loss.effective_number_beta": 0.9}, {}, {"loss.class_weights": "effective_number"}),
    ({"optimizer.average_mean": 3.0, "optimizer.average_std": 2.0}, {}, {"optimizer.average": 4}),
]


@pytest.mark.parametrize(("fields", "unread", "read"), CASES)
def test_a_field_is_named_where_nothing_reads_it(fields, unread, read):
    found = idle_fields(cases.build("rafdb", **fields, **unread))
    assert {sentence.partition(" is ")[0] for sentence in found} == {f"config.{name}" for name in fields}
    assert idle_fields(cases.build("rafdb", **fields, **read)) == []
    assert idle_fields(cases.build("rafdb", **unread)) == []  # the defaults were not set


def test_each_rule_has_a_case_and_names_fields_that_there_are():
    ruled = list(itertools.chain.from_iterable(rule.fields for rule in RULES))
    assert len(set(ruled)) == len(ruled)
    assert set(ruled) == set(itertools.chain.from_iterable(fields for fields, _, _ in CASES))
    assert set(ruled) <= settings(Config).keys()


@pytest.mark.parametrize("name", cases.NAMES)
def test_no_config_with_any_of_its_arguments_sets_what_it_does_not_read(name):
    """Those of sweeps: tests/jobs/sweeps/test_sweep.py."""
    for argument in cases.ARGUMENTS:
        assert idle_fields(cases.build(name, argument)) == [], argument


def test_a_run_says_so_before_it_prepares_anything(sample, tmp_path, caplog):
    train.check_before_data(runs.config(sample), tmp_path)
    assert "no effect" not in caplog.text
    train.check_before_data(runs.config(sample, **{"lora.rank": 8}), tmp_path)
    assert "config.lora.rank is 8, which is read only with learner 'lora': it has no effect" in caplog.text
