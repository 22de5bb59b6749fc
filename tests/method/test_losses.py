"""Losses: hand-computed values, finite differences, batch = mean of singles, mask = subset, switched off = absent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mpafer_jax.method import losses
from mpafer_jax.method.model import global_local_logits
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime.errors import ConfigError
from tests import tiny

pytestmark = pytest.mark.usefixtures("strict_promotion")


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_contrastive_alignment_by_hand():
    # Soft prompts at 0 and 60 degrees, hard prompts at 0 and 90: cosines d0: (1, 1/2), d1: (0, sqrt(3)/2).
    soft = jnp.array([[2.0, 0.0], [0.5, np.sqrt(3) / 2]], jnp.float32)
    hard = jnp.array([[3.0, 0.0], [0.0, 0.1]], jnp.float32)
    values = losses.contrastive_alignment(soft, hard, 0.5)
    expected = [np.log1p(np.exp((0.5 - 1) / 0.5)), np.log1p(np.exp((0 - np.sqrt(3) / 2) / 0.5))]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_contrastive_alignment_is_over_soft_prompts_for_a_fixed_hard_one():
    # Both soft prompts lie on hard prompt 0. For d = 0 they tie: log 2. Were the sum over hard prompts, class 0 would
    # be told apart perfectly and its value would be far below.
    soft = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    hard = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(losses.contrastive_alignment(soft, hard, 0.01), [np.log(2)] * 2, rtol=1e-5)


def test_l1_alignment_by_hand():
    soft = jnp.array([[3.0, 4.0]])  # direction (0.6, 0.8)
    hard = jnp.array([[0.0, -2.0]])  # direction (0, -1)
    np.testing.assert_allclose(losses.l1_alignment(soft, hard), [0.6 + 1.8], rtol=1e-6)


def test_cosine_alignment_by_hand():
    soft = jnp.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    hard = jnp.array([[0.0, -2.0], [0.0, 0.1], [1.0, 1.0]])
    found = losses.cosine_alignment(soft, hard)
    np.testing.assert_allclose(found, [1.8, 0.0, 1 - np.sqrt(0.5)], rtol=1e-5, atol=1e-6)
    difference = soft / jnp.linalg.norm(soft, axis=1)[:, None] - hard / jnp.linalg.norm(hard, axis=1)[:, None]
    np.testing.assert_allclose(found, jnp.sum(difference**2, axis=1) / 2, rtol=1e-5, atol=1e-6)


def test_groups_of_hard_prompts_by_hand():
    # Soft prompts at 0 and 60 degrees; the hard ones of group 0 at 0 and 90, of group 1 at 60 and 0.
    sixty = [0.5, np.sqrt(3) / 2]
    soft = jnp.array([[2.0, 0.0], sixty], jnp.float32)
    hard = jnp.array([[[3.0, 0.0], [0.0, 0.1]], [sixty, [1.0, 0.0]]], jnp.float32)
    found = per_class(tiny.objective(temperature=0.5), soft, soft, hard, hard[1:])
    first = [np.log1p(np.exp((0.5 - 1) / 0.5)), np.log1p(np.exp((0 - np.sqrt(3) / 2) / 0.5))]
    second = [np.log1p(np.exp((1 - 0.5) / 0.5)), np.log1p(np.exp((1 - 0.5) / 0.5))]
    np.testing.assert_allclose(found["token_alignment"], np.mean([first, second], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["prompt_alignment"], second, rtol=1e-5)


@pytest.mark.parametrize("distance", ["contrastive", "l1"])
def test_equal_groups_are_as_one_and_their_order_does_not_matter(distance):
    objective = tiny.objective(token_distance=distance, prompt_distance=distance, temperature=0.3)
    alone = losses.contrastive_alignment if distance == "contrastive" else losses.l1_alignment
    options = {"temperature": 0.3} if distance == "contrastive" else {}
    soft, groups = random(3, 5), random(4, 3, 5, seed=1)

    def terms(hard):
        return per_class(objective, soft, soft, hard, hard)

    for name in ("token_alignment", "prompt_alignment"):
        one = alone(soft, groups[0], **options)
        np.testing.assert_array_equal(terms(groups[:1])[name], one)  # to the bit, as without groups
        np.testing.assert_allclose(terms(jnp.stack([groups[0]] * 4))[name], one, rtol=1e-6)
        np.testing.assert_allclose(terms(groups)[name], terms(groups[::-1])[name], rtol=1e-5)
        assert not np.allclose(terms(groups)[name], one, rtol=1e-3)
        assert terms(groups)[name].shape == (3,)


def test_prototype_alignments_by_hand():
    features = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    prototypes = jnp.array([[0.0, 2.0], [2.0, 2.0]])
    labels = jnp.array([0, 1])
    np.testing.assert_allclose(losses.cosine_prototype_alignment(features, prototypes, labels), [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.l1_prototype_alignment(features, prototypes, labels), [1.5, 1.0])


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    hot = jnp.array([[1.0, 0.0, 0.0]])
    votes = jnp.array([[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(losses.cross_entropy(logits, hot), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(logits, votes), [0.5 * np.log(2) + 0.5 * np.log(4)], rtol=1e-6)
    # 0.3 spread evenly: 0.8, 0.1, 0.1
    smoothed = 0.8 * np.log(2) + 0.2 * np.log(4)
    np.testing.assert_allclose(losses.cross_entropy(logits, hot, 0.3), [smoothed], rtol=1e-6)


def test_class_weights_by_hand():
    counts = jnp.array([1.0, 3.0, 6.0])
    # 10 labels of 3 classes: 10 / (3 n).
    inverse = losses.class_weights(counts, "inverse_frequency", 0.5)
    np.testing.assert_allclose(inverse, [10 / 3, 10 / 9, 10 / 18], rtol=1e-6)
    # 1 - 0.5^n: 1/2, 7/8, 63/64; inverted 2, 8/7, 64/63; times n, summed: 2 + 24/7 + 384/63 = 242/21.
    effective = losses.class_weights(counts, "effective_number", 0.5)
    np.testing.assert_allclose(effective, np.array([2, 8 / 7, 64 / 63]) * 10 * 21 / 242, rtol=1e-6)
    for weights in (inverse, effective):
        assert float(jnp.sum(weights * counts)) == pytest.approx(10)  # mean 1 over the images


def test_effective_number_lies_between_equal_weights_and_inverse_frequency():
    counts = jnp.array([281.0, 4772.0, 134415.0])  # float32 has no 1 - 0.9999999 to spare
    inverse = losses.class_weights(counts, "inverse_frequency", 0.9)
    np.testing.assert_allclose(losses.class_weights(counts, "effective_number", 1 - 1e-10), inverse, rtol=1e-4)
    np.testing.assert_allclose(losses.class_weights(counts, "effective_number", 1e-9), [1, 1, 1], rtol=1e-6)
    exact = [(1 - 0.9999) / (1 - 0.9999**n) for n in (281, 4772, 134415)]
    found = losses.class_weights(counts, "effective_number", 0.9999)
    np.testing.assert_allclose(found / found[0], np.array(exact) / exact[0], rtol=1e-5)


def cross_entropies(targets, counts=(10.0, 30.0, 60.0), **changes):
    """Of logits for the probabilities 1/2, 1/4, 1/4."""
    targets = jnp.array(targets)
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.25, 0.25])), targets.shape)
    objective = tiny.objective(terms=("cross_entropy",), **changes)
    fed = context(objective, class_counts=jnp.array(counts))
    fed = dataclasses.replace(fed, logits=logits, targets=targets)
    return objective.values(fed, "example")["cross_entropy"]


def test_weighted_cross_entropy_by_hand():
    labels = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]  # the last: votes
    found = cross_entropies(labels, class_weights="inverse_frequency")  # 10/3, 10/9, 10/18
    votes = 0.5 * 10 / 3 * np.log(2) + 0.5 * 10 / 18 * np.log(4)
    np.testing.assert_allclose(found, [10 / 3 * np.log(2), 10 / 9 * np.log(4), votes], rtol=1e-6)
    # A smoothed label has the weight of its class: 0.3 of it spread evenly.
    smoothed = cross_entropies(labels[:2], class_weights="inverse_frequency", label_smoothing=0.3)
    expected = [10 / 3 * (0.8 * np.log(2) + 0.2 * np.log(4)), 10 / 9 * (0.1 * np.log(2) + 0.9 * np.log(4))]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-6)


def test_logit_adjustment_by_hand():
    labels = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    # 1/2, 1/4, 1/4 times the frequencies 0.1, 0.3, 0.6: 0.05, 0.075, 0.15, which sum to 0.275.
    found = cross_entropies(labels, logit_adjustment=1.0)
    np.testing.assert_allclose(found, -np.log([0.05 / 0.275, 0.15 / 0.275]), rtol=1e-6)
    # tau 2, frequencies squared: 0.005, 0.0225, 0.09, which sum to 0.1175.
    found = cross_entropies(labels, logit_adjustment=2.0)
    np.testing.assert_allclose(found, -np.log([0.005 / 0.1175, 0.09 / 0.1175]), rtol=1e-6)
    even = cross_entropies(labels, counts=(7.0, 7.0, 7.0), logit_adjustment=1.0)
    np.testing.assert_allclose(even, cross_entropies(labels), rtol=1e-6)


def test_logit_adjustment_makes_the_balanced_classifier_optimal():
    """Menon et al.: with tau 1 the loss over the joint distribution is stationary at logits log p(x | y)."""
    joint = np.array([[0.06, 0.02, 0.02], [0.2, 0.6, 0.1]]).T  # p(y, x) of 3 images x and 2 classes y
    prior = joint.sum(axis=0)  # 0.1, 0.9
    objective = tiny.objective(terms=("cross_entropy",), logit_adjustment=1.0)
    fed = context(objective, class_counts=jnp.array(prior * 100, jnp.float32))
    posterior = jnp.array(joint / joint.sum(axis=1, keepdims=True), jnp.float32)

    def loss(logits):
        values = objective.values(dataclasses.replace(fed, logits=logits, targets=posterior), "example")
        return jnp.sum(values["cross_entropy"] * joint.sum(axis=1).astype(np.float32))

    gradient = jax.grad(loss)(jnp.log(jnp.array(joint / prior, jnp.float32)))
    np.testing.assert_allclose(gradient, np.zeros((3, 2)), atol=1e-7)


def test_without_counts_a_correction_is_an_error():
    objective = tiny.objective(logit_adjustment=1.0)
    with pytest.raises(ValueError, match=r"need Frozen\.class_counts"):
        per_example(objective)


def test_global_local_logits_by_hand():
    image = jnp.array([[2.0, 0.0]])
    patches = jnp.array([[[1.0, 0.0], [0.0, 5.0], [3.0, 4.0]]])  # cosines with (1,0): 1, 0, .6; with (0,1): 0, 1, .8
    texts = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    logits, out = global_local_logits(image, patches, texts, logit_scale=10.0, top_k=2, local_weight=0.5)
    np.testing.assert_allclose(out["global_scores"], [[1, 0]], atol=1e-6)
    np.testing.assert_allclose(out["local_scores"], [[0.8, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(logits, [[10 * (1 + 0.4), 10 * 0.45]], rtol=1e-6)
    np.testing.assert_array_equal(out["top_patches"], [[[0, 2], [1, 2]]])


def test_centering_changes_the_choice_of_patches_and_not_their_scores():
    # Patch 0 is close to both texts (.8, .6); patch 1 speaks for text 0 alone (.7, -.7).
    angle = np.arccos(0.7)
    texts = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    patches = jnp.array([[[0.8, 0.6, 0.0], [np.cos(angle), -0.7, np.sqrt(0.02)]]], jnp.float32)
    image = jnp.ones((1, 3))
    (_, out_plain), (_, out) = (
        global_local_logits(
            image, patches, texts, logit_scale=1.0, top_k=1, local_weight=1.0, center_patch_scores=center
        )
        for center in (False, True)
    )
    np.testing.assert_array_equal(out_plain["top_patches"][0, :, 0], [0, 0])
    np.testing.assert_array_equal(out["top_patches"][0, :, 0], [1, 0])
    np.testing.assert_allclose(out["local_scores"], [[0.7, 0.6]], rtol=1e-5)


def test_local_score_matches_a_loop():
    image, patches, texts = random(3, 6), random(3, 9, 6, seed=1), random(4, 6, seed=2)
    _, out = global_local_logits(image, patches, texts, logit_scale=1.0, top_k=4, local_weight=1.0)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    for b in range(3):
        for c in range(4):
            scores = sorted(unit(np.asarray(patches[b])) @ unit(np.asarray(texts[c])), reverse=True)
            np.testing.assert_allclose(out["local_scores"][b, c], np.mean(scores[:4]), rtol=1e-5)


def test_without_local_weight_the_patches_are_not_read():
    image, texts = random(2, 6), random(3, 6, seed=1)
    broken = jnp.full((2, 9, 6), jnp.nan)
    logits, out = global_local_logits(image, broken, texts, logit_scale=1.0, top_k=4, local_weight=0.0)
    assert np.all(np.isfinite(logits))
    assert set(out) == {"global_scores"}


@pytest.mark.parametrize("top_k", [0, 10])
def test_impossible_top_k(top_k):
    with pytest.raises(ValueError, match=r"between 1 and the 9 patches.*found " + str(top_k)):
        global_local_logits(random(1, 6), random(1, 9, 6), random(2, 6), logit_scale=1.0, top_k=top_k, local_weight=1.0)


LABELS = jnp.array([0, 2, 1, 1])


def scored(image=None, patches=None, texts=None, **changes):
    """Logits [4, 3] of 7 patches; what is not given is random."""
    image = random(4, 5) if image is None else image
    patches = random(4, 7, 5, seed=2) if patches is None else patches
    texts = random(3, 5, seed=3) if texts is None else texts
    options = {"logit_scale": 2.0, "top_k": 3, "local_weight": 0.7, **changes}
    return global_local_logits(image, patches, texts, **options)[0]


FUNCTIONS = {
    "contrastive": (lambda x: losses.contrastive_alignment(x, random(3, 5, seed=1), 0.5), (3, 5)),
    "l1": (lambda x: losses.l1_alignment(x, random(3, 5, seed=1)), (3, 5)),
    "cosine": (lambda x: losses.cosine_alignment(x, random(3, 5, seed=1)), (3, 5)),
    "cosine prototype": (lambda x: losses.cosine_prototype_alignment(x, random(3, 5, seed=1), LABELS), (4, 5)),
    "l1 prototype": (lambda x: losses.l1_prototype_alignment(x, random(3, 5, seed=1), LABELS), (4, 5)),
    "cross-entropy": (lambda x: losses.cross_entropy(x, jax.nn.one_hot(LABELS, 3), 0.1), (4, 3)),
    "global": (lambda x: scored(image=x), (4, 5)),
    "local": (lambda x: scored(patches=x), (4, 7, 5)),
    "weighted patches": (lambda x: scored(patches=x, patch_weights=jnp.exp(random(3, 7, seed=4))), (4, 7, 5)),
    "text": (lambda x: scored(texts=x), (3, 5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_by_finite_differences(name):
    function, shape = FUNCTIONS[name]
    check_grads(
        lambda x: jnp.mean(function(x)), (random(*shape, seed=9),), order=1, modes=["rev"], atol=2e-3, rtol=2e-3
    )


@pytest.mark.parametrize("name", ["cosine prototype", "l1 prototype", "cross-entropy"])
def test_batch_is_its_single_examples_and_a_mask_is_a_subset(name):
    features, prototypes = random(4, 5), random(3, 5, seed=1)
    function = {
        "cosine prototype": losses.cosine_prototype_alignment,
        "l1 prototype": losses.l1_prototype_alignment,
        "cross-entropy": lambda x, p, y: losses.cross_entropy(x @ p.T, jax.nn.one_hot(y, 3), 0.1),
    }[name]
    together = function(features, prototypes, LABELS)
    alone = [function(features[i : i + 1], prototypes, LABELS[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    mask = jnp.array([1.0, 0.0, 1.0, 0.0])
    masked = jnp.sum(together * mask) / jnp.sum(mask)
    subset = jnp.mean(function(features[::2], prototypes, LABELS[::2]))
    np.testing.assert_allclose(masked, subset, rtol=1e-5)


def test_gradient_is_finite_at_a_zero_vector():
    gradient = jax.grad(lambda x: jnp.sum(losses.contrastive_alignment(x, random(3, 5), 0.01)))(jnp.zeros((3, 5)))
    assert np.all(np.isfinite(gradient))


def context(objective, **changes):
    """A batch of 4 images of 3 classes; outputs and what is frozen by name."""
    values = {
        "image_features": random(4, 6, seed=1),
        "text_features": random(3, 6, seed=1),
        "token_features": random(3, 5),
        "hard_text_features": random(1, 3, 6, seed=3),
        "hard_token_features": random(1, 3, 5, seed=2),
        "prototypes": random(3, 6, seed=2),
        **changes,
    }
    outputs = {name: values.pop(name) for name in ("image_features", "text_features", "token_features")}
    frozen = Frozen(backbone={}, soft_prompts=None, **values)
    targets = jax.nn.one_hot(LABELS, 3)
    return losses.Context(objective.options, random(4, 3), targets, LABELS, outputs, {}, frozen)


def per_class(objective, *arrays):
    names = ("token_features", "text_features", "hard_token_features", "hard_text_features")
    return objective.values(context(objective, **dict(zip(names, arrays, strict=bool(arrays)))), "class")


def per_example(objective):
    return objective.values(context(objective), "example")


def test_total_follows_equation_12():
    objective = tiny.objective(beta=0.5, gamma=3.0, token_weight=2.0, prompt_weight=0.25)
    terms = {name: jnp.mean(values) for name, values in {**per_class(objective), **per_example(objective)}.items()}
    expected = (
        terms["cross_entropy"]
        + 0.5 * (2 * terms["token_alignment"] + 0.25 * terms["prompt_alignment"])
        + 3 * terms["prototype_alignment"]
    )
    np.testing.assert_allclose(objective.total(terms), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"beta": 0.0}, {"token_alignment", "prompt_alignment"}),
        ({"gamma": 0.0}, {"prototype_alignment"}),
        ({"token_weight": 0.0}, {"token_alignment"}),
        ({"prompt_weight": 0.0}, {"prompt_alignment"}),
    ],
)
def test_a_term_of_weight_zero_is_not_computed(changes, absent):
    everything = {"token_alignment", "prompt_alignment", "prototype_alignment", "cross_entropy"}
    objective = tiny.objective(**changes)
    assert {**per_class(objective), **per_example(objective)}.keys() == everything - absent == objective.weights.keys()


def test_only_terms_that_are_named_are_part_of_the_loss():
    named = tiny.objective(terms=("prompt_alignment", "cross_entropy"), beta=8.0)
    assert named.weights == {"cross_entropy": 1.0, "prompt_alignment": 8.0}
    assert str(named) == "cross_entropy + 8 prompt_alignment"
    alone = losses.Objective.of(named.options, only=("prototype_alignment",))
    assert alone.weights == {"prototype_alignment": 1.0}
    assert alone.reads_prototypes
    assert not named.reads_prototypes
    with pytest.raises(
        ConfigError, match=r"loss\.terms holds 'hinge', expected names of cross_entropy, token_alignment, "
    ):
        tiny.objective(terms=("cross_entropy", "hinge"))
    with pytest.raises(ConfigError, match="the weight of each of token_alignment, prompt_alignment is 0"):
        tiny.objective(terms=("token_alignment", "prompt_alignment"), beta=0.0)


def test_what_was_set_and_has_no_effect_is_said():
    named = {"terms": ("cross_entropy", "prompt_alignment")}
    for changes in ({}, {"gamma": 0.0}, {"beta": 8.0, **named}, {"prompt_weight": 2.0, **named}):
        assert tiny.objective(**changes).idle_options() == []
    assert tiny.objective(gamma=5.0, token_weight=2.0, **named).idle_options() == [
        "config.loss.gamma is 5, but none of config.loss.terms has this weight",
        "config.loss.token_weight is 2, but none of config.loss.terms has this weight",
    ]
    assert tiny.objective(terms=("cross_entropy", "image_consistency")).idle_options() == [
        "config.loss.terms names image_consistency, whose weight is 0: it is left out"
    ]


def test_a_term_that_reads_prototypes_without_saying_so_is_told():
    objective = tiny.objective(gamma=0.0)
    with pytest.raises(ValueError, match="needs reads_prototypes=True"):
        _ = context(objective, prototypes=None).prototypes


def test_distances_are_chosen_by_name():
    angle = per_class(tiny.objective(prompt_distance="cosine"))["prompt_alignment"]
    np.testing.assert_allclose(angle, losses.cosine_alignment(random(3, 6, seed=1), random(1, 3, 6, seed=3)[0]))
    objective = tiny.objective(token_distance="l1", prompt_distance="contrastive", prototype_distance="l1")
    terms = {**per_class(objective), **per_example(objective)}
    np.testing.assert_allclose(terms["token_alignment"], losses.l1_alignment(random(3, 5), random(1, 3, 5, seed=2)[0]))
    np.testing.assert_allclose(
        terms["prompt_alignment"], losses.contrastive_alignment(random(3, 6, seed=1), random(1, 3, 6, seed=3)[0], 0.01)
    )
    np.testing.assert_allclose(
        terms["prototype_alignment"],
        losses.l1_prototype_alignment(random(4, 6, seed=1), random(3, 6, seed=2), LABELS),
    )
