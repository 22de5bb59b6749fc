"""Sizes of known CLIPs."""

from __future__ import annotations

from mpafer_jax.backbones.clip.model import ClipConfig, plain_config


def _clip(
    vision: tuple[int, int, int],
    patch_size: int,
    text: tuple[int, int, int],
    projection_dim: int,
    image_size: int = 224,
) -> ClipConfig:
    return plain_config(
        vision,
        text,
        image_size=image_size,
        patch_size=patch_size,
        projection_dim=projection_dim,
        vocab_size=49408,
        eos_token_id=49407,
    )


# OpenAI's: Radford et al. (2021), table 20. No CLIP ViT-S/16 is published: the image tower is DeiT's
# (arXiv:2012.12877), the text tower half as wide as ViT-B/16's. "tiny" compiles in a second.
SIZES = {
    "vit_b32": _clip((768, 12, 12), 32, (512, 12, 8), 512),
    "vit_b16": _clip((768, 12, 12), 16, (512, 12, 8), 512),
    "vit_l14": _clip((1024, 24, 16), 14, (768, 12, 12), 768),
    "vit_l14_336": _clip((1024, 24, 16), 14, (768, 12, 12), 768, 336),
    "vit_s16": _clip((384, 12, 6), 16, (256, 12, 4), 256),
    "tiny": _clip((32, 3, 4), 8, (24, 2, 4), 16, 32),
}
# By name on the Hub.
PUBLISHED = {
    "openai/clip-vit-base-patch32": SIZES["vit_b32"],
    "openai/clip-vit-base-patch16": SIZES["vit_b16"],
    "openai/clip-vit-large-patch14": SIZES["vit_l14"],
    "openai/clip-vit-large-patch14-336": SIZES["vit_l14_336"],
}
