"""Methods as configuration arguments (`configs.common.METHODS`): each trains what it says, with the loss it says."""

import jax
import numpy as np
import pytest

from configs import common, quickstart, rafdb
from configs import sample as sample_config
from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.loaded import for_classes, load_model
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.jobs import train
from mpafer_jax.method import build as build_lib
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.features import text_encoder
from mpafer_jax.method.hard_prompts.templates import build_hard_prompts
from mpafer_jax.method.model import variables
from mpafer_jax.runtime.errors import ConfigError, PromptError
from tests.jobs import runs

pytestmark = pytest.mark.training

SHORT = {**runs.SHORT, "train.log_every": 1}
PROMPTS = {"coop": {"ctx"}, "vpt_deep": {"visual_prompts"}, "ivlp": {"ctx", "visual_prompts"}, "kgcoop": {"ctx"}}
TERMS = {"loss", "cross_entropy", "token_alignment", "prompt_alignment", "prototype_alignment"}


def configured(sample, method, **changes) -> Config:
    """The sample's configuration with a method, short."""
    own = runs.config(sample, **{**SHORT, **changes, **common.METHODS[method]})
    values = sample_config.get_config(method)
    given = {"data.dir": own.data.dir, "clip.name": own.clip.name}
    with values.unlocked():
        values.update_from_flattened_dict({**runs.CHANGES, **SHORT, **given, **changes})
    assert Config.from_config_dict(values) == own  # the argument is these changes and no others
    return own


def build(config):
    clip = build_lib.load_frozen_clip(config)
    return build_lib.build_experiment(config, load_dataset(config.data).class_names, clip)


def text_features(built, prompts):
    found = built.model.apply(
        variables(built.frozen.backbone, prompts), built.frozen.soft_prompts, method="encode_soft_prompts"
    )
    return np.asarray(found[0])


def fixed(built, texts):
    """theta of texts as they stand."""
    return np.asarray(text_encoder(built.model, built.frozen.backbone, built.tokenizer.encode)(texts)[0])


def fixed_features(built, template):
    return fixed(built, [template.format(name) for name in built.class_names])


