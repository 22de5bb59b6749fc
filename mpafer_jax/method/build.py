"""Builds the model of a configuration with its constants."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mpafer_jax.backbones.base import Backbone, Pretrained, Tokenizer
from mpafer_jax.backbones.products import FLOAT32_RESULTS
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.schema import Config, ModelSections
from mpafer_jax.method import prompts as prompts_lib
from mpafer_jax.method.cafe import CafeMask
from mpafer_jax.method.hard_prompts.bank import load_banks
from mpafer_jax.method.hard_prompts.features import encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import (
    HardPrompts,
    configured_hard_prompts,
    prompt_names,
    words_read,
)
from mpafer_jax.method.lora import LoraUpdates
from mpafer_jax.method.maple import MaplePrompts
from mpafer_jax.method.model import PromptedModel, variables
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.method.prompts import PromptLearner
from mpafer_jax.method.promptsrc import PromptSrcPrompts
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime import devices, progress
from mpafer_jax.runtime.errors import ConfigError

# Prompt learners, by `config.learner`.
LEARNERS: dict[str, type[PromptLearner]] = {
    "mpa": MpaPrompts,
    "maple": MaplePrompts,
    "promptsrc": PromptSrcPrompts,
    "cafe": CafeMask,
    "lora": LoraUpdates,
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model ready to train or to evaluate.

    Attributes:
      frozen: constants on all local devices; without prototypes until `with_prototypes`.
      class_names: C names, in the order of the logits.
      words_read: what the text tower reads for each class after the context, most often its name.
      clip_name: folder or repository of the backbone.
      clip_hash: hash of its content.
    """

    model: PromptedModel
    frozen: Frozen
    class_names: tuple[str, ...]
    words_read: tuple[str, ...]
    hard_prompts: HardPrompts
    clip_name: str
    clip_hash: str
    tokenizer: Tokenizer

    @property
    def image_size(self) -> int:
        """S, side of the images in pixels."""
        return self.model.backbone.spec.image_size

    def with_prototypes(self, prototypes: jax.Array) -> Experiment:
        """Copy with class prototypes p [C, D]."""
        return self.with_frozen(prototypes=jnp.asarray(prototypes))

    def with_patch_weights(self, weights: Any) -> Experiment:
        """Copy with weights w [C, N] of the local scores, or None for equal weights."""
        return self.with_frozen(patch_weights=None if weights is None else jnp.asarray(weights, jnp.float32))

    def with_learner(self, learner: PromptLearner) -> Experiment:
        """Copy with another prompt learner.

        Raises:
          PromptError: a class prompt does not fit the text tower.
        """
        experiment = dataclasses.replace(self, model=self.model.clone(learner=learner))
        texts = learner.texts(self.words_read, self.tokenizer.encode, self.model.backbone.spec.tokens)
        return experiment.with_frozen(soft_prompts=_bound(experiment.model, self.frozen.backbone).embed(texts))

    def with_frozen(self, **changes: Any) -> Experiment:
        """Copy with some fields of `Frozen` replaced."""
        frozen = dataclasses.replace(self.frozen, **devices.replicate(changes))
        return dataclasses.replace(self, frozen=frozen)


def _bound(model: PromptedModel, backbone: Any) -> PromptedModel:
    return model.bind(variables(backbone, {}))


def make_model(config: ModelSections, backbone: Backbone, num_classes: int) -> PromptedModel:
    """The model of a configuration on a backbone; needs no weights.

    Raises:
      ConfigError: unknown prompt learner, or top_k exceeds the number of patches.
      PromptError: prompts in layers that the backbone does not have.
    """
    spec, clip = backbone.spec, config.clip
    if config.head.local_weight and config.head.top_k > spec.num_patches:
        raise ConfigError(
            f"config.head.top_k is {config.head.top_k}, this CLIP has {spec.num_patches} patches "
            f"({spec.image_size} pixels, patches of {spec.patch_size})"
        )
    if config.learner not in LEARNERS:
        raise ConfigError(f"config.learner is {config.learner!r}, expected one of {', '.join(LEARNERS)}")
    dtype, residual_dtype = jnp.dtype(clip.dtype), jnp.dtype(clip.residual_dtype)
    return PromptedModel(
        backbone=cast(Any, backbone).clone(dtype=dtype, residual_dtype=residual_dtype, remat=clip.remat),
        learner=LEARNERS[config.learner].configured(config, spec, num_classes),
        top_k=config.head.top_k,
        local_weight=config.head.local_weight,
        center_patch_scores=config.head.center_patch_scores,
        normalize_scores=config.head.normalize_scores,
    )


def initial_prompts(config: Config, experiment: Experiment) -> dict[str, jax.Array]:
    """Initial parameters of the learner.

    Raises:
      ConfigError: `ctx.init_text` does not fit.
    """
    model = experiment.model

    def embed(text: str) -> jax.Array:
        texts = prompts_lib.tokenize([text], experiment.tokenizer.encode, model.backbone.spec.tokens)
        embeddings = _bound(model, experiment.frozen.backbone).embed(texts).embeddings
        return embeddings[0, np.flatnonzero(texts.content[0])]

    return model.learner.start(model.learner.initial_params(config.seed), embed)


def training_model(config: Config, model: PromptedModel) -> PromptedModel:
    """The model with `train.text_chunk`: same results, less memory."""
    return model.clone(text_chunk=config.train.text_chunk)


