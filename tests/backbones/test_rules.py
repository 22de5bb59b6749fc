"""The table of rules: complete, invertible, and loud about every tensor that does not fit."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest

from mpafer_jax.backbones.clip.model import CLIP, ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.random_clip import random_params
from mpafer_jax.backbones.clip.rules import RULES, flatten, param_shapes, to_params, to_tensors

CONFIG = ClipConfig(
    vision=VisionConfig(12, 20, 3, 2, 8, 4, "quick_gelu", 1e-5),
    text=TextConfig(30, 8, 16, 2, 2, 7, 2, "quick_gelu", 1e-5),
    projection_dim=6,
)


@pytest.fixture
def tensors():
    return to_tensors(random_params(CONFIG))


def test_the_rules_give_the_tree_that_the_model_makes():
    ids, images = np.zeros((1, 7), np.int32), np.zeros((1, 8, 8, 3), np.float32)
    variables = jax.eval_shape(CLIP(CONFIG).init, jax.random.key(0), images, ids)
    assert {path: leaf.shape for path, leaf in flatten(variables["params"]).items()} == param_shapes(CONFIG)


@pytest.mark.parametrize("file_format", ["pytorch", "flax"])
def test_back_and_forth_gives_the_same_parameters(file_format):
    params = flatten(random_params(CONFIG))
    again = flatten(to_params(to_tensors(random_params(CONFIG), file_format), CONFIG, file_format))
    assert again.keys() == params.keys()
    for path, value in params.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)


def test_every_name_is_used_once():
    for names in ([rule.path for rule in RULES], [rule.pytorch for rule in RULES], [rule.flax for rule in RULES]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_the_image_towers_type_is_cast_and_all_else_is_float32(tensors, stored, wanted):
    params = flatten(to_params({k: v.astype(stored) for k, v in tensors.items()}, CONFIG, "pytorch", dtype=wanted))
    for path, value in params.items():
        assert value.dtype.name == (wanted if path.startswith("visual/") else "float32"), path
    np.testing.assert_allclose(
        params["text/projection/kernel"].astype(np.float32), tensors["text_projection.weight"].T, rtol=1e-2
    )


def test_one_error_names_everything_that_does_not_fit(tensors):
    del tensors["text_projection.weight"]
    del tensors["vision_model.encoder.layers.2.mlp.fc1.bias"]
    tensors["vision_model.encoder.layers.3.mlp.fc1.bias"] = np.zeros(20, np.float32)
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"].T
    tensors["logit_scale"] = np.zeros((), np.int8)
    with pytest.raises(ValueError, match=r"five.bin does not hold the CLIP that its") as error:
        to_params(tensors, CONFIG, "pytorch", source="five.bin")
    lines = str(error.value).splitlines()
    assert "5 tensor(s) differ" in lines[0]
    assert "  missing: text_projection.weight [6, 8]" in lines
    assert "  missing: vision_model.encoder.layers.2.mlp.fc1.bias [20]" in lines
    assert "  unknown: vision_model.encoder.layers.3.mlp.fc1.bias [20]" in lines
    assert "  visual_projection.weight: found [12, 6], expected [6, 12]" in lines
    assert any(line.startswith("  logit_scale: found type int8") for line in lines)


@pytest.mark.parametrize("separator", [".", "/"])
def test_old_position_ids_are_ignored(separator):
    file_format = "pytorch" if separator == "." else "flax"
    tensors = to_tensors(random_params(CONFIG), file_format)
    for tower, length in (("text", 7), ("vision", 5)):
        tensors[separator.join([f"{tower}_model", "embeddings", "position_ids"])] = np.arange(length)[None]
    to_params(tensors, CONFIG, file_format)


def test_unknown_type_is_an_error(tensors):
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of float32, bfloat16, float16"):
        to_params(tensors, CONFIG, "pytorch", dtype="int8")


def test_parameters_of_another_tree_are_refused():
    params = random_params(CONFIG)
    params["visual"]["extra"] = params["visual"].pop("class_embedding")
    with pytest.raises(ValueError, match="missing: visual/class_embedding\n  unknown: visual/extra"):
        to_tensors(params)
