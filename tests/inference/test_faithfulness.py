"""Deletion and insertion: what is painted over, areas by hand, and that a good map beats a bad one."""

import json
import types

import numpy as np
import pytest

from mpafer_jax.backbones.clip.random_clip import write_random_clip
from mpafer_jax.inference import Predictor, faithfulness
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.attribution_sheet import class_tiles
from mpafer_jax.inference.faithfulness import Curves
from tests.inference.test_explain import bank

GRID, COVERED, SIZE = (4, 4), 16, 18  # patches of 4 pixels, two pixels left over


def test_masks_grow_patch_by_patch_in_the_maps_order():
    order = np.array([5, 0, *range(1, 5), *range(6, 16)])
    masks = faithfulness.masks(order, GRID, COVERED, SIZE, steps=8)
    assert masks.shape == (9, SIZE, SIZE)
    assert masks.sum(axis=(1, 2)).tolist() == [2 * 16 * step for step in range(9)]
    assert masks[1, 4:8, 4:8].all()  # patch 5: second row, second column
    assert masks[1, :4, :4].all()
    assert (masks[1:] >= masks[:-1]).all()
    assert not masks[:, 16:].any()


def test_masks_and_maps_cover_what_the_patches_see_where_much_is_left_over(tmp_path):
    """62 pixels hold three patches of 16, and 14 pixels that the model does not see."""
    write_random_clip(tmp_path / "clip", image_size=62, patch_size=16)
    predictor = Predictor.zero_shot(str(tmp_path / "clip"), ["happiness", "fear"], None, batch_sizes=(1,))
    grey = np.full((62, 62, 3), 128, np.uint8)
    last = faithfulness.masks(np.array([8, *range(8)]), (3, 3), predictor.model.backbone.spec.covered, 62, 9)[1]
    assert np.argwhere(last).min(axis=0).tolist() == [32, 32]
    assert np.argwhere(last).max(axis=0).tolist() == [47, 47]

    def scores(changed):
        (prediction,) = predictor.stream([np.where(changed[..., None], np.uint8(0), grey)], keep_pixels=True)
        return prediction

    plain = scores(np.zeros((62, 62), bool))
    beyond = np.ones((62, 62), bool)
    beyond[:48, :48] = False
    np.testing.assert_allclose(scores(beyond).patch_scores, plain.patch_scores, atol=1e-6)
    assert np.abs(scores(last).patch_scores - plain.patch_scores).max() > 1e-4
    np.testing.assert_array_equal(plain.seen, grey[:48, :48])
    # White where the patches see, black beyond: the drawn tiles show no black.
    white = np.where(beyond[..., None], np.uint8(0), np.uint8(255)).repeat(3, axis=-1)
    explainer = Explainer(predictor, bank(anger="hard eyes"))
    (explanation,) = explainer.explain(list(predictor.stream([white], keep_pixels=True)))
    tile = np.asarray(class_tiles(explanation)["fear"]).astype(int)
    assert tile[-20:].sum(axis=-1).min() > 250


def evidence(pixels):
    """A model that looks at patch 5 alone, whose brightness is the probability."""
    return pixels[:, 4:8, 4:8].mean(axis=(1, 2, 3)).astype(np.float32) / 255


def test_a_map_that_knows_the_evidence_beats_one_that_does_not():
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[4:8, 4:8] = 255
    heat = np.zeros(16, np.float32)
    heat[5] = 1
    found = {}
    for name, values in (("good", heat), ("bad", -heat)):
        deletion, insertion = faithfulness.curves(evidence, pixels, values, GRID, COVERED, (0, 0, 0), 16)
        assert deletion[0] == insertion[-1] == 1
        assert deletion[-1] == 0
        assert insertion[0] < 0.5  # blurred
        found[name] = Curves(deletion[None], insertion[None]).areas()
    assert found["good"]["deletion"][0] == pytest.approx(0.5 / 16)  # falls from 1 to 0 in the first step
    assert found["bad"]["deletion"][0] == pytest.approx(1 - 0.5 / 16)
    assert found["good"]["insertion"][0] > found["bad"]["insertion"][0] + 0.5


