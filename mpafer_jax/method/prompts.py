"""The trainable part of MPA-FER: soft text context and deep visual prompts; and texts in the form the tower reads.

Sources: MPA-FER (arXiv 2506.21017) section 3; the layout [SOS] v_1 .. v_M [class name] . [EOS] is CoOp's (Zhou et al.,
2022), deep visual prompts are VPT's (Jia et al., 2022). Shapes: C classes, M context tokens, L text positions, W tower
width, K image layers, N_p visual prompts a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from mpafer_jax.backbones.clip.transformer import DeepPrompts
from mpafer_jax.runtime.errors import PromptError

Encode = Callable[[str], list[int]]
_GENERATOR = "threefry2x32"


@struct.dataclass
class Texts:
    """Token ids of C texts, trimmed to the longest (what follows EOS changes nothing in a causal tower).

    Attributes:
      ids: [C, L] int32; 0 after EOS and where context vectors will stand.
      eos_positions: [C] int32, where each text ends.
      content: [C, L] bool, true on the tokens between SOS and EOS, over which token-level features are pooled.
    """

    ids: jax.Array
    eos_positions: jax.Array
    content: jax.Array


@struct.dataclass
class TextEmbeddings:
    """`Texts` after CLIP's token embedding: embeddings [C, L, W] in place of the ids."""

    embeddings: jax.Array
    eos_positions: jax.Array
    content: jax.Array


def tokenize(texts: Sequence[str], encode: Encode, max_positions: int) -> Texts:
    """Token ids of hard prompts.

    Args:
      texts: C texts.
      encode: text to ids with SOS first and EOS last, not truncated.
      max_positions: how many positions the text tower has (77 in OpenAI's models).

    Raises:
      PromptError: a text has more tokens than positions.
    """
    return _pad([(text, encode(text)) for text in texts], max_positions)


def tokenize_soft(class_names: Sequence[str], encode: Encode, max_positions: int, num_ctx: int) -> Texts:
    """Token ids of the soft prompts [SOS] v_1 .. v_M [class name] . [EOS], with 0 for every v.

    Args:
      class_names: C names as they are to be read, of one word or several.
      encode: as for `tokenize`.
      max_positions: as for `tokenize`.
      num_ctx: M.

    Raises:
      PromptError: a prompt has more tokens than positions.
    """
    rows: list[tuple[str, list[int]]] = []
    for name in class_names:
        sos, *words, eos = encode(f"{name}.")
        rows.append((f"[{num_ctx} context tokens] {name}.", [sos, *[0] * num_ctx, *words, eos]))
    return _pad(rows, max_positions)


def check_names_differ(class_names: Sequence[str], encode: Encode) -> None:
    """Refuses classes that CLIP cannot tell apart, because its tokenizer makes the same of their names.

    Args:
      class_names: C names as they are to be read.
      encode: as for `tokenize`.

    Raises:
      PromptError: two names have the same tokens; names both.
    """
    seen: dict[tuple[int, ...], str] = {}
    for name in class_names:
        other = seen.setdefault(tuple(encode(name)), name)
        if other != name:
            raise PromptError(
                f"the classes {other!r} and {name!r} become the same tokens, so that CLIP cannot tell them apart; "
                "give one of them another name"
            )


