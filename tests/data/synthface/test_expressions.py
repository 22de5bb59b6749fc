"""Expressions: prototypes of the tables, variants as documented, and overlap that leaves an ideal observer in doubt."""

import itertools

import numpy as np
import pytest
from scipy import optimize, special

from mpafer_jax.config.expressions import CANONICAL_NAMES
from mpafer_jax.data.synthface.expressions import FREQUENCIES, PROTOTYPES, sample_random_units, sample_units
from mpafer_jax.data.synthface.units import INDEX, ONE_SIDED, UNITS

EXCLUSIVE = [(24, 25), (24, 26), (24, 27), (26, 27), (5, 43), (23, 27), (17, 26), (17, 27), (16, 24), (20, 24)]


def active(values, threshold=0.0):
    return {unit for unit in UNITS if values[INDEX[unit]].max() > threshold}


def samples(expression, number=400, difficulty=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_units(expression, rng, difficulty) for _ in range(number)]


def test_the_tables():
    assert PROTOTYPES == {
        "neutral": (),
        "happiness": (6, 12),
        "sadness": (1, 4, 15),
        "surprise": (1, 2, 5, 26),
        "fear": (1, 2, 4, 5, 7, 20, 26),
        "disgust": (9, 15, 17),
        "anger": (4, 5, 7, 23),
        "contempt": (12, 14),
    }
    assert set(PROTOTYPES) == set(CANONICAL_NAMES) == set(FREQUENCIES)


@pytest.mark.parametrize("expression", PROTOTYPES)
def test_without_difficulty_all_of_a_prototype_is_there(expression):
    jaw = {17, 23, 26, 27}  # a variant may open the mouth further, which excludes these
    for values in samples(expression, 60, difficulty=0.0):
        assert set(PROTOTYPES[expression]) - jaw <= active(values, 0.7)


@pytest.mark.parametrize("expression", PROTOTYPES)
def test_images_of_an_expression_vary(expression):
    found = samples(expression)
    for values in found:
        assert values.shape == (20, 2)
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()
        if PROTOTYPES[expression]:
            assert active(values) & set(PROTOTYPES[expression])
    assert len({frozenset(active(values)) for values in found}) > 20
    for unit in PROTOTYPES[expression]:
        present = np.mean([unit in active(values) for values in found])
        assert 0.5 < present < 0.98, unit  # some images lack it
    extra = [active(values) - set(PROTOTYPES[expression]) for values in found]
    assert 0.3 < np.mean([len(units) > 0 for units in extra]) < 1.0


def test_contempt_is_on_one_side_and_on_either():
    found = [values[[INDEX[12], INDEX[14]]].max(axis=0) for values in samples("contempt")]
    strong, weak = np.max(found, axis=1), np.min(found, axis=1)
    assert (weak <= 0.3 * strong + 1e-6).mean() > 0.95
    assert 0.4 < np.mean([left > right for left, right in found]) < 0.6


def test_units_that_exclude_one_another_never_meet():
    rng = np.random.default_rng(0)
    everything = [values for name in PROTOTYPES for values in samples(name, 300)]
    everything += [sample_random_units(rng) for _ in range(2000)]
    for values, (first, second) in itertools.product(everything, EXCLUSIVE):
        assert not {first, second} <= active(values)


def test_units_without_sides_are_even():
    rng = np.random.default_rng(0)
    for values in [*samples("fear"), *(sample_random_units(rng) for _ in range(400))]:
        for unit in set(UNITS) - ONE_SIDED:
            assert values[INDEX[unit], 0] == values[INDEX[unit], 1]


def test_random_units_know_no_expression():
    """Every unit is about as frequent as any other, and no pair that a prototype joins is sought or avoided."""
    rng = np.random.default_rng(0)
    shown = np.array([sample_random_units(rng).max(axis=1) > 0 for _ in range(12000)])
    numbers = shown.sum(axis=1)
    assert (numbers.min(), numbers.max()) == (0, 7)
    assert shown.mean(axis=0).min() > 0.1
    assert shown.mean(axis=0).max() < 0.22
    # The number of units varies, which ties all of them together a little; prototypes' pairs no more than others.
    correlation = np.corrcoef(shown.T)
    pairs = set(itertools.combinations(UNITS, 2)) - {tuple(sorted(pair)) for pair in EXCLUSIVE}
    joined = {pair for prototype in PROTOTYPES.values() for pair in itertools.combinations(prototype, 2)} & pairs
    mean = {
        name: np.mean([correlation[INDEX[first], INDEX[second]] for first, second in group])
        for name, group in (("joined", joined), ("others", pairs - joined))
    }
    assert mean["joined"] == pytest.approx(mean["others"], abs=0.03)


def test_an_unknown_expression_is_refused():
    with pytest.raises(ValueError, match="no expression 'joy'; there are neutral, happiness"):
        sample_units("joy", np.random.default_rng(0))


def observed(rng, number, names, difficulty):
    """What an observer who sees every intensity can use: strengths, sides, presence, and all products of strengths."""
    shares = np.array([FREQUENCIES[name] for name in names])
    labels = rng.choice(len(names), number, p=shares / shares.sum())
    units = np.stack([sample_units(names[label], rng, difficulty) for label in labels]).astype(np.float64)
    mean, uneven = units.mean(axis=2), np.abs(units[..., 0] - units[..., 1])
    first, second = np.triu_indices(len(UNITS))
    features = np.concatenate(
        [mean, mean > 0, uneven, mean[:, first] * mean[:, second], np.ones((number, 1))], axis=1, dtype=np.float64
    )
    return features, labels


def ideal_accuracy(names, difficulty, number=6000):
    """Test accuracy of a logistic regression on the true units."""
    rng = np.random.default_rng(0)
    features, labels = observed(rng, number, names, difficulty)
    target = np.eye(len(names))[labels]

    def loss(flat):
        weights = flat.reshape(features.shape[1], -1)
        logits = features @ weights
        value = special.logsumexp(logits, axis=1).mean() - (logits * target).sum(axis=1).mean()
        gradient = features.T @ (special.softmax(logits, axis=1) - target) / len(labels)
        return value + 1e-4 * (weights**2).sum(), (gradient + 2e-4 * weights).ravel()

    start = np.zeros(features.shape[1] * len(names))
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 80})
    unseen, truth = observed(rng, number // 2, names, difficulty)
    return (np.argmax(unseen @ found.x.reshape(features.shape[1], -1), axis=1) == truth).mean()


def test_an_ideal_observer_is_left_in_doubt_about_a_few_and_difficulty_about_more():
    names = tuple(PROTOTYPES)
    assert 0.93 <= ideal_accuracy(names, 1.0) <= 0.97
    assert ideal_accuracy(names, 0.4, 2500) > 0.98
    assert ideal_accuracy(names, 1.4, 2500) < 0.93
