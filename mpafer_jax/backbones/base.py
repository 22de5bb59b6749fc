"""Interface of a frozen dual encoder: an image tower and a text tower with a joint embedding space.

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
Encode = Callable[[str], list[int]]  # token ids of a text, with special tokens, not truncated
Color = tuple[float, float, float]  # R, G, B in 0..1

_STATIC = {"pytree_node": False}


@struct.dataclass
class DeepPrompts:
    """Prompts for the layers of one tower.

    Attributes:
      tokens: [K, n, W].
      enabled: [K] bool, the layers that get prompts; None for all.
      in_sequence: False: prompts are extra keys and values of their layer, their outputs are dropped (MPA-FER,
        VPT-deep). True: they are positions of the sequence, replaced before each enabled layer and passed on by the
        others (MaPLe).
      before_norm: whether the first layer's prompts enter before the image tower's input normalisation or after it.
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
    """Layout of a text's token ids: [prefix, words, suffix].

    Attributes:
      prefix: number of special tokens before the words (CLIP: 1, start of text).
      suffix: number of special tokens after them (CLIP: 1, end of text, where the text feature is read).
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
      patch_size: side of a patch in pixels; patches form a square grid in row-major order, from the top left. What is
        left over at the right and at the bottom, where it does not divide the image's side, is not seen.
      embedding_size: D.
      layer_norm_eps: of the image tower's layer normalisations; converters recognise them by it.
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
    def covered(self) -> int:
        """Side in pixels of the square, from the top left, that the patches cover."""
        return self.grid[0] * self.patch_size

    @property
    def num_patches(self) -> int:
        """N."""
        rows, columns = self.grid
        return rows * columns


class Backbone(nn.Module):
    """A frozen dual encoder.

    Subclasses have the fields `dtype`, `residual_dtype` and `remat` (`config.clip`), and `products`, a
    `products.Products` for the image tower.
    """

    @property
    def spec(self) -> BackboneSpec:
        """Sizes; needs no parameters."""
        raise NotImplementedError

    def encode_image(self, images: jax.Array, prompts: DeepPrompts | None = None) -> tuple[jax.Array, Outputs]:
        """Encodes images with visual prompts.

        Args:
          images: [B, S, S, 3] float, RGB, normalised with the checkpoint's mean and standard deviation.
          prompts: of the image tower, or None.

        Returns:
          z^g [B, D] float32, not normalised; and a dictionary with at least 'image_features' (the same) and
          'patch_features' Z^l [B, N, D] in the joint space.
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
          ends: [C] int, position of each text's last token.
          prompts: of the text tower, or None; those in sequence take the context's positions, after the prefix.

        Returns:
          theta(t) [C, D] float32, not normalised; and intermediates by name.
        """
        raise NotImplementedError

    def temperature_scale(self) -> jax.Array:
        """s [], factor from cosines to logits. A bias equal for all classes would not change the softmax."""
        raise NotImplementedError

    def image_params(self, params: Params) -> Params:
        """Parameters that `encode_image` and `temperature_scale` read; exported programs keep only these."""
        raise NotImplementedError

    def add_to_attention(self, params: Params, visual: jax.Array, text: jax.Array) -> Params:
        """Parameters with updates added to each layer's projections to queries, keys and values, as of LoRA.

        Args:
          params: of this backbone.
          visual, text: of the two towers, [K, 3, W, W] float32: queries, keys and values; inputs, outputs.

        Returns:
          New parameters, of the types of `params`.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no updates of its attention, so there is no LoRA")

    def unroll(self, params: Params) -> tuple[Backbone, Params]:
        """The encoder with the image tower's layers unrolled, and its parameters; itself where they are not scanned.

        A scan copies the weights of each layer out of their stack at every call, on CPUs. Unrolled, layers read their
        own arrays, here NumPy views of the stack; compilation takes longer, and `attention` is not available.
        """
        return self, params

    def attention(self, intermediates: Params) -> jax.Array:
        """Attention maps of the image tower, for attribution.

        Args:
          intermediates: the collection sown by `encode_image` with `mutable=["intermediates"]`.

        Returns:
          [K, B, Q, Q + n], mean over heads; rows sum to 1. Positions: class token, N patches, prompts in sequence;
          the last n keys are prompts outside the sequence.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no attention, so there is no rollout")


class Tokenizer(Protocol):
    """Texts to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids in the layout of `TokenSpec`, never truncated."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        ...


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published dual encoder with its weights.

    Attributes:
      name: folder or Hub repository, as given.
      revision: the Hub's commit, or '' for a folder.
      content_hash: SHA-256 over config.json and the weight files.
      backbone: the module, in float32.
      params: nested dictionary of NumPy arrays, for `backbone.apply({'params': params}, ...)`.
      image_mean, image_std: of the pretraining images; None if the checkpoint has none.
      load_tokenizer: cached. Raises FileNotFoundError, ValueError.
      grayscale: whether it is to be given grey images, as `do_grayscale` of its preprocessor_config.json says.
    """

    name: str
    revision: str
    content_hash: str
    backbone: Backbone
    params: Params = dataclasses.field(repr=False)
    image_mean: Color | None
    image_std: Color | None
    load_tokenizer: Callable[[], Tokenizer] = dataclasses.field(repr=False)
    grayscale: bool = False


def l2_normalize(features: jax.Array) -> jax.Array:
    """L2-normalises the last axis; a zero vector stays zero, with a finite gradient."""
    squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
