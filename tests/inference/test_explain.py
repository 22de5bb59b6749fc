"""Explanations: rollout against plain matrices, maps in their place, phrases ranked, images drawn."""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.evaluation import overlay
from mpafer_jax.inference import attribution_sheet
from mpafer_jax.inference.attribution import Explainer, rollout
from mpafer_jax.method.hard_prompts.bank import Bank
from mpafer_jax.method.hard_prompts.features import text_encoder
from mpafer_jax.method.model import variables
from mpafer_jax.method.prompts import Prompts
from tests import tiny


def distributions(rng, *shape):
    values = rng.random(shape) ** 4
    return values / values.sum(axis=-1, keepdims=True)


def test_rollout_is_the_product_of_the_layers_with_prompts_as_sources():
    layers, batch, length, prompts = 3, 2, 5, 4
    attention = distributions(np.random.default_rng(0), layers, batch, length, length + prompts)
    shares, prompt_share = rollout(jnp.asarray(attention, jnp.float32), length - 1, jnp.ones(layers, bool))
    for row in range(batch):
        # A state for every position and for every prompt of every layer; prompts stay what they are.
        states = length + layers * prompts
        product = np.eye(states)
        for layer in range(layers):
            step = np.eye(states)
            own = slice(length + layer * prompts, length + (layer + 1) * prompts)
            step[:length, :length] = 0.5 * np.eye(length) + 0.5 * attention[layer, row, :, :length]
            step[:length, own] = 0.5 * attention[layer, row, :, length:]
            product = step @ product
        np.testing.assert_allclose(shares[row], product[0, 1:length], rtol=1e-5)
        assert float(prompt_share[row]) == pytest.approx(product[0, length:].sum(), rel=1e-5)
        assert product[0].sum() == pytest.approx(1)


def test_attention_is_there_for_who_asks_and_changes_nothing():
    model = tiny.model()
    prompts = model.learner.initial_params(1)
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    both = variables(tiny.clip_params(), prompts)

    soft_prompts = tiny.frozen(model).soft_prompts

    @jax.jit  # both in one, which compiles once
    def encode(params, images):
        plain = model.apply(params, images, soft_prompts)
        return plain, model.apply(params, images, soft_prompts, mutable=["intermediates"])

    (_, plain), ((_, asked), state) = encode(both, images)
    attention = model.backbone.attention(state["intermediates"]["backbone"])
    assert attention.shape == (3, 2, 17, 17 + 2)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(asked["patch_features"], plain["patch_features"], rtol=1e-5, atol=1e-5)


def bank(**classes) -> Bank:
    return Bank.model_validate({"name": "b", "source": "s", "question": "q", "classes": classes})


@pytest.fixture(scope="module")
def explained(predictor, faces):
    texts = {"Happy": {"mouth": ["a smile", "raised lip corners"]}, "anger": "hard eyes", "boredom": "a yawn"}
    explainer = Explainer(predictor, bank(**texts))
    return explainer, explainer.explain(list(predictor.stream(faces[:3], keep_pixels=True)))


def test_maps_are_the_predictions_scores_row_by_row(explained, predictor):
    _, explanations = explained
    for explanation in explanations:
        prediction = explanation.prediction
        maps, contrast = explanation.class_maps, explanation.contrast_maps
        assert maps.shape == contrast.shape == (5, 8, 8)
        assert maps[2, 1, 3] == prediction.patch_scores[8 + 3, 2]
        np.testing.assert_allclose(contrast.sum(axis=0), 0, atol=1e-5)
        assert explanation.rollout.shape == (8, 8)
        assert 0 < explanation.rollout.sum() + explanation.prompt_share < 1
        assert explanation.prompt_share > 0
    assert json.loads(json.dumps(explanations[0].to_dict(), allow_nan=False))["phrases"][0].keys() == {
        "text",
        "class_name",
        "granularity",
        "score",
    }
    with pytest.raises(ValueError, match="keep_pixels=True"):
        explained[0].explain([predictor.predict(explanations[0].prediction.pixels)])


def test_phrases_are_those_of_the_models_classes_best_first(explained, predictor):
    explainer, explanations = explained
    assert [(phrase.text, phrase.class_name, phrase.granularity) for phrase in explainer.phrases] == [
        ("a smile", "Happy", "mouth"),
        ("raised lip corners", "Happy", "mouth"),
        ("hard eyes", "anger", "holistic"),
    ]
    for explanation in explanations:
        scores = [score for _, score in explanation.phrases]
        assert scores == sorted(scores, reverse=True)
        assert {phrase for phrase, _ in explanation.phrases} == set(explainer.phrases)
        assert -1 <= scores[-1] < scores[0] <= 1
    assert {phrase.class_name for phrase in Explainer(predictor, bank(boredom="a yawn")).phrases} == {"boredom"}


