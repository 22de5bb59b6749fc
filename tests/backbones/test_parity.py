"""The same numbers as transformers' PyTorch CLIPModel and transformers 4's FlaxCLIPModel, on weights from files."""

from __future__ import annotations

import gc
from pathlib import Path

import jax
import numpy as np
import pytest

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.registry import load_backbone
from tests.backbones import torch_clip

pytestmark = pytest.mark.torch

FLAX_FIXTURE = Path(__file__).parent / "fixtures" / "flax_clip"


def ours(folder: Path, images: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    clip = load_backbone(str(folder))
    logits, out = jax.jit(CLIP(clip.backbone.config).apply)({"params": clip.params}, images, ids)
    return {"logits": logits, **out}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(torch_clip.config(), id="quick_gelu-eos2"),
        pytest.param(
            torch_clip.config(
                text={"eos_token_id": torch_clip.EOS, "hidden_act": "gelu", "num_hidden_layers": 4},
                vision={"hidden_act": "gelu", "image_size": 22, "patch_size": 5, "num_hidden_layers": 1},
                projection_dim=7,
            ),
            id="gelu-real-eos-image-not-multiple-of-patch",
        ),
        pytest.param(
            torch_clip.config(
                text={"eos_token_id": torch_clip.EOS, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-3},
                vision={"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-2, "num_attention_heads": 1},
            ),
            id="mixed-activations-and-epsilons",
        ),
        pytest.param(
            torch_clip.config(text={"bos_token_id": 20, "eos_token_id": 10, "pad_token_id": 10}),
            id="eos-that-is-not-the-largest-id",
        ),
        pytest.param(torch_clip.config(text={"hidden_act": "silu"}, vision={"hidden_act": "relu"}), id="silu-relu"),
    ],
)
def test_small_clips_equal_pytorch(config, tmp_path):
    reference = torch_clip.model(config)
    reference.save_pretrained(tmp_path)
    images, ids = torch_clip.inputs(config)
    assert_same(ours(tmp_path, images, ids), torch_clip.outputs(reference, images, ids))


# Its layers are alike; four times as many take four times as long.
@pytest.mark.parametrize("layers", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_the_sizes_of_vit_b16_equal_pytorch(tmp_path, layers):
    config = torch_clip.config(
        text={
            "vocab_size": 49408,
            "bos_token_id": 49406,
            "pad_token_id": 49407,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
        },
        vision={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": layers,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
        },
        projection_dim=512,
    )
    reference = torch_clip.model(config)
    reference.save_pretrained(tmp_path)
    images, ids = torch_clip.inputs(config)
    expected = torch_clip.outputs(reference, images, ids)
    del reference
    gc.collect()
    assert_same(ours(tmp_path, images, ids), expected)


def test_msgpack_equals_transformers_4_flax_model():
    expected = np.load(FLAX_FIXTURE / "expected.npz")
    found = ours(FLAX_FIXTURE, expected["pixel_values"], expected["input_ids"])
    np.testing.assert_allclose(found["image_features"], expected["image_embeds"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["text_features"], expected["text_embeds"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["patch_features"], expected["patch_features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["logits"], expected["logits_per_image"], rtol=0, atol=1e-4)
