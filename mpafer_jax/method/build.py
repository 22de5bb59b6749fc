"""From a configuration to a model with everything that it reads and never changes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging

from mpafer_jax.backbones.clip.load import PretrainedClip, load_clip
from mpafer_jax.backbones.clip.model import ClipConfig
from mpafer_jax.backbones.clip.tokenizer import Tokenizer, load_tokenizer
from mpafer_jax.config.schema import Config, ModelSections
from mpafer_jax.data import pipeline
from mpafer_jax.data.splits import Split
from mpafer_jax.method import optim
from mpafer_jax.method import prompts as prompts_lib
from mpafer_jax.method.hard_prompts.bank import load_banks
from mpafer_jax.method.hard_prompts.features import encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import HardPrompts, configured_hard_prompts, prompt_names
from mpafer_jax.method.model import MPAFER, PatchWeights, variables
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime import devices, preemption, progress
from mpafer_jax.runtime.errors import CheckpointError, ConfigError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model ready to train or to evaluate.

    Attributes:
      model: the composition.
      frozen: on all local devices; without prototypes until `with_prototypes`.
      class_names: C names, in the order of the logits.
      hard_prompts: the fixed texts of each class.
      clip_name: where CLIP came from.
      clip_hash: hash of its content.
      image_size: side of the images in pixels.
      tokenizer: of the CLIP.
    """

    model: MPAFER
    frozen: Frozen
    class_names: tuple[str, ...]
    hard_prompts: HardPrompts
    clip_name: str
    clip_hash: str
    image_size: int
    tokenizer: Tokenizer

    def with_prototypes(self, prototypes: jax.Array) -> Experiment:
        """The same with class prototypes p [C, D]."""
        frozen = dataclasses.replace(self.frozen, prototypes=devices.replicate(prototypes))
        return dataclasses.replace(self, frozen=frozen)

    def with_patch_weights(self, weights: PatchWeights | None) -> Experiment:
        """The same with weights [C, N] in the local scores, or None for equal ones."""
        return dataclasses.replace(self, model=self.model.clone(patch_weights=weights))

    def without_visual_prompts(self) -> Experiment:
        """The same with the image tower as it came; its prompts are the context alone."""
        shape = dataclasses.replace(self.model.prompt_shape, num_visual=0)
        return dataclasses.replace(self, model=self.model.clone(prompt_shape=shape))


