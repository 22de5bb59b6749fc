"""Measures by hand."""

import numpy as np
import pytest

from mpafer_jax.jobs.pretraining.evaluation import mean_auc, recalls, retrieval


def auc(scores, truth):
    return mean_auc(np.array(scores, np.float32)[:, None], np.array(truth, np.float32)[:, None])


def test_area_under_the_curve_counts_pairs():
    # Pairs of true (0.9, 0.4) and false (0.5, 0.1): three of four in the right order.
    assert auc([0.9, 0.5, 0.4, 0.1], [1, 0, 1, 0]) == pytest.approx(3 / 4)
    assert auc([0.9, 0.8, 0.1], [1, 1, 0]) == 1
    assert auc([0.1, 0.2, 0.9], [1, 1, 0]) == 0


def test_equal_scores_count_half_whatever_their_order():
    assert auc([0.5] * 5, [1, 1, 0, 0, 0]) == 1 / 2
    assert auc([0.5] * 5, [0, 0, 0, 1, 1]) == 1 / 2
    # Pairs: 2 > 1, 2 = 2, 1 = 1, 1 < 2.
    assert auc([2, 1, 1, 2], [1, 1, 0, 0]) == pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4)


def test_doubtful_and_unknown_truth_stays_out():
    plain = auc([0.9, 0.5, 0.4, 0.1], [1, 0, 1, 0])
    assert auc([0.9, 0.5, 0.4, 0.1, 0.0, 0.7], [0.8, 0.2, 1, 0, np.nan, 0.5]) == plain


def test_statements_are_averaged_where_there_are_both_kinds():
    scores = np.array([[0.9, 0.1, 0.3], [0.1, 0.9, 0.2]], np.float32)
    truth = np.array([[1, 1, 1], [0, 0, 1]], np.float32)
    assert mean_auc(scores, truth) == 1 / 2  # the third is true of both
    assert mean_auc(scores[:, 2:], truth[:, 2:]) is None
    assert mean_auc(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32)) is None


def test_retrieval_counts_within_full_pools():
    images, texts = np.eye(7, dtype=np.float32), np.eye(7, dtype=np.float32)
    captions = [(f"face {i}",) for i in range(7)]
    assert retrieval(images, texts, captions, 3) == 1
    swapped = texts[[1, 0, 2, 3, 4, 5, 6]]
    assert retrieval(images, swapped, captions, 3) == pytest.approx(4 / 6)  # the seventh fills no pool
    assert retrieval(images, swapped, captions, 256) == pytest.approx(5 / 7)  # fewer images than a pool: all of them


def test_retrieval_takes_a_caption_that_images_share_for_each_ones_own():
    kind = np.array([0, 0, 1, 1])
    features = np.eye(2, dtype=np.float32)[kind]
    captions = [(("a sad face", "a glad face")[i],) for i in kind]
    assert retrieval(features, features, captions, 256) == 1
    assert retrieval(features, features[::-1], captions, 256) == 0
    # The second caption of the first two images is the first of the others.
    assert retrieval(features, features[::-1], [("sad", "glad")] * 2 + [("glad",)] * 2, 256) == 1 / 2
    assert retrieval(features, features, [("a",), ("b",), ("c",), ("c",)], 2) == 3 / 4  # argmax takes the first of two


def test_recalls_by_hand():
    """Columns 0 and 2 are the first group, 3 and 1 the second, in the order of the same two classes."""
    truth = np.array(
        [[0.9, 0.1, 0.1, 0.9], [0.6, 0.4, 0.4, 0.6], [0.8, 0.2, 0.2, 0.8], [0, 1, 1, 0], [np.nan] * 4], np.float32
    )
    scores = np.array(
        [
            [1, 0, 0, 1],  # the first class, which is right
            [0, 0, 1, 3],  # by the mean of both groups the first, right
            [0, 2, 1, 0],  # the second, wrong
            [0, 1, 0, 0],  # the second, right
            [0, 9, 9, 0],  # not known
        ],
        np.float32,
    )
    assert recalls(scores, truth, [[0, 2], [3, 1]]) == {"war": 3 / 4, "uar": pytest.approx((2 / 3 + 1) / 2)}
    # A class without images does not count.
    assert recalls(scores[:3], truth[:3], [[0, 2], [3, 1]]) == pytest.approx({"war": 2 / 3, "uar": 2 / 3})
