"""What the method needs of a frozen dual encoder, an image tower and a text tower with one joint space.

Shapes: B images, N patches, C texts, L text positions, K layers of a tower, n prompts a layer, W tower width, D joint
embedding size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

Outputs = dict[str, jax.Array]
Params = dict[str, Any]
Encode = Callable[[str], list[int]]  # a text's token ids, special tokens included, not truncated
Color = tuple[float, float, float]  # of R, G, B, on the scale 0..1

_STATIC = {"pytree_node": False}  # of a field of a pytree: no array


@struct.dataclass
class DeepPrompts:
    """Prompts for the layers of one tower.

    Attributes:
      tokens: [K, n, W], the prompts that enter each layer.
      enabled: [K] bool, the layers that get prompts; None for all of them.
      in_sequence: how. False: a layer's prompts are keys and values that its positions attend to, and nothing of them
        goes on (MPA-FER, VPT-deep). True: they are positions of the sequence; before an enabled layer they are replaced
        by its own, through other layers they pass as any position does (MaPLe).
      before_norm: whether the first layer's prompts pass the normalisation that the image tower begins with, if it has
        one, or join after it.
    """

    tokens: jax.Array
    enabled: jax.Array | None = None
    in_sequence: bool = dataclasses.field(default=False, metadata=_STATIC)
    before_norm: bool = dataclasses.field(default=False, metadata=_STATIC)


@dataclasses.dataclass(frozen=True)
class Tower:
    """Size of one tower."""

    num_layers: int
    width: int


@dataclasses.dataclass(frozen=True)
class TokenSpec:
    """How a text's token ids are laid out: [prefix, words, suffix].

    Attributes:
      prefix: special tokens before the words (CLIP: 1, start of text).
      suffix: special tokens after them (CLIP: 1, end of text, at which the text's feature is read).
      max_positions: positions of the text tower, special tokens included.
    """

    prefix: int
    suffix: int
    max_positions: int


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """Sizes of a dual encoder.

    Attributes:
      image_size: S, side of the images in pixels.
      patch_size: side of a patch in pixels; patches lie in a square grid, row by row.
      vision, text: the towers.
      embedding_size: D.
      tokens: the layout of texts.
      layer_norm_eps: of the image tower's layer normalisations, by which converters know them.
    """

    image_size: int
    patch_size: int
    vision: Tower
    text: Tower
    embedding_size: int
    tokens: TokenSpec
    layer_norm_eps: float = 1e-5

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        """N."""
        rows, columns = self.grid
        return rows * columns


class Backbone(nn.Module):
    """A frozen dual encoder; subclasses compute in the forms that their fields `dtype`, `residual_dtype` and `remat`
    say (`config.clip`)."""

    @property
    def spec(self) -> BackboneSpec:
        """Its sizes, known without parameters."""
        raise NotImplementedError

    def encode_image(self, images: jax.Array, prompts: DeepPrompts | None = None) -> tuple[jax.Array, Outputs]:
        """Encodes images under visual prompts.

        Args:
          images: [B, S, S, 3] float, RGB, normalised with the checkpoint's mean and standard deviation.
          prompts: of the image tower, or None.

        Returns:
          z^g [B, D] float32, not normalised; and by name at least 'image_features' (the same) and 'patch_features'
          Z^l [B, N, D] in the same space.
        """
        raise NotImplementedError

    def embed_tokens(self, ids: jax.Array) -> jax.Array:
        """Token embeddings [C, L, W] of ids [C, L], without positions."""
        raise NotImplementedError

    def encode_embeddings(
        self, embeddings: jax.Array, ends: jax.Array, prompts: DeepPrompts | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Encodes texts given as token embeddings.

        Args:
          embeddings: [C, L, W] without positions; may be trimmed to the longest text.
          ends: [C] int, the position of each text's last token.
          prompts: of the text tower, or None; those in sequence stand where the context does, behind the prefix.

        Returns:
          theta(t) [C, D] float32, not normalised; and intermediates by name.
        """
        raise NotImplementedError

    def temperature_scale(self) -> jax.Array:
        """s [], by which cosines become logits. A bias, the same for all classes, would change no softmax."""
        raise NotImplementedError

    def image_params(self, params: Params) -> Params:
        """Those of its parameters that `encode_image` and `temperature_scale` read, which an exported program keeps."""
        raise NotImplementedError

    def attention(self, intermediates: Params) -> jax.Array:
        """Attention of the image tower's layers, for attribution.

        Args:
          intermediates: the collection that `encode_image` left under `mutable=["intermediates"]`.

        Returns:
          [K, B, Q, Q + n], the mean over the heads, each row a distribution over keys. Positions are the class token,
          the N patches, then prompts in sequence; the last n keys are prompts that are no positions.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no attention, so there is no rollout")


class Tokenizer(Protocol):
    """Texts to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text as `TokenSpec` lays them out, never truncated."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without special tokens."""
        ...


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A dual encoder as it was published.

    Attributes:
      name: as asked for, a folder or a repository of the Hub.
      revision: the Hub's commit, or '' for a folder.
      content_hash: SHA-256 over config.json and the weights' files.
      backbone: the module, computing in float32.
      params: nested dictionary of NumPy arrays, for `backbone.apply({'params': params}, ...)`.
      image_mean: mean of the images' R, G, B; None where the checkpoint does not say.
      image_std: their standard deviation, likewise.
      load_tokenizer: reads the tokenizer, once. Raises FileNotFoundError, ValueError.
    """

    name: str
    revision: str
    content_hash: str
    backbone: Backbone
    params: Params = dataclasses.field(repr=False)
    image_mean: Color | None
    image_std: Color | None
    load_tokenizer: Callable[[], Tokenizer] = dataclasses.field(repr=False)


def normalize(features: jax.Array) -> jax.Array:
    """Features of length 1 along the last axis; a zero vector stays zero, with a zero gradient."""
    squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