@contextlib.contextmanager
def _naming_the_field(name: str, called: str = "config.clip.name is", advice: str = "") -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"{called} {name!r}: {error}{advice}") from error


def load_before_data(config: Config) -> Pretrained:
    """Loads the configured CLIP and checks what needs no data, before the data are prepared.

    Raises:
      PromptError: a description bank is missing, or visual prompts are in layers that the CLIP does not have.
      ConfigError: the CLIP cannot be loaded or does not fit the configuration.
    """
    if config.hard_prompts.type == 3:
        load_banks(config.hard_prompts.bank, config.hard_prompts.paraphrases)
    clip = load_frozen_clip(config)
    make_model(config, clip.backbone, num_classes=1)
    return clip


def load_frozen_clip(config: Config, called: str = "config.clip.name is", advice: str = "") -> Pretrained:
    """Loads the configured CLIP and checks the normalisation of images.

    Args:
      called: start of the error message, before the CLIP's name.
      advice: end of the error message.

    Raises:
      ConfigError: the CLIP cannot be loaded, or its mean or standard deviation differ from the configuration's.
    """
    section = config.clip
    with _naming_the_field(section.name, called, advice):
        clip = load_backbone(
            section.name,
            revision=section.revision,
            cache_dir=section.cache_dir,
            dtype=section.dtype,
            activation=section.activation,
        )
    check_normalization(config, clip)
    spec = clip.backbone.spec
    progress.fact("CLIP", f"{clip.name}, {spec.image_size} pixels, {spec.num_patches} patches")
    return clip


def check_normalization(config: Config, clip: Pretrained) -> None:
    """Checks the configured normalisation of images against the CLIP's; warns if it is to be given grey ones.

    Raises:
      ConfigError: mean or standard deviation differ.
    """
    for field, own in (("mean", clip.image_mean), ("std", clip.image_std)):
        configured: tuple[float, float, float] = getattr(config.data, field)
        if own is not None and max(abs(a - b) for a, b in zip(own, configured, strict=True)) > 1e-4:
            raise ConfigError(
                f"config.data.{field} is {configured}, but {clip.name} was trained with {own} "
                "(as its files say); set the field to that"
            )
    if clip.grayscale and not config.data.grayscale:
        logging.warning(
            "%s is to be given grey images (do_grayscale in its files), and config.data.grayscale is False: "
            "photographs in colour would be unlike all that it has seen",
            clip.name,
        )


def build_experiment(config: Config, class_names: Sequence[str], clip: Pretrained) -> Experiment:
    """Builds the model for C classes and encodes its hard prompts: ready to train.

    Raises:
      PromptError: a bank is missing or lacks a class, a text does not fit the text tower, or two class names have the
        same tokens.
    """
    names = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    hard_prompts = configured_hard_prompts(config.hard_prompts, names)
    model = make_model(config, clip.backbone, len(class_names))
    experiment = assemble(model, clip, class_names, words_read(config.ctx, names, hard_prompts), hard_prompts)
    prompts_lib.check_names_differ(names, experiment.tokenizer.encode)
    for index, name in enumerate(class_names):
        for text in hard_prompts.of_class(index):
            logging.debug("hard prompt of %s: %s", name, text)
    with progress.task("encoding the hard prompts"):
        encoder = text_encoder(experiment.model, experiment.frozen.backbone, experiment.tokenizer.encode)
        text_features, token_features = encode_hard_prompts({"own": hard_prompts}, encoder)["own"]
    return experiment.with_frozen(hard_text_features=text_features, hard_token_features=token_features)


def for_this_device(model: PromptedModel) -> PromptedModel:
    """The model with products as this process's devices compute them fastest; results are equal up to rounding."""
    backbone = cast(Any, model.backbone)
    if backbone.dtype == jnp.bfloat16 and devices.bfloat16_unit():
        # Bits have no gradient.
        bits = FLOAT32_RESULTS.stacks_as_bits and not model.learner.changes_weights
        return model.clone(backbone=backbone.clone(products=dataclasses.replace(FLOAT32_RESULTS, stacks_as_bits=bits)))
    return model


def assemble(
    model: PromptedModel,
    clip: Pretrained,
    class_names: Sequence[str],
    words_read: Sequence[str],
    hard_prompts: HardPrompts,
) -> Experiment:
    """Combines a model with its constants: enough to predict and to evaluate; hard prompts are not encoded.

    Args:
      model: from `make_model`.
      clip: the backbone with its parameters.
      class_names: C names, as printed.
      words_read: what the text tower reads for each class after the context.

    Raises:
      ConfigError: the backbone's tokenizer cannot be read.
      PromptError: a class prompt does not fit the text tower.
    """
    with _naming_the_field(clip.name):
        tokenizer = clip.load_tokenizer()
    model, classes = for_this_device(model), len(class_names)
    spec = model.backbone.spec
    params = jax.device_put(clip.params)
    frozen = Frozen(
        backbone=params,
        soft_prompts=_bound(model, params).embed(model.learner.texts(words_read, tokenizer.encode, spec.tokens)),
        hard_text_features=jnp.zeros((0, classes, spec.embedding_size), jnp.float32),
        hard_token_features=jnp.zeros((0, classes, spec.text.width), jnp.float32),
    )
    return Experiment(
        model=model,
        frozen=devices.replicate(frozen),
        class_names=tuple(class_names),
        words_read=tuple(words_read),
        hard_prompts=hard_prompts,
        clip_name=clip.name,
        clip_hash=clip.content_hash,
        tokenizer=tokenizer,
    )