def test_differences_are_paired():
    one = Curves(np.array([[1, 0], [0.5, 0.5]], np.float32), np.ones((2, 2), np.float32))
    two = Curves(np.array([[1, 0.5], [0.5, 1]], np.float32), np.ones((2, 2), np.float32))
    summary = faithfulness.summarize({"a": one, "random": two, "centre": two})
    assert summary["a"]["deletion"]["mean"] == 0.5
    assert summary["a"]["deletion"]["minus"]["random"] == {"mean": -0.25, "standard_error": 0.0}
    assert "random" not in summary["random"]["deletion"]["minus"]
    assert summary["a"]["deletion"]["curve"] == [0.75, 0.25]
    lines = faithfulness.table(summary).splitlines()
    assert lines[2].split("|")[1:4] == [" a      ", "          0.500 ± 0.000 ", " -0.250 ± 0.000 "]


def test_of_one_image_there_is_no_error():
    one = Curves(np.array([[1, 0]], np.float32), np.ones((1, 2), np.float32))
    summary = faithfulness.summarize({"a": one, "random": one, "centre": one})
    assert json.loads(json.dumps(summary, allow_nan=False))["a"]["deletion"]["standard_error"] is None
    assert faithfulness.table(summary).splitlines()[2].split("|")[2].strip() == "0.500"


def test_the_rivals_of_a_map():
    """One goes from the centre outwards, the other is drawn."""
    prediction = types.SimpleNamespace(grid=(3, 5))
    explained = types.SimpleNamespace(
        prediction=prediction, rollout=np.arange(15.0).reshape(3, 5), class_maps=None, contrast_maps=None
    )
    maps = faithfulness.maps_of(explained, np.random.default_rng(0))
    assert set(maps) == {"attention rollout", "centre", "random"}
    np.testing.assert_allclose(maps["centre"][[7, 6, 2, 5, 0]], [0, -1, -1, -2, -np.sqrt(5)], rtol=1e-6)
    np.testing.assert_array_equal(maps["attention rollout"], np.arange(15))
    np.testing.assert_array_equal(maps["random"], np.random.default_rng(0).random(15, np.float32))


def test_what_is_removed_has_the_mean_colour_and_random_maps_have_a_seed(predictor, faces, monkeypatch):
    seen = []

    def curves(probability, pixels, heat, grid, covered, fill, steps):
        seen.append((fill, heat))
        return np.zeros(3, np.float32), np.zeros(3, np.float32)

    monkeypatch.setattr(faithfulness, "curves", curves)
    explainer, drawn = Explainer(predictor, bank(anger="hard eyes")), []
    for seed in (0, 0, 1):
        seen.clear()
        faithfulness.measure(predictor, explainer, faces[:1], steps=2, seed=seed)
        assert {fill for fill, _ in seen} == {tuple(round(255 * value) for value in predictor.forward.mean)}
        drawn.append(seen[-1][1])  # "random" is the last
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.1


def test_every_map_of_a_model_is_measured(predictor, faces):
    explainer = Explainer(predictor, bank(anger="hard eyes"))
    measured = faithfulness.measure(predictor, explainer, faces[:3], steps=2, seed=0)
    assert set(measured) == {"patch scores", "patch contrast", "attention rollout", "centre", "random"}
    predictions = predictor.predict_batch(faces[:3])
    for curves in measured.values():
        assert curves.deletion.shape == curves.insertion.shape == (3, 3)
        for whole in (curves.deletion[:, 0], curves.insertion[:, -1]):
            np.testing.assert_allclose(whole, [p.confidence for p in predictions], rtol=1e-3)
    # Everything painted over is the same, whatever the order; and half of it is not.
    ends = [curves.deletion[:, -1] for curves in measured.values()]
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], (5, 3)), rtol=1e-4)
    assert not np.allclose(measured["random"].deletion[:, 1], measured["centre"].deletion[:, 1], rtol=1e-4)
