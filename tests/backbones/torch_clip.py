"""Random CLIPs of transformers' own PyTorch model, and what that model computes: the reference of the parity tests."""

from __future__ import annotations

import numpy as np
from transformers import CLIPConfig, CLIPModel

from tests import needs

torch = needs.module("torch")

SOS, EOS = 28, 29
TEXT = {"vocab_size": 30, "bos_token_id": SOS, "pad_token_id": EOS, "eos_token_id": 2, "max_position_embeddings": 9}


def config(*, text: dict | None = None, vision: dict | None = None, projection_dim: int = 10) -> CLIPConfig:
    """A small configuration; the towers differ in every size, so that mixed-up tensors have the wrong shape."""
    small_text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    small_vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 12,
        "patch_size": 4,
    }
    return CLIPConfig(
        text_config={**TEXT, **small_text, **(text or {})},
        vision_config={**small_vision, **(vision or {})},
        projection_dim=projection_dim,
    )


def model(clip_config: CLIPConfig, seed: int = 0) -> CLIPModel:
    """A random model without a zero bias or a scale of one, which would hide mistakes."""
    torch.manual_seed(seed)
    clip = CLIPModel(clip_config).eval()
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif parameter.ndim:
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    return clip


def inputs(clip_config: CLIPConfig) -> tuple[np.ndarray, np.ndarray]:
    """Images [2, S, S, 3] and ids [3, L], among them one that fills all positions, padded with 0 or with EOS.

    Each text holds the largest id that is a word's.
    """
    rng = np.random.default_rng(1)
    text, size = clip_config.text_config, clip_config.vision_config.image_size
    sos, eos, length = text.bos_token_id, text.pad_token_id, text.max_position_embeddings
    ids = np.zeros((3, length), np.int32)
    for row, (words, padding) in zip(ids, [(2, 0), (length - 2, 0), (3, eos)], strict=True):
        row[:] = padding
        row[: words + 2] = [sos, *rng.integers(3, min(sos, eos), words), eos]
        row[1] = max({text.vocab_size - n for n in (1, 2, 3)} - {sos, eos})
    return rng.standard_normal((2, size, size, 3)).astype(np.float32), ids


@torch.no_grad()
def outputs(clip: CLIPModel, images: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Features before normalisation, as our `CLIP.__call__` names them, and the logits."""
    pixels, tokens = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(ids.astype(np.int64))
    vision = clip.vision_model(pixel_values=pixels)
    patches = clip.vision_model.post_layernorm(vision.last_hidden_state[:, 1:])
    return {
        "image_features": clip.visual_projection(vision.pooler_output).numpy(),
        "patch_features": clip.visual_projection(patches).numpy(),
        "text_features": clip.text_projection(clip.text_model(input_ids=tokens).pooler_output).numpy(),
        "logits": clip(input_ids=tokens, pixel_values=pixels).logits_per_image.numpy(),
    }
