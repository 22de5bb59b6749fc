"""Sizes of known CLIPs, for what needs no published weights: compile checks, random weights, measurements."""

from __future__ import annotations

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig


def _clip(
    vision: tuple[int, int, int, int], text: tuple[int, int, int], projection_dim: int, image_size: int = 224
) -> ClipConfig:
    """Of an image tower (width, layers, heads, patch size) and a text tower (width, layers, heads)."""
    (width, layers, heads, patch), (text_width, text_layers, text_heads) = vision, text
    return ClipConfig(
        VisionConfig(width, 4 * width, layers, heads, image_size, patch, "quick_gelu", 1e-5),
        TextConfig(49408, text_width, 4 * text_width, text_layers, text_heads, 77, 49407, "quick_gelu", 1e-5),
        projection_dim,
    )


# OpenAI's are those of Radford et al. (2021), table 20. ViT-S/16 has a CLIP of its own nowhere; its sizes are DeiT's
# (arXiv:2012.12877), and the text tower is half as wide as ViT-B/16's. The tiny one compiles in a second.
SIZES = {
    "vit_b32": _clip((768, 12, 12, 32), (512, 12, 8), 512),
    "vit_b16": _clip((768, 12, 12, 16), (512, 12, 8), 512),
    "vit_l14": _clip((1024, 24, 16, 14), (768, 12, 12), 768),
    "vit_l14_336": _clip((1024, 24, 16, 14), (768, 12, 12), 768, 336),
    "vit_s16": _clip((384, 12, 6, 16), (256, 12, 4), 256),
    "tiny": _clip((32, 3, 4, 8), (24, 2, 4), 16, 32),
}
# What the Hub calls them.
PUBLISHED = {
    "openai/clip-vit-base-patch32": SIZES["vit_b32"],
    "openai/clip-vit-base-patch16": SIZES["vit_b16"],
    "openai/clip-vit-large-patch14": SIZES["vit_l14"],
    "openai/clip-vit-large-patch14-336": SIZES["vit_l14_336"],
}