def _pad(rows: Sequence[tuple[str, list[int]]], max_positions: int) -> Texts:
    too_long = [f"{len(ids)} tokens: {text!r}" for text, ids in rows if len(ids) > max_positions]
    if too_long:
        raise PromptError(
            f"{len(too_long)} of {len(rows)} prompts do not fit the {max_positions} positions of this CLIP "
            "(start and end included); shorten them:\n  " + "\n  ".join(too_long)
        )
    lengths = np.array([len(ids) for _, ids in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for row, (_, tokens) in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    position = np.arange(ids.shape[1])[None]  # [1, L]
    content = (position > 0) & (position < lengths[:, None] - 1)
    return Texts(jnp.asarray(ids), jnp.asarray(lengths - 1, jnp.int32), jnp.asarray(content))


def insert_context(texts: TextEmbeddings, ctx: jax.Array) -> TextEmbeddings:
    """Puts the context vectors behind SOS.

    Args:
      texts: the embedded soft prompts of `tokenize_soft`, embeddings [C, L, W].
      ctx: [M, W] shared by all classes, or [C, M, W].
    """
    classes, _, width = texts.embeddings.shape
    num_ctx = ctx.shape[-2]
    per_class = jnp.broadcast_to(ctx, (classes, num_ctx, width)).astype(texts.embeddings.dtype)
    embeddings = jax.lax.dynamic_update_slice_in_dim(texts.embeddings, per_class, 1, axis=1)  # positions 1 .. M
    return TextEmbeddings(embeddings, texts.eos_positions, texts.content)


def pool_tokens(texts: TextEmbeddings) -> jax.Array:
    """Token-level text features t, [C, W] float32: the mean token embedding between SOS and EOS (Eq. 1-2)."""
    content = texts.content[:, :, None].astype(jnp.float32)  # [C, L, 1]
    return jnp.sum(texts.embeddings.astype(jnp.float32) * content, axis=1) / jnp.sum(content, axis=1)


@dataclasses.dataclass(frozen=True)
class PromptShape:
    """Sizes of the trainable prompts.

    Attributes:
      num_ctx: M.
      num_classes: C when every class has its own context, 0 when all share one.
      text_width: W of the text tower.
      ctx_std: standard deviation of the initial context vectors.
      num_visual: N_p, 0 for no visual prompts.
      visual_layers: the layers that get prompts, ascending, counted from 1; any subset of 1 .. num_layers.
      num_layers: K of the image tower.
      visual_width: W of the image tower.
      visual_std: standard deviation of the initial visual prompts.
    """

    num_ctx: int
    num_classes: int
    text_width: int
    ctx_std: float
    num_visual: int
    visual_layers: tuple[int, ...]
    num_layers: int
    visual_width: int
    visual_std: float

    def __post_init__(self) -> None:
        """Refuses layers that the tower does not have.

        Raises:
          PromptError: names the layers found and those that exist.
        """
        layers = self.visual_layers
        if list(layers) != sorted(set(layers)) or not set(layers) <= set(range(1, self.num_layers + 1)):
            raise PromptError(
                f"visual_prompts.layers must ascend within 1..{self.num_layers} (this CLIP's image tower), "
                f"found {layers}"
            )


def _normal(deviation: float) -> nn.initializers.Initializer:
    return nn.initializers.normal(deviation, jnp.float32)  # without the type it would be float64 in JAX's 64-bit mode


class Prompts(nn.Module):
    """All that is trained.

    Parameters are `ctx` [M, W] or [C, M, W] and, if there are any, `visual_prompts` [layers, N_p, W].
    """

    shape: PromptShape

    @nn.compact
    def __call__(self) -> tuple[jax.Array, DeepPrompts | None]:
        """The context vectors, and visual prompts for all K layers (disabled where a layer has none)."""
        s = self.shape
        classes = (s.num_classes,) if s.num_classes else ()
        ctx = self.param("ctx", _normal(s.ctx_std), (*classes, s.num_ctx, s.text_width))
        if not s.num_visual or not s.visual_layers:
            return ctx, None
        shape = (len(s.visual_layers), s.num_visual, s.visual_width)
        tokens = self.param("visual_prompts", _normal(s.visual_std), shape)
        if len(s.visual_layers) == s.num_layers:
            return ctx, DeepPrompts(tokens, None)
        chosen = np.array(s.visual_layers) - 1
        everywhere = jnp.zeros((s.num_layers, *shape[1:]), tokens.dtype).at[chosen].set(tokens)  # [K, N_p, W]
        return ctx, DeepPrompts(everywhere, jnp.zeros(s.num_layers, bool).at[chosen].set(True))


def seed_key(seed: int) -> jax.Array:
    """The key of a seed, whose last 32 bits count: `jax.random.key(seed)` as JAX makes it by default, whatever its
    settings (jax_default_prng_impl, jax_enable_x64, jax_random_seed_offset) ask for."""
    return _key(jnp.asarray([0, seed & 0xFFFFFFFF], jnp.uint32))


def _key(words: jax.Array) -> jax.Array:
    return cast(Any, jax.random).wrap_key_data(words, impl=_GENERATOR)


def init_prompts(shape: PromptShape, key: jax.Array) -> dict[str, jax.Array]:
    """Fresh prompts, N(0, std^2), float32: {'ctx': .., 'visual_prompts': ..}.

    The numbers are a matter of the key alone: the generator and its form are named here, since settings of JAX and Flax
    would change them.

    Args:
      shape: their sizes.
      key: of `seed_key`. One of JAX's other generators starts with the words of the key that `seed_key` makes of the
        same seed, and these are read.
    """
    own = _key(cast(Any, jax.random).key_data(key)[:2])
    with jax.threefry_partitionable(True), flax.config.temp_flip_flag("fix_rng_separator", False):
        return cast(dict[str, jax.Array], Prompts(shape).init(own)["params"])
