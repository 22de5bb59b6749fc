"""CLIP's two towers in Flax linen, with deep prompts.

Architecture: Radford et al. (2021), ViT variants. Parameter names follow OpenAI's and the Hub's; layers are scanned,
so their parameters are stacked on a leading axis [K, ...]. Shapes: B images, C texts, L text positions, N patches,
N_p visual prompts, K layers, W tower width, D joint embedding size.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mpafer_jax.backbones.base import (
    Backbone,
    BackboneSpec,
    DeepPrompts,
    Outputs,
    Params,
    TokenSpec,
    Tower,
    l2_normalize,
)
from mpafer_jax.backbones.clip.transformer import REMAT_POLICIES, Block, LayerNorm
from mpafer_jax.backbones.products import DEFAULT, Products

_PREFIX = 1  # SOS


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of the image tower, named as in the Hub's `vision_config`. Image and patch sizes in pixels."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def num_patches(self) -> int:
        """N, patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Shape of the text tower, named as in the Hub's `text_config`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_position_embeddings: int
    eos_token_id: int
    hidden_act: str
    layer_norm_eps: float


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of a CLIP: both towers and the joint embedding size D."""

    vision: VisionConfig
    text: TextConfig
    projection_dim: int


def plain_config(
    vision: tuple[int, int, int],
    text: tuple[int, int, int],
    *,
    image_size: int,
    patch_size: int,
    projection_dim: int,
    vocab_size: int,
    eos_token_id: int,
    max_position_embeddings: int = 77,
) -> ClipConfig:
    """Shape of a CLIP as OpenAI's are, with MLPs of four times the width; `vision`, `text`: width, layers and heads."""

    def tower(width: int, layers: int, heads: int) -> dict[str, Any]:
        return {
            **{"hidden_size": width, "intermediate_size": 4 * width, "num_layers": layers, "num_heads": heads},
            **{"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        }

    return ClipConfig(
        VisionConfig(**tower(*vision), image_size=image_size, patch_size=patch_size),
        TextConfig(
            **tower(*text),
            vocab_size=vocab_size,
            max_position_embeddings=max_position_embeddings,
            eos_token_id=eos_token_id,
        ),
        projection_dim,
    )


def _as(dtype: Any) -> Callable[[Params], Params]:
    """Reads arrays of 16 bits as those of another type."""

    def as_dtype(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(x, dtype)

    return functools.partial(jax.tree.map, as_dtype)


class _Unrolled(nn.Module):
    """K layers without a scan, their parameters under "0", "1", ..: see `base.Backbone.unroll`."""

    block: Callable[..., Block]
    num_layers: int

    @nn.compact
    def __call__(self, x: jax.Array, prompts: DeepPrompts | None) -> tuple[jax.Array, None]:
        for layer in range(self.num_layers):
            x, _ = self.block(name=str(layer))(x, jax.tree.map(operator.itemgetter(layer), prompts))
        return x, None


def _blocks(
    config: VisionConfig | TextConfig,
    *,
    causal: bool,
    dtype: jnp.dtype,
    products: Products = DEFAULT,
    remat: str,
    prompts_start: int,
    unrolled: bool = False,
) -> Any:
    """The tower's K layers as one scanned module, compiled once instead of K times; or unrolled."""
    fields: dict[str, Any] = {
        "num_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "causal": causal,
        "dtype": dtype,
        "products": products,
        "prompts_start": prompts_start,
    }
    if unrolled:
        return _Unrolled(functools.partial(Block, **fields), config.num_layers, name="blocks")
    block: Any = nn.map_variables(Block, "params", _as(jnp.bfloat16)) if products.stacks_as_bits else Block
    block = block if remat == "none" else nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[remat])
    scanned = nn.scan(
        block, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=config.num_layers
    )
    if products.stacks_as_bits:
        scanned = nn.map_variables(scanned, "params", _as(jnp.uint16))
    return scanned(**fields, name="blocks")


class VisionTransformer(nn.Module):
    """CLIP's image tower.

    Attributes:
      projection_dim: D.
      dtype: of matrix products.
      residual_dtype: of the residual stream.
      products: how matrices are multiplied.
      remat: 'none', 'dots' (save only products without a batch axis) or 'full' (save only layer inputs).
      unrolled: see `CLIP`.
    """

    config: VisionConfig
    projection_dim: int
    dtype: jnp.dtype
    residual_dtype: jnp.dtype
    products: Products
    remat: str
    unrolled: bool = False

    def setup(self) -> None:
        """Creates the submodules, with CLIP's names."""
        config, width = self.config, self.config.hidden_size
        self.class_embedding = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        patch = (config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv(
            width, kernel_size=patch, strides=patch, padding="VALID", use_bias=False, dtype=self.dtype
        )
        shape = (1 + config.num_patches, width)
        self.position_embedding = self.param("position_embedding", nn.initializers.normal(width**-0.5), shape)
        self.ln_pre = LayerNorm(config.layer_norm_eps, self.residual_dtype)
        self.blocks = _blocks(
            config,
            causal=False,
            dtype=self.dtype,
            products=self.products,
            remat=self.remat,
            prompts_start=1 + config.num_patches,
            unrolled=self.unrolled,
        )
        self.ln_post = LayerNorm(config.layer_norm_eps, self.dtype)
        self.projection = nn.Dense(
            self.projection_dim, use_bias=False, dtype=self.dtype, dot_general=self.products.dot_general
        )

    def __call__(
        self, images: jax.Array, prompts: DeepPrompts | None = None, kept: jax.Array | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Encodes images; see `base.Backbone.encode_image`.

        'patch_features' pass the same `ln_post` and projection as CLS. The outputs also hold 'tokens' [B, 1 + N, W],
        the last layer's output.

        Args:
          images: float [B, S, S, 3], normalised.
          prompts: for all K layers, or None.
          kept: int [B, N'], positions of the only patches that are encoded (Li et al., FLIP, CVPR 2023), which then
            take the place of the N in the outputs; None for all.

        Raises:
          ValueError: the images do not have the checkpoint's size.
        """
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be [B, {size}, {size}, 3] for this CLIP, found {list(images.shape)}")
        patches = self.patch_embedding(images.astype(self.dtype)).astype(jnp.float32)
        patches = patches.reshape(images.shape[0], -1, self.config.hidden_size)  # [B, rows, cols, W] -> [B, N, W]
        cls = jnp.broadcast_to(self.class_embedding.astype(jnp.float32), (images.shape[0], 1, self.config.hidden_size))
        x = jnp.concatenate([cls, patches], axis=1) + self.position_embedding.astype(jnp.float32)  # [B, 1 + N, W]
        if kept is not None:
            rows = jnp.concatenate([jnp.zeros_like(kept[:, :1]), 1 + kept], axis=1)
            x = jnp.take_along_axis(x, rows[:, :, None], axis=1)
        x = self.ln_pre(x)
        if prompts is not None:
            tokens = prompts.tokens.astype(self.residual_dtype)
            if prompts.before_norm:
                tokens = tokens.at[0].set(self.ln_pre(tokens[0]))
            prompts = dataclasses.replace(prompts, tokens=tokens)
            if prompts.in_sequence:
                first = jnp.broadcast_to(tokens[0], (x.shape[0], *tokens.shape[1:]))
                x = jnp.concatenate([x, first], axis=1)  # [B, 1 + N + N_p, W]
        tokens, _ = self.blocks(x, prompts)
        tokens = tokens[:, : 1 + self.config.num_patches]
        features = self.projection(self.ln_post(tokens)).astype(jnp.float32)  # [B, 1 + N, D]
        out = {"tokens": tokens, "image_features": features[:, 0], "patch_features": features[:, 1:]}
        return out["image_features"], out


class TextTransformer(nn.Module):
    """CLIP's text tower, in float32; attributes as of `VisionTransformer`."""

    config: TextConfig
    projection_dim: int
    remat: str

    def setup(self) -> None:
        """Creates the submodules, with CLIP's names."""
        config = self.config
        normal = nn.initializers.normal
        self.token_embedding = nn.Embed(
            config.vocab_size, config.hidden_size, dtype=jnp.float32, embedding_init=normal(0.02)
        )
        shape = (config.max_position_embeddings, config.hidden_size)
        self.position_embedding = self.param("position_embedding", normal(0.01), shape)
        self.blocks = _blocks(
            config, causal=True, dtype=jnp.dtype(jnp.float32), remat=self.remat, prompts_start=_PREFIX
        )
        self.ln_final = LayerNorm(config.layer_norm_eps, jnp.dtype(jnp.float32))
        self.projection = nn.Dense(self.projection_dim, use_bias=False, dtype=jnp.float32)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Token embeddings [C, L, W] of ids [C, L], without positions."""
        return self.token_embedding(ids)

    def __call__(
        self, embeddings: jax.Array, ends: jax.Array, prompts: DeepPrompts | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Encodes texts given as token embeddings.

        The tower is causal and only the EOS position is read, so padding after it has no effect: texts may be trimmed
        to the longest.

        Args:
          embeddings: [C, L, W] without positions, L at most `max_position_embeddings`.
          ends: [C] int, position of each text's EOS.
          prompts: for all K layers, or None; those in sequence follow SOS, without position embeddings.

        Returns:
          Text features [C, D] float32, not normalised, and a dictionary with 'text_features' (the same) and 'tokens'
          [C, L, W] (the last layer's output).

        Raises:
          ValueError: L exceeds the tower's positions.
        """
        length, limit = embeddings.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(f"texts have {length} tokens, this CLIP has {limit} positions")
        x = embeddings.astype(jnp.float32) + self.position_embedding[:length].astype(jnp.float32)
        tokens, _ = self.blocks(x, prompts)
        at_eos = jnp.take_along_axis(tokens, ends[:, None, None], axis=1)[:, 0]  # [C, L, W] -> [C, W]
        features = self.projection(self.ln_final(at_eos))
        return features, {"text_features": features, "tokens": tokens}


# The `eos_token_id` of OpenAI's configs, which is not CLIP's end of text: it stands for the largest id of a text.
LARGEST_ID = 2


def find_ends(ids: jax.Array, eos_token_id: int) -> jax.Array:
    """Position of each text's end, [C] int32, for ids [C, L]: the first `eos_token_id`, or the largest id."""
    if eos_token_id == LARGEST_ID:
        return jnp.argmax(ids, axis=-1).astype(jnp.int32)
    return jnp.argmax(ids == eos_token_id, axis=-1).astype(jnp.int32)


class CLIP(Backbone):
    """Both towers and the temperature.

    Attributes:
      dtype: of the image tower's matrix products. The text tower stays in float32: it is cheap, and an error in a text
        feature affects all images.
      residual_dtype: of the image tower's residual stream. bfloat16 loses precision at every layer; PyTorch's autocast
        keeps float32 too.
      products: of the image tower.
      remat: see `VisionTransformer`.
      unrolled: whether the image tower's layers are unrolled instead of scanned; see `unroll`.
    """

    config: ClipConfig
    dtype: Any = jnp.float32
    residual_dtype: Any = jnp.float32
    products: Products = DEFAULT
    remat: str = "none"
    unrolled: bool = False

    def setup(self) -> None:
        """Creates the towers `visual` and `text`."""
        config, dtype, residual = self.config, jnp.dtype(self.dtype), jnp.dtype(self.residual_dtype)
        self.visual = VisionTransformer(
            config.vision, config.projection_dim, dtype, residual, self.products, self.remat, self.unrolled
        )
        self.text = TextTransformer(config.text, config.projection_dim, self.remat)
        # CLIP's initial value is 1 / 0.07; OpenAI's trained models have 100.
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(jnp.log(1 / 0.07)), ())

    @property
    def spec(self) -> BackboneSpec:
        """Sizes; needs no parameters."""
        vision, text = self.config.vision, self.config.text
        return BackboneSpec(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            vision=Tower(vision.num_layers, vision.hidden_size),
            text=Tower(text.num_layers, text.hidden_size),
            embedding_size=self.config.projection_dim,
            tokens=TokenSpec(prefix=_PREFIX, suffix=1, max_positions=text.max_position_embeddings),
            layer_norm_eps=vision.layer_norm_eps,
        )

    def encode_image(
        self, images: jax.Array, prompts: DeepPrompts | None = None, kept: jax.Array | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Image features and intermediates; see `VisionTransformer.__call__`."""
        return self.visual(images, prompts, kept)

    def embed_tokens(self, ids: jax.Array) -> jax.Array:
        """Token embeddings [C, L, W] of ids [C, L], without positions."""
        return self.text.embed(ids)

    def encode_text(self, ids: jax.Array, ends: jax.Array | None = None) -> tuple[jax.Array, Outputs]:
        """Text features of token ids [C, L]; `ends` defaults to `find_ends`."""
        if ends is None:
            ends = find_ends(ids, self.config.text.eos_token_id)
        return self.text(self.text.embed(ids), ends)

    def encode_embeddings(
        self, embeddings: jax.Array, ends: jax.Array, prompts: DeepPrompts | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Text features of token embeddings [C, L, W]; see `TextTransformer.__call__`."""
        return self.text(embeddings, ends, prompts)

    def temperature_scale(self) -> jax.Array:
        """s [] float32, factor from cosines to logits."""
        return jnp.exp(self.logit_scale.astype(jnp.float32))

    def image_params(self, params: Params) -> Params:
        """All parameters but the text tower's."""
        return {name: value for name, value in params.items() if name != "text"}

    def add_to_attention(self, params: Params, visual: jax.Array, text: jax.Array) -> Params:
        """See `Backbone.add_to_attention`."""

        def added(tower: Params, updates: jax.Array) -> Params:
            attention = dict(tower["blocks"]["attn"])
            for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
                kernel: jax.Array = attention[name]["kernel"]  # [K, W, W]
                total = (kernel.astype(jnp.float32) + updates[:, index]).astype(kernel.dtype)
                attention[name] = {**attention[name], "kernel": total}
            return {**tower, "blocks": {**tower["blocks"], "attn": attention}}

        return {**params, "visual": added(params["visual"], visual), "text": added(params["text"], text)}

    def unroll(self, params: Params) -> tuple[Backbone, Params]:
        """See `base.Backbone.unroll`; itself where a CPU's unit for bfloat16 multiplies, which was not measured."""
        if self.products != DEFAULT:
            return self, params
        stacked = jax.tree.map(np.asarray, params["visual"]["blocks"])
        layers = {
            str(layer): jax.tree.map(operator.itemgetter(layer), stacked)
            for layer in range(self.config.vision.num_layers)
        }
        return self.clone(unrolled=True), {**params, "visual": {**params["visual"], "blocks": layers}}

    def attention(self, intermediates: Params) -> jax.Array:
        """Attention maps [K, B, Q, Q + n] sown by `transformer.Attention`."""
        return intermediates["visual"]["blocks"]["attn"]["attention"][0]

    def __call__(self, images: jax.Array, ids: jax.Array) -> tuple[jax.Array, Outputs]:
        """CLIP's logits s * cos(image, text), [B, C], for images [B, S, S, 3] and ids [C, L]."""
        image_features, image_out = self.encode_image(images)
        text_features, text_out = self.encode_text(ids)
        logits = self.temperature_scale() * l2_normalize(image_features) @ l2_normalize(text_features).T
        out = {
            "image_features": image_features,
            "patch_features": image_out["patch_features"],
            "image_tokens": image_out["tokens"],
            "text_features": text_features,
            "text_tokens": text_out["tokens"],
        }
        return logits, out