def test_a_phrase_scores_as_a_class_with_that_text_would(explained, predictor):
    """The head's own score, brought to the scale of a cosine."""
    _, explanations = explained
    own = next(score for phrase, score in explanations[0].phrases if phrase.text == "hard eyes")
    model, backbone = predictor.model, predictor.frozen.backbone
    encode = text_encoder(model, backbone, predictor.tokenizer.encode)
    features, _ = encode(["a photo of a person with hard eyes"])
    pixels = jnp.asarray(explanations[0].prediction.pixels[None])
    images = normalize_images(pixels, predictor.forward.mean, predictor.forward.std)
    classify = jax.jit(functools.partial(model.apply, method="classify"))
    logits, _ = classify(variables(backbone, {}), images, features, prompts=Prompts())
    bound = model.bind(variables(backbone, {}))
    scale = float(bound.backbone.temperature_scale()) * (1 + model.local_weight)
    assert float(logits[0, 0]) / scale == pytest.approx(own, abs=1e-4)


def test_phrases_are_of_the_frozen_clip_whatever_the_visual_prompts(explained, predictor):
    _, (first, *_) = explained
    other = copy.copy(predictor)
    other.params = jax.tree.map(jnp.negative, predictor.params)
    texts = {"Happy": {"mouth": ["a smile", "raised lip corners"]}, "anger": "hard eyes", "boredom": "a yawn"}
    (explanation,) = Explainer(other, bank(**texts)).explain([first.prediction])
    assert not np.allclose(explanation.rollout, first.rollout, rtol=1e-3)
    assert [phrase for phrase, _ in explanation.phrases] == [phrase for phrase, _ in first.phrases]
    np.testing.assert_allclose(*([score for _, score in found.phrases] for found in (explanation, first)), atol=1e-5)


def test_heat_lies_where_the_patch_is():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    shown = np.asarray(overlay.heat_overlay(np.full((32, 32, 3), 128, np.uint8), heat, side=80)).astype(int)
    assert shown.shape == (80, 80, 3)
    hottest = np.unravel_index((shown[..., 0] + shown[..., 1]).argmax(), (80, 80))
    assert hottest[0] < 20
    assert hottest[1] >= 60
    brightness = overlay.colors(np.linspace(0, 1, 20)).astype(int) @ [299, 587, 114]
    assert (np.diff(brightness) > 0).all()
    image = Image.new("RGB", (40, 40))
    overlay.outline_patches(image, np.array([7]), (4, 4))
    assert np.asarray(image)[..., 0].nonzero()[0].min() == 10
    assert image.getpixel((30, 10)) == (255, 255, 255)
    assert image.getpixel((29, 10)) == (0, 0, 0)


def test_a_sheet_shows_every_class(explained):
    _, explanations = explained
    sheet = attribution_sheet.sheet(explanations[0])
    assert sheet.width == 5 * (overlay.TILE + 8) + 8
    prediction = explanations[0].prediction
    heats = overlay.scaled(explanations[0].contrast_maps)
    face = Image.fromarray(prediction.pixels).resize((overlay.TILE, overlay.TILE), Image.Resampling.BICUBIC)
    tiles = [face]
    for index in np.argsort(-prediction.probabilities, kind="stable"):
        tiles.append(overlay.heat_overlay(prediction.pixels, heats[index]))
        overlay.outline_patches(tiles[-1], prediction.top_patches[index], prediction.grid)
    tiles.append(overlay.heat_overlay(prediction.pixels, overlay.scaled(explanations[0].rollout)))
    assert len(tiles) == 1 + 5 + 1
    places = [place(sheet, tile) for tile in tiles]
    assert [left for left, _ in places] == [8 + column * (overlay.TILE + 8) for column in (0, 1, 2, 3, 4, 0, 1)]
    assert [top for _, top in places[:5]] == [8] * 5
    assert places[5][1] == places[6][1] > 8 + overlay.TILE


def test_a_sheet_is_as_wide_as_its_longest_phrase(explained):
    """Without a local score there are two tiles, narrower than phrases."""
    explanation = explained[1][0]
    prediction = dataclasses.replace(explanation.prediction, patch_scores=None, top_patches=None)
    text = "the lips are pressed together and the corners of the mouth are drawn back and down on both sides"
    longest = (attribution_sheet.Phrase(text, "anger", "mouth"), 0.25)
    sheet = attribution_sheet.sheet(dataclasses.replace(explanation, prediction=prediction, phrases=(longest,)))
    columns = np.flatnonzero((np.asarray(sheet)[-28:] != 255).any(axis=(0, 2)))  # of the phrase's line
    assert columns.max() > 2 * (overlay.TILE + 8) + 8
    assert columns.max() < sheet.width - 4


def place(sheet, tile) -> tuple[int, int]:
    """Where a tile lies in a sheet: (left, top)."""
    whole, part = np.asarray(sheet), np.asarray(tile)
    lefts = range(8, sheet.width - tile.width, tile.width + 8)
    tops = range(8, sheet.height - tile.height)
    (found,) = [
        (left, top)
        for left in lefts
        for top in tops
        if np.array_equal(whole[top : top + tile.height, left : left + tile.width], part)
    ]
    return found