def unit(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.mark.parametrize("method", PROMPTS)
def test_only_what_a_method_trains_moves_and_only_its_terms_are_summed(sample, tmp_path, method):
    config = configured(sample, method)
    built = build(config)
    before = build_lib.initial_prompts(config, built)
    summary = train.train_and_evaluate(config, tmp_path / "run")
    after, _, _ = checkpoints.load(tmp_path / "run", "last")
    assert {name for name in after if not np.array_equal(after[name], before[name])} == PROMPTS[method]
    assert summary["trained_parameters"] == {name: before[name].size for name in PROMPTS[method]}
    expected = {"loss", "cross_entropy"} | ({"prompt_alignment"} if method == "kgcoop" else set())
    lines = [line for line in runs.metrics(tmp_path / "run") if line["kind"] == "train"]
    for line in lines:
        assert TERMS & line.keys() == expected
        alignment = line.get("prompt_alignment", 0.0)
        assert line["loss"] == pytest.approx(line["cross_entropy"] + 8 * alignment, rel=1e-5)
    assert built.model.local_weight == 0
    if method == "kgcoop":  # of the first step, by hand: the texts are fixed and the context is the words'
        cosines = np.sum(unit(text_features(built, before)) * unit(fixed_features(built, "a photo of {}")), axis=1)
        assert lines[0]["prompt_alignment"] == pytest.approx(np.mean(1 - cosines), rel=1e-3)
        assert np.mean(1 - cosines) > 0.001


def test_where_the_context_is_frozen_no_baseline_trains_one(sample, tmp_path):
    named = {"eval.baselines": ("majority", "text_context")}
    frozen = {**named, "optimizer.lr_scales": (("ctx", 0.0), (".*", 1.0))}
    with pytest.raises(
        ConfigError, match=r"names text_context, .*lr_scales \(\('ctx', 0\.0\), .* freezes ctx there; leave"
    ):
        train.prepare(runs.config(sample, **SHORT, **frozen), tmp_path)
    train.prepare(runs.config(sample, **SHORT, **named), tmp_path)
    usual = quickstart.get_config().eval.baselines
    assert "text_context" in usual
    assert quickstart.get_config("ivlp").eval.baselines == usual
    left = tuple(name for name in usual if name != "text_context")
    assert quickstart.get_config("vpt_deep").eval.baselines == left


def test_visual_prompts_alone_classify_by_fixed_texts(sample):
    config = configured(sample, "vpt_deep")
    built = build(config)
    features = text_features(built, build_lib.initial_prompts(config, built))
    np.testing.assert_allclose(features, fixed_features(built, "a photo of a {}."), rtol=1e-4, atol=1e-5)


def test_class_prompts_that_go_on_as_the_hard_prompts_do(sample, tmp_path):
    """The words before are the context's, the rest of the description takes the name's place; so after training too."""
    config = configured(sample, "vpt_deep", **{"ctx.words": "hard_prompt", "hard_prompts.type": 3})
    built = build(config)
    texts = [built.hard_prompts.of_class(index)[0] for index in range(5)]
    assert all(text.startswith("a photo of a person ") for text in texts)
    expected = fixed(built, [f"{text}." for text in texts])
    np.testing.assert_allclose(
        text_features(built, build_lib.initial_prompts(config, built)), expected, rtol=1e-4, atol=1e-5
    )
    train.train_and_evaluate(config, tmp_path)
    loaded, params, description, _ = load_model(tmp_path, "last", "")
    np.testing.assert_allclose(text_features(loaded, params), expected, rtol=1e-4, atol=1e-5)
    # Of fewer classes in another order, one of them new: it has a description of its own, or is refused.
    names, clip = (built.class_names[3], "fear", built.class_names[0]), build_lib.load_frozen_clip(config)
    fewer, _ = for_classes(description.applied_to(config), params, description, clip, names)
    features = text_features(fewer, params)
    np.testing.assert_allclose(features[[0, 2]], expected[[3, 0]], rtol=1e-4, atol=1e-5)
    (of_fear,) = build_hard_prompts(["fear"], 3, load_bank("expressions").first(1)).of_class(0)
    np.testing.assert_allclose(features[1], fixed(built, [f"{of_fear}."])[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(PromptError, match="boredom"):
        for_classes(description.applied_to(config), params, description, clip, ("boredom", *names))


def test_class_prompts_do_not_say_the_contexts_words_twice(sample):
    changes = {"ctx.words": "hard_prompt", "ctx.init_text": "a photo of a", "ctx.num_ctx": 4, "hard_prompts.type": 1}
    with pytest.raises(ConfigError, match=r"init_text 'a photo of a', .* 'a photo of \w+' does not begin with these"):
        build(runs.config(sample, **changes))
    build(runs.config(sample, **{**changes, "ctx.init_text": "a photo of", "ctx.num_ctx": 3}))


def test_a_baseline_that_trains_what_the_run_has_no_rate_for_is_named(sample, tmp_path):
    scales = (("text_prompts", 1.0), ("coupling.*", 0.1))
    changes = {**common.METHODS["maple"], "eval.baselines": ("text_context",), "optimizer.lr_scales": scales}
    config = runs.config(sample, **SHORT, **changes)
    with pytest.raises(ConfigError, match=r"names text_context, which trains the parameter ctx: .* no pattern of"):
        train.prepare(config, tmp_path)


def test_with_a_clip_to_which_names_mean_nothing_methods_begin_with_descriptions():
    for name, changes in common.METHODS.items():
        drawn, photographs = (make(name) for make in (quickstart.get_config, rafdb.get_config))
        assert photographs.ctx.words == "name"
        begins = "ctx.init_text" in changes
        assert drawn.ctx.words == ("hard_prompt" if begins else "name")
        assert drawn.hard_prompts.type == 3
        if begins:
            assert drawn.ctx.init_text == changes["ctx.init_text"]


def test_a_context_from_words(sample):
    """Token embeddings of these words, whatever the seed; the visual prompts are those of a random context's run."""
    words = {"ctx.init_text": "a photo of the face of a", "ctx.num_ctx": 7, "ctx.class_specific": True}
    config, without = (runs.config(sample, **{**words, **changes}) for changes in ({}, {"ctx.init_text": ""}))
    built = build(config)
    prompts = build_lib.initial_prompts(config, built)
    other = build_lib.initial_prompts(config.model_copy(update={"seed": 1}), built)
    random = build_lib.initial_prompts(without, build(without))
    table = np.asarray(built.frozen.backbone["text"]["token_embedding"]["embedding"])
    expected = table[built.tokenizer.encode("a photo of the face of a")[1:-1]]
    np.testing.assert_array_equal(prompts["ctx"], np.broadcast_to(expected, (5, 7, 64)))
    np.testing.assert_array_equal(other["ctx"], prompts["ctx"])
    np.testing.assert_array_equal(prompts["visual_prompts"], random["visual_prompts"])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), prompts) == jax.tree.map(lambda x: (x.shape, x.dtype), random)
    assert not np.allclose(random["ctx"], prompts["ctx"])
    few = runs.config(sample, **{**words, "ctx.num_ctx": 10})
    with pytest.raises(ConfigError, match=r"init_text 'a photo of the .*' has 7 tokens .*num_ctx is 10; give as many"):
        build_lib.initial_prompts(few, build(few))


def test_one_method_at_a_time():
    with pytest.raises(ValueError, match="coop, kgcoop name several methods"):
        sample_config.get_config("coop,kgcoop")