def eval_batches(config: Config, experiment: Experiment, split: Split, what: str) -> Iterator[pipeline.Batch]:
    """This process's part of the batches that hold every image of a split once, at the model's size.

    Args:
      config: of the data and of the batch size.
      experiment: the model.
      split: its images.
      what: what is done with them, for who watches: "evaluating on".

    Raises:
      signals.Preempted: before one of them, if the run was asked to stop.
    """
    batches = pipeline.eval_batches(
        split,
        section=config.data,
        image_size=experiment.image_size,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in progress.track(batches, f"{what} {split.name}", len(split), size=lambda _: config.eval.batch_size):
        preemption.check()
        yield batch


def prompt_shape(config: ModelSections, clip: ClipConfig, num_classes: int) -> prompts_lib.PromptShape:
    """Sizes of the trainable prompts for a CLIP and a number of classes."""
    visual = config.visual_prompts
    return prompts_lib.PromptShape(
        num_ctx=config.ctx.num_ctx,
        num_classes=num_classes if config.ctx.class_specific else 0,
        text_width=clip.text.hidden_size,
        ctx_std=config.ctx.init_std,
        num_visual=visual.num_prompts,
        visual_layers=visual.layers or tuple(range(1, clip.vision.num_layers + 1)),
        num_layers=clip.vision.num_layers,
        visual_width=clip.vision.hidden_size,
        visual_std=visual.init_std,
    )


def make_model(config: ModelSections, clip: ClipConfig, num_classes: int) -> MPAFER:
    """The model of a configuration on a CLIP of a given shape; needs no weights.

    Raises:
      ConfigError: more patches are asked for than the CLIP has.
    """
    if config.head.local_weight and config.head.top_k > clip.vision.num_patches:
        raise ConfigError(
            f"config.head.top_k is {config.head.top_k}, this CLIP has {clip.vision.num_patches} patches "
            f"({clip.vision.image_size} pixels, patches of {clip.vision.patch_size})"
        )
    return MPAFER(
        clip_config=clip,
        prompt_shape=prompt_shape(config, clip, num_classes),
        top_k=config.head.top_k,
        local_weight=config.head.local_weight,
        center_patch_scores=config.head.center_patch_scores,
        prompts_before_ln_pre=config.visual_prompts.before_ln_pre,
        dtype=jnp.dtype(config.clip.dtype),
        residual_dtype=jnp.dtype(config.clip.residual_dtype),
        remat=config.clip.remat,
    )


def initial_prompts(config: Config, experiment: Experiment) -> dict[str, jax.Array]:
    """Fresh prompts, as the configuration says.

    Raises:
      ConfigError: `ctx.init_text` has not `ctx.num_ctx` tokens.
    """
    params = prompts_lib.init_prompts(experiment.model.prompt_shape, prompts_lib.seed_key(config.seed))
    section = config.ctx
    if not section.init_text:
        return params
    texts = prompts_lib.tokenize(
        [section.init_text], experiment.tokenizer.encode, experiment.model.clip_config.text.max_position_embeddings
    )
    tokens = int(texts.eos_positions[0]) - 1  # between SOS and EOS
    if tokens != section.num_ctx:
        raise ConfigError(
            f"config.ctx.init_text {section.init_text!r} has {tokens} tokens in {experiment.clip_name}, but config.ctx."
            f"num_ctx is {section.num_ctx}; make them equal"
        )
    embedded = experiment.model.bind(variables(experiment.frozen.clip, params)).embed(texts)
    words = embedded.embeddings[0, 1 : 1 + tokens].astype(params["ctx"].dtype)  # [M, W]
    return {**params, "ctx": jnp.broadcast_to(words, params["ctx"].shape)}


def check_prompts(params: Mapping[str, Any], model: MPAFER) -> None:
    """Checks that a checkpoint's prompts are those of a model.

    Raises:
      CheckpointError: names each that has another shape or type, is missing or is not expected.
    """
    fresh = jax.eval_shape(functools.partial(prompts_lib.init_prompts, model.prompt_shape), prompts_lib.seed_key(0))
    found, expected = (
        {name: f"{x.dtype} {list(x.shape)}" for name, x in tree.items()} for tree in (dict(params), fresh)
    )
    wrong = [
        f"{name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise CheckpointError(
            f"the checkpoint's prompts are not those that its description asks for: {'; '.join(wrong)}"
        )


def training_model(config: Config, model: MPAFER) -> MPAFER:
    """The model as its training step computes it: the same numbers, for less memory where `train` asks for that."""
    return model.clone(text_chunk=config.train.text_chunk)


def make_optimizer(
    config: Config, shape: prompts_lib.PromptShape, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule of a configuration for prompts of a shape, and its learning rate by step.

    Raises:
      ConfigError: the warm-up is longer than the run, or a parameter has no learning rate.
    """
    section = config.optimizer
    schedule = optim.make_schedule(
        learning_rate=section.learning_rate, warmup_steps=section.warmup_steps, num_steps=num_steps
    )
    tx = optim.make_optimizer(
        jax.eval_shape(functools.partial(prompts_lib.init_prompts, shape), prompts_lib.seed_key(0)),
        name=section.name,
        schedule=schedule,
        lr_scales=section.lr_scales,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
    )
    return tx, schedule


@contextlib.contextmanager
def _naming_the_field(name: str, called: str = "config.clip.name is", advice: str = "") -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"{called} {name!r}: {error}{advice}") from error


def load_before_data(config: Config) -> PretrainedClip:
    """Loads the configured CLIP, and refuses what can be refused without data, whose preparation may take long.

    Raises:
      PromptError: a bank of descriptions that will be read is not there.
      ConfigError: the CLIP cannot be had or does not suit the configuration.
      PromptError: visual prompts are asked for in layers that it has not.
    """
    if config.hard_prompts.type == 3:
        load_banks(config.hard_prompts.bank, config.hard_prompts.paraphrases)
    clip = load_frozen_clip(config)
    make_model(config, clip.config, num_classes=1)
    return clip


def load_frozen_clip(config: Config, called: str = "config.clip.name is", advice: str = "") -> PretrainedClip:
    """Loads the configured CLIP and checks that images will be normalised as it was trained.

    Args:
      config: of the CLIP and the normalisation.
      called: what stands before the CLIP's name in the message where it cannot be had.
      advice: what stands at that message's end.

    Raises:
      ConfigError: it cannot be had or read, or its own mean or standard deviation differ from the configuration's.
    """
    section = config.clip
    with _naming_the_field(section.name, called, advice):
        clip = load_clip(section.name, revision=section.revision, cache_dir=section.cache_dir, dtype=section.dtype)
    check_normalization(config, clip)
    vision = clip.config.vision
    progress.fact("CLIP", f"{clip.name}, {vision.image_size} pixels, {vision.num_patches} patches")
    return clip


def check_normalization(config: Config, clip: PretrainedClip) -> None:
    """Checks that images will be normalised as a CLIP was trained.

    Raises:
      ConfigError: its own mean or standard deviation differ from the configuration's.
    """
    for field, own in (("mean", clip.image_mean), ("std", clip.image_std)):
        configured: tuple[float, float, float] = getattr(config.data, field)
        if own is not None and max(abs(a - b) for a, b in zip(own, configured, strict=True)) > 1e-4:
            raise ConfigError(
                f"config.data.{field} is {configured}, but {clip.name} was trained with {own} "
                "(preprocessor_config.json); set the field to that"
            )


def build_experiment(
    config: Config,
    class_names: Sequence[str],
    clip: PretrainedClip,
    hard_prompts: HardPrompts | None = None,
    names_read: Sequence[str] | None = None,
) -> Experiment:
    """Composes the model and encodes, once, every text that stays fixed.

    Args:
      config: of the prompts and the head.
      class_names: C names, as they are printed.
      clip: the towers.
      hard_prompts: those that a checkpoint was trained with; None to build them as `config` says.
      names_read: what CLIP reads for each class; None for what `prompt_names` makes of the configured classes.

    Raises:
      PromptError: a bank is not there, or lacks a class.
      PromptError: a text does not fit the CLIP, or it cannot tell two classes' names apart.
    """
    with _naming_the_field(clip.name):
        tokenizer = load_tokenizer(clip.tokenizer_folder)
    positions = clip.config.text.max_position_embeddings
    names = names_read or prompt_names(class_names, as_spelled=bool(config.data.class_names))
    new = hard_prompts is None
    if hard_prompts is None:
        hard_prompts = configured_hard_prompts(config.hard_prompts, names)
    if new:
        prompts_lib.check_names_differ(names, tokenizer.encode)
    soft = prompts_lib.tokenize_soft(names, tokenizer.encode, positions, config.ctx.num_ctx)
    for index, name in enumerate(class_names):
        for text in hard_prompts.of_class(index):
            logging.debug("hard prompt of %s: %s", name, text)

    model = make_model(config, clip.config, len(class_names))
    params = jax.device_put(clip.params)
    bound = model.bind(variables(params, {}))
    with progress.task("encoding the hard prompts"):
        encoded = encode_hard_prompts({"own": hard_prompts}, text_encoder(model, params, tokenizer.encode))
    hard_text_features, hard_token_features = encoded["own"]
    frozen = Frozen(
        clip=params,
        soft_prompts=bound.embed(soft),
        hard_text_features=hard_text_features,
        hard_token_features=hard_token_features,
    )
    return Experiment(
        model=model,
        frozen=devices.replicate(frozen),
        class_names=tuple(class_names),
        hard_prompts=hard_prompts,
        clip_name=clip.name,
        clip_hash=clip.content_hash,
        image_size=clip.config.vision.image_size,
        tokenizer=tokenizer,
    )
