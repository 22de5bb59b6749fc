"""Layers of CLIP's towers in Flax linen, with deep prompts.

Parameter names follow OpenAI's and the Hub's. Shapes: B images or texts, L positions, N_p visual prompts, W tower
width, H heads, d = W / H.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones import products
from mpafer_jax.backbones.base import DeepPrompts
from mpafer_jax.backbones.products import Products


def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI's approximation of GELU, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _exact_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _tanh_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


# By `hidden_act` in the Hub's config.json.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": _exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

# What is saved of each layer for the backward pass.
REMAT_POLICIES: dict[str, Any] = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(products.SAVED),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Attention(nn.Module):
    """Multi-head self-attention with optional prompts as extra keys and values.

    A prompt's output is dropped at every layer (MPA-FER Eq. 5), so it needs no query, and its key and value are
    computed once per batch. The other positions get exactly the result of concatenating prompts to the sequence.

    Attributes:
      num_heads: H.
      dtype: of the computation; the softmax is always float32.
      products: how matrices are multiplied.
    """

    num_heads: int
    causal: bool
    dtype: jnp.dtype
    products: Products

    @nn.compact
    def __call__(
        self, x: jax.Array, prompts: jax.Array | None = None, prompts_enabled: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [B, L, W] to [B, L, W]; prompts [N_p, W] and prompts_enabled [] bool are optional."""
        batch, length, width = x.shape
        head_dim = width // self.num_heads

        def project(name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, dot_general=self.products.dot_general, name=name)

        def heads(y: jax.Array) -> jax.Array:  # [..., L, W] -> [..., H, L, d]
            return jnp.swapaxes(y.reshape(*y.shape[:-1], self.num_heads, head_dim), -3, -2)

        query, key, value = project("q_proj"), project("k_proj"), project("v_proj")
        q = heads(query(x)) * jnp.asarray(head_dim**-0.5, self.dtype)  # [B, H, L, d]
        k, v = heads(key(x)), heads(value(x))
        if prompts is not None:
            shape = (batch, self.num_heads, prompts.shape[0], head_dim)
            k = jnp.concatenate([k, jnp.broadcast_to(heads(key(prompts)), shape)], axis=2)  # [B, H, L + N_p, d]
            v = jnp.concatenate([v, jnp.broadcast_to(heads(value(prompts)), shape)], axis=2)
        scores = self.products.einsum("bhqd,bhkd->bhqk", q, k).astype(jnp.float32)
        visible = self._visible(length, prompts, prompts_enabled)
        if visible is not None:
            scores = jnp.where(visible, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1)
        # Mean over heads [B, L, L + N_p]; computed only if `mutable=["intermediates"]`.
        self.sow("intermediates", "attention", jnp.mean(weights, axis=1))
        mixed = self.products.einsum("bhqk,bhkd->bhqd", weights.astype(self.dtype), v)
        mixed = jnp.swapaxes(mixed, 1, 2).reshape(batch, length, width)  # [B, H, L, d] -> [B, L, W]
        return project("out_proj")(mixed)

    def _visible(self, length: int, prompts: jax.Array | None, enabled: jax.Array | None) -> jax.Array | None:
        """Attention mask [L, L + N_p] bool; None if every query sees every key."""
        if not self.causal and enabled is None:
            return None
        tokens = jnp.tri(length, dtype=bool) if self.causal else jnp.ones((length, length), bool)
        if prompts is None:
            return tokens
        on = jnp.ones((), bool) if enabled is None else enabled
        return jnp.concatenate([tokens, jnp.broadcast_to(on, (length, prompts.shape[0]))], axis=1)


class Mlp(nn.Module):
    """MLP of a layer: W -> intermediate_size -> W."""

    intermediate_size: int
    hidden_act: str
    dtype: jnp.dtype
    products: Products

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, L, W] to [B, L, W]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, dot_general=self.products.dot_general)
        hidden = dense(self.intermediate_size, name="fc1")(x)
        return dense(x.shape[-1], name="fc2")(ACTIVATIONS[self.hidden_act](hidden))


class LayerNorm(nn.Module):
    """Layer normalisation in float32, as in OpenAI's code; the output has type `dtype`.

    Not `nn.LayerNorm`, which fails under strict type promotion (float32 times bfloat16), and whose fast variance
    E[x^2] - E[x]^2 loses digits on CLIP's few very large activations.
    """

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [..., W] to [..., W]."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width).astype(jnp.float32)
        centered = x.astype(jnp.float32) - jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)
        variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
        return (centered * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


class Block(nn.Module):
    """Pre-norm transformer layer in `nn.scan`'s form: (carry, input) -> (carry, None).

    The residual stream x keeps its type, independent of `dtype`.
    """

    num_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    causal: bool
    dtype: jnp.dtype
    products: Products
    prompts_start: int  # position of the first prompt in sequence

    @nn.compact
    def __call__(self, x: jax.Array, prompts: DeepPrompts | None) -> tuple[jax.Array, None]:
        """Maps x [B, L, W] to [B, L, W]; `prompts` holds this layer's tokens [N_p, W] and enabled []."""
        if prompts is not None and prompts.in_sequence:
            x, prompts = self._with_prompts(x, prompts), None
        ln_1 = LayerNorm(self.layer_norm_eps, self.dtype, name="ln_1")
        attn = Attention(self.num_heads, self.causal, self.dtype, self.products, name="attn")
        keys = () if prompts is None else (ln_1(prompts.tokens), prompts.enabled)
        x = x + attn(ln_1(x), *keys).astype(x.dtype)
        ln_2 = LayerNorm(self.layer_norm_eps, self.dtype, name="ln_2")
        mlp = Mlp(self.intermediate_size, self.hidden_act, self.dtype, self.products, name="mlp")
        return x + mlp(ln_2(x)).astype(x.dtype), None

    def _with_prompts(self, x: jax.Array, prompts: DeepPrompts) -> jax.Array:
        """x with this layer's prompts in their positions; unchanged if the layer is not enabled."""
        tokens = jnp.broadcast_to(prompts.tokens, (x.shape[0], *prompts.tokens.shape)).astype(x.dtype)
        end = self.prompts_start + tokens.shape[1]
        behind = [x[:, end:]] if end < x.shape[1] else []  # converters do not support empty arrays
        replaced = jnp.concatenate([x[:, : self.prompts_start], tokens, *behind], axis=1)
        return replaced if prompts.enabled is None else jnp.where(prompts.enabled, replaced, x)
