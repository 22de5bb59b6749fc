"""Compiled functions of pre-training: the update, and the features for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpafer_jax.backbones.base import Outputs, l2_normalize
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.jobs.pretraining import losses
from mpafer_jax.jobs.pretraining.teacher import Teacher
from mpafer_jax.method.forward import Rgb
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices

Batch = Mapping[str, jax.Array]
Step = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
Weights = Mapping[str, float]  # of the terms of the loss that are computed, by name, see `config.LossSection`

# CLIP's limit "to prevent scaling the logits by more than 100" (Radford et al., 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0


def init_head(clip: CLIP, num_attributes: int, num_maps: int, seed: int) -> dict[str, jax.Array]:
    """Parameters trained beside CLIP and discarded: linear maps, and scales and biases of the statements' cosines.

    Args:
      num_attributes: A; 0 for no attribute head, since a checkpoint cannot hold arrays without elements.
      num_maps: channels of the teacher's maps; 0 without a teacher.
      seed: of the map from the last layer's patch tokens to the teacher's.
    """
    head: dict[str, jax.Array] = {}
    patches, width = clip.config.vision.num_patches, clip.config.projection_dim
    if num_attributes:
        # Initial logits of about -2: most statements are false of most images.
        scale_and_bias = np.array([np.log(10.0), -2.0], np.float32)
        head = {
            "kernel": jnp.zeros((patches, width, num_attributes), jnp.float32),
            "bias": jnp.zeros(num_attributes, jnp.float32),
            # Two arrays: a step is given the state's buffers, and none twice.
            "statements": jnp.array(scale_and_bias),
            "local_statements": jnp.array(scale_and_bias),
        }
    if num_maps:
        noise = np.random.default_rng(seed).standard_normal((clip.config.vision.hidden_size, num_maps), np.float32)
        head["guidance"] = jnp.asarray(noise * clip.config.vision.hidden_size**-0.5)
    return head


@dataclasses.dataclass(frozen=True)
class Terms:
    """The loss.

    Attributes:
      weights: of the terms that are computed.
      top_k: patches averaged for a statement's local score.
      groups: see `losses.statements`.
      teacher: None for none.
      taught: share of the teacher's answers in the truth of statements.
    """

    weights: Weights
    top_k: int
    groups: losses.Groups = ()
    teacher: Teacher | None = None
    taught: float = 0.0


def make_train_step(*, model: CLIP, tx: optax.GradientTransformation, terms: Terms, mean: Rgb, std: Rgb) -> Step:
    """Compiles one update of a whole CLIP.

    Args:
      model: the towers.
      tx: the optimizer.
      terms: of the loss.
      mean, std: of the images, on the scale 0..1.

    Returns:
      step(state, statements, batch) -> (state, metrics). `state` is donated; its params are {'clip': .., 'head': ..}.
        `statements` holds 'ids' [A, L] and 'ends' [A]. `batch` comes from `devices.shard_batch`: image uint8 [.., S, S,
        3], ids [.., L], ends, caption_hash uint32, truth float32 [.., A], and perhaps kept int32 [.., N'], the patches
        that are encoded.
    """

    def step(state: TrainState, statements: Batch, batch: Batch) -> tuple[TrainState, Metrics]:
        count = devices.sum_over_devices(jnp.asarray(batch["image"].shape[0], jnp.float32))

        def loss_fn(params: dict[str, Any]) -> tuple[jax.Array, Outputs]:
            sums = _term_sums(model, params, statements, batch, terms=terms, mean=mean, std=std)
            # Divided by the global count, so that gradients of devices add up.
            weighted = (weight * sums[name] / count for name, weight in terms.weights.items())
            return sum(weighted, jnp.zeros((), jnp.float32)), sums

        gradient = cast(Callable[[dict[str, Any]], tuple[Any, Outputs]], jax.grad(loss_fn, has_aux=True))
        grads, sums = devices.sum_over_devices(gradient(state.params))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = cast(dict[str, Any], optax.apply_updates(state.params, updates))
        scale = jnp.minimum(params["clip"]["logit_scale"], jnp.log(MAX_LOGIT_SCALE))
        params = {**params, "clip": {**params["clip"], "logit_scale": scale}}
        metrics = {name: (value, count) for name, value in sums.items()}
        loss = sum(weight * sums[name] / count for name, weight in terms.weights.items())
        one = jnp.ones((), jnp.float32)
        metrics |= {"loss": (jnp.asarray(loss), one), "grad_norm": (optax.tree.norm(grads), one)}
        metrics["logit_scale"] = (jnp.exp(scale), one)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return devices.data_parallel(step, donate=(0,))


def _term_sums(
    model: CLIP, params: dict[str, Any], statements: Batch, batch: Batch, *, terms: Terms, mean: Rgb, std: Rgb
) -> Outputs:
    """This device's sums over images of each active term, and of correct retrievals."""
    clip, head, weights = {"params": params["clip"]}, params["head"], terms.weights
    images, kept = normalize_images(batch["image"], mean, std), batch.get("kept")
    _, out = cast(tuple[jax.Array, Outputs], model.apply(clip, images, kept=kept, method="encode_image"))
    truth, sums = batch["truth"], Outputs()
    if terms.teacher is not None:
        answers, maps = jax.lax.stop_gradient(terms.teacher(batch["image"]))
        chances = losses.probabilities(answers, terms.groups)
        truth = (1 - terms.taught) * truth + terms.taught * chances  # what is unknown, NaN, stays so
        if "guidance" in weights:
            sums["guidance"] = jnp.sum(losses.guidance(out["tokens"][:, 1:] @ head["guidance"], maps, kept))
    if "contrastive" in weights:
        sums |= _contrastive_sums(model, clip, batch, out["image_features"])
    if weights.keys() & {"statements", "local_statements"}:
        texts = _encode_text(model, clip, statements)  # [A, D]
        scores: Outputs = {}
        if "statements" in weights:
            scores["statements"] = l2_normalize(out["image_features"]) @ l2_normalize(texts).T
        if "local_statements" in weights:
            scores["local_statements"] = losses.top_patch_scores(out["patch_features"], texts, terms.top_k)
        for name, score in scores.items():
            log_scale, bias = head[name]
            sums[name] = jnp.sum(losses.statements(jnp.exp(log_scale) * score + bias, truth, terms.groups))
    if "attributes" in weights:
        logits = _linear_reading(head, out["patch_features"], kept)
        sums["attributes"] = jnp.sum(losses.statements(logits, truth, terms.groups))
    return sums


def _linear_reading(head: dict[str, Any], patches: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Logits [B, A] of the attribute head; patches that are left out are replaced by the mean of the others' part."""
    total, width, number = head["kernel"].shape
    kernel = head["kernel"] / jnp.sqrt(float(total))  # the sum over N patches
    if kept is not None:
        zeros = jnp.zeros((len(patches), total, width), patches.dtype)
        scaled = patches * (total / patches.shape[1])
        patches = zeros.at[jnp.arange(len(patches))[:, None], kept].set(scaled, unique_indices=True)
    flat = patches.reshape(len(patches), -1) @ kernel.reshape(-1, number)
    return flat + head["bias"]


def _encode_text(model: CLIP, clip: dict[str, Any], texts: Batch) -> jax.Array:
    features, _ = cast(tuple[jax.Array, Outputs], model.apply(clip, texts["ids"], texts["ends"], method="encode_text"))
    return features


def _contrastive_sums(model: CLIP, clip: dict[str, Any], batch: Batch, image_features: jax.Array) -> Outputs:
    texts = _encode_text(model, clip, batch)
    all_images, all_texts = devices.gather_over_devices(image_features), devices.gather_over_devices(texts)
    hashes = devices.gather_over_devices(batch["caption_hash"])
    positives = devices.device_index() * image_features.shape[0] + jnp.arange(image_features.shape[0])
    same = batch["caption_hash"][:, None] == hashes[None, :]
    scale = jnp.exp(clip["params"]["logit_scale"])
    to_text = losses.contrastive(image_features, all_texts, positives, scale, same)
    to_image = losses.contrastive(texts, all_images, positives, scale, same)
    similarity = l2_normalize(image_features) @ l2_normalize(all_texts).T
    # Correct if the retrieved caption has the same text: images may share one.
    first = jnp.take_along_axis(same, jnp.argmax(similarity, axis=-1)[:, None], axis=-1)
    return {"contrastive": jnp.sum(to_text + to_image) / 2, "caption_accuracy": jnp.sum(first).astype(jnp.float32)}


def make_image_step(*, model: CLIP, top_k: int, mean: Rgb, std: Rgb) -> Callable[..., Outputs]:
    """Compiles (clip params, texts [A, D], image uint8 [B, S, S, 3]) -> 'image_features' [B, D], 'local' [B, A]."""

    def step(params: dict[str, Any], texts: jax.Array, image: jax.Array) -> Outputs:
        images = normalize_images(image, mean, std)
        features, out = cast(tuple[jax.Array, Outputs], model.apply({"params": params}, images, method="encode_image"))
        return {
            "image_features": l2_normalize(features),
            "local": losses.top_patch_scores(out["patch_features"], texts, top_k),
        }

    return jax.jit(step)


def make_text_step(*, model: CLIP) -> Callable[..., jax.Array]:
    """Compiles (clip params, texts) -> normalised text features [C, D]."""

    def step(params: dict[str, Any], texts: Batch) -> jax.Array:
        return l2_normalize(_encode_text(model, {"params": params}, texts))

    return jax.jit(step)
