"""Protocol of prompt learners, and tokenized texts for the text tower.

A prompt learner declares parameters and computes the prompts of both towers from them, or updates of their weights.
`mpa` is the paper's (MPA-FER, arXiv 2506.21017); others are modules beside it, with a line in `build.LEARNERS`.

Shapes: C classes, M context tokens, L text positions, K layers, n prompts a layer, W tower width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from mpafer_jax.backbones.base import Backbone, BackboneSpec, DeepPrompts, Encode, TokenSpec, l2_normalize
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.runtime.arrays import described, mismatches
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, PromptError

Params = dict[str, Any]  # arrays by name
_GENERATOR = "threefry2x32"


@struct.dataclass
class ChannelMask:
    """A network that weighs the channels of an image feature, CAFE's (`cafe`): m = sigmoid(W_2 h + b_2) [B, D].

    h = mean_i relu(W_1 z_i + b_1) [B, H] over the image's N patch features z_i, which are scaled to a mean square of 1.

    Attributes:
      w_in: W_1 [D, H].
      b_in: b_1 [H].
      w_out: W_2 [H, D].
      b_out: b_2 [D].
    """

    w_in: jax.Array
    b_in: jax.Array
    w_out: jax.Array
    b_out: jax.Array

    def __call__(self, patch_features: jax.Array) -> jax.Array:
        """m [B, D] from patch features [B, N, D], which need not be normalised."""
        scaled = l2_normalize(patch_features) * patch_features.shape[-1] ** 0.5
        hidden = jnp.mean(jax.nn.relu(scaled @ self.w_in + self.b_in), axis=1)
        return jax.nn.sigmoid(hidden @ self.w_out + self.b_out)


@struct.dataclass
class Prompts:
    """Prompts of both towers.

    Attributes:
      ctx: context vectors of the class prompts, [M, W] shared by all classes or [C, M, W]; None without context.
      text: deep prompts of the text tower, or None.
      visual: deep prompts of the image tower, or None.
      mask: weighs the channels of the image feature, or None.
    """

    ctx: jax.Array | None = None
    text: DeepPrompts | None = None
    visual: DeepPrompts | None = None
    mask: ChannelMask | None = None

    def of_images(self) -> Prompts:
        """What images are encoded with: all but the prompts of texts."""
        return Prompts(visual=self.visual, mask=self.mask)


class PromptLearner(nn.Module):
    """Base class of prompt learners; itself without prompts and parameters.

    Subclasses declare parameters in `__call__` (`self.param`): float32 arrays in one flat dictionary. Checkpoints,
    `optimizer.lr_scales` and exported prompts refer to their names.

    Attributes:
      changes_weights: whether `merge` adds something learned to the backbone's weights.
    """

    changes_weights: ClassVar[bool] = False

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """The learner of a configuration, for a backbone and a number of classes.

        Raises:
          ConfigError, PromptError: the backbone or the learner does not support the configuration.
        """
        del config, spec, num_classes
        return cls()

    def __call__(self) -> Prompts:
        """The prompts of the current parameters."""
        return Prompts()

    def texts(self, class_names: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
        """Tokens of the class prompts, 0 for context; arguments and errors as for `tokenize_soft`."""
        return tokenize_soft(class_names, encode, spec, 0)

    def start(self, params: Params, embed: Callable[[str], jax.Array]) -> Params:
        """Initialises parameters from words, if configured.

        Args:
          params: from `initial_params`.
          embed: text to token embeddings [L, W], without special tokens.

        Raises:
          ConfigError: the words do not fit.
        """
        del embed
        return params

    def merge(self, params: Params, backbone: Backbone, frozen: Params) -> Params:
        """The backbone's parameters with what was learned added to them (LoRA); prompts change none.

        Args:
          params: of the learner.
          backbone: the module.
          frozen: its parameters.
        """
        del params, backbone
        return frozen

    def select_classes(self, params: Params, rows: Sequence[int], class_names: Sequence[str]) -> Params:
        """A checkpoint's parameters for other classes than it was trained on.

        Args:
          params: the checkpoint's.
          rows: index of each class in the checkpoint, or -1.
          class_names: for the error.

        Raises:
          CheckpointError: a class without parameters, where they are per class.
        """
        del rows, class_names
        return params

    def adapt(self, name: str, fresh: Any, saved: Any, saved_config: ModelSections, rows: ClassRows) -> Adapted:
        """Initial value of a parameter for a warm start from a checkpoint.

        Args:
          name: of the parameter.
          fresh: its initial value in the new run.
          saved: its value in the checkpoint.
          saved_config: the checkpoint's configuration.
          rows: finds the common classes.

        Returns:
          The value, None where nothing of the checkpoint's fits, and a note.

        Raises:
          ConfigError: two classes of a run are the same expression.
        """
        del name, saved_config, rows
        if np.shape(saved) != np.shape(fresh):
            return None, f"shape {np.shape(saved)} does not fit {np.shape(fresh)}, starts fresh"
        return jnp.asarray(saved), f"taken, shape {np.shape(saved)}"

    def prompts(self, params: Params) -> Prompts:
        """Computes the prompts from parameters."""
        return cast(Prompts, self.apply({"params": params}))

    def initial_params(self, seed: int) -> Params:
        """Initial parameters, float32; the low 32 bits of the seed are used.

        Depends on the seed only: the generator is fixed here, independent of settings of JAX and Flax
        (jax_default_prng_impl, jax_enable_x64, jax_random_seed_offset).
        """
        words = jnp.asarray([0, seed & 0xFFFFFFFF], jnp.uint32)
        key = cast(Any, jax.random).wrap_key_data(words, impl=_GENERATOR)
        with jax.threefry_partitionable(True), flax.config.temp_flip_flag("fix_rng_separator", False):
            return dict(cast(Mapping[str, Any], self.init(key).get("params", {})))

    def param_shapes(self) -> Params:
        """Shapes and types of the parameters."""
        return cast(Params, jax.eval_shape(lambda: self.initial_params(0)))

    def check(self, params: Mapping[str, Any]) -> None:
        """Checks names, shapes and types of a checkpoint's parameters.

        Raises:
          CheckpointError: lists all that differ.
        """
        wrong = mismatches(described(params), described(self.param_shapes()))
        if wrong:
            raise CheckpointError(
                f"the checkpoint's prompts are not those that its description asks for: {'; '.join(wrong)}"
            )


Adapted = tuple[Any | None, str]  # value, None to start fresh; log message
# Common classes: rows in the new run, rows in the checkpoint, names.
ClassRows = Callable[[], tuple[list[int], list[int], list[str]]]


def first_words(text: str, embed: Callable[[str], jax.Array], num_ctx: int) -> jax.Array:
    """Embeddings [M, W] of the first tokens of `config.ctx.init_text`; `embed` as for `PromptLearner.start`.

    Raises:
      ConfigError: the text has fewer tokens.
    """
    words = embed(text)
    if len(words) < num_ctx:
        raise ConfigError(
            f"config.ctx.init_text {text!r} has {len(words)} tokens in this CLIP, but config.ctx.num_ctx is {num_ctx}; "
            "give as many or more"
        )
    return words[:num_ctx]


def at_layers(tokens: jax.Array, layers: Sequence[int], num_layers: int, **how: bool) -> DeepPrompts:
    """Deep prompts from tokens [J, n, W] of J layers, counted from 1; `how`: flags of `DeepPrompts`."""
    if len(layers) == num_layers:
        return DeepPrompts(tokens, None, **how)
    chosen = np.array(layers, np.int32) - 1
    everywhere = jnp.zeros((num_layers, *tokens.shape[1:]), tokens.dtype).at[chosen].set(tokens)
    return DeepPrompts(everywhere, jnp.zeros(num_layers, bool).at[chosen].set(True), **how)


def normal(deviation: float) -> nn.initializers.Initializer:
    """N(0, deviation^2) in float32, also in JAX's 64-bit mode."""
    return nn.initializers.normal(deviation, jnp.float32)


@struct.dataclass
class Texts:
    """Token ids of C texts, trimmed to the longest.

    Attributes:
      ids: [C, L] int32; 0 for context vectors and padding.
      ends: [C] int32, position of each text's last token.
      content: [C, L] bool, true for tokens that are pooled, i.e. all but special tokens and padding.
    """

    ids: jax.Array
    ends: jax.Array
    content: jax.Array


@struct.dataclass
class TextEmbeddings:
    """`Texts` with token embeddings [C, L, W] instead of ids."""

    embeddings: jax.Array
    ends: jax.Array
    content: jax.Array


def tokenize(texts: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
    """Token ids of C texts.

    Raises:
      PromptError: a text has more tokens than the tower has positions.
    """
    return _pad([(text, encode(text)) for text in texts], spec)


def tokenize_soft(class_names: Sequence[str], encode: Encode, spec: TokenSpec, num_ctx: int, before: str = "") -> Texts:
    """Token ids of the class prompts [prefix] v_1 .. v_M [class name] . [suffix], with 0 for every v.

    Args:
      class_names: C names as the text tower reads them.
      encode: text to ids.
      spec: layout of the ids.
      num_ctx: M.
      before: words before the name; the v replace its first M tokens. '' for none.

    Raises:
      PromptError: a prompt has more tokens than the tower has positions.
    """
    rows: list[tuple[str, list[int]]] = []
    for name in class_names:
        ids = encode(f"{before} {name}." if before else f"{name}.")
        start = spec.prefix + (num_ctx if before else 0)
        ids = [*ids[: spec.prefix], *[0] * num_ctx, *ids[start:]]
        rows.append((f"[{num_ctx} context tokens] {name}.", ids))
    return _pad(rows, spec)


def check_names_differ(class_names: Sequence[str], encode: Encode) -> None:
    """Checks that class names have different tokens.

    Raises:
      PromptError: two names have the same tokens.
    """
    seen: dict[tuple[int, ...], str] = {}
    for name in class_names:
        other = seen.setdefault(tuple(encode(name)), name)
        if other != name:
            raise PromptError(
                f"the classes {other!r} and {name!r} become the same tokens, so that CLIP cannot tell them apart; "
                "give one of them another name"
            )


def _pad(rows: Sequence[tuple[str, list[int]]], spec: TokenSpec) -> Texts:
    max_positions = spec.max_positions
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
    content = (position >= spec.prefix) & (position < lengths[:, None] - spec.suffix)
    return Texts(jnp.asarray(ids), jnp.asarray(lengths - 1, jnp.int32), jnp.asarray(content))


def insert_context(texts: TextEmbeddings, ctx: jax.Array, start: int) -> TextEmbeddings:
    """Inserts the context vectors into class prompts of `tokenize_soft`.

    Args:
      texts: embedded class prompts [C, L, W].
      ctx: [M, W] shared by all classes, or [C, M, W].
      start: position of the first vector (`TokenSpec.prefix`).
    """
    classes, _, width = texts.embeddings.shape
    per_class = jnp.broadcast_to(ctx, (classes, ctx.shape[-2], width)).astype(texts.embeddings.dtype)
    embeddings = jax.lax.dynamic_update_slice_in_dim(texts.embeddings, per_class, start, axis=1)
    return dataclasses.replace(texts, embeddings=embeddings)


def pool_tokens(texts: TextEmbeddings) -> jax.Array:
    """Token-level text features t, [C, W] float32: mean embedding over `content` (Eq. 1-2)."""
    content = texts.content[:, :, None].astype(jnp.float32)  # [C, L, 1]
    return jnp.sum(texts.embeddings.astype(jnp.float32) * content, axis=1) / jnp.sum(content, axis=1)
