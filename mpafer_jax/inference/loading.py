"""A model with all that predicting needs, from a checkpoint or from a CLIP as it came."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.backbones.clip.load import PretrainedClip, load_clip
from mpafer_jax.backbones.clip.tokenizer import Tokenizer, load_tokenizer
from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.config.schema import PromptGranularity
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.bank import Bank, load_banks
from mpafer_jax.method.hard_prompts.features import class_features, encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import HardPrompts, build_hard_prompts, prompt_name
from mpafer_jax.method.model import MPAFER, variables
from mpafer_jax.method.prompts import PromptShape, Texts, check_names_differ, init_prompts, seed_key, tokenize_soft
from mpafer_jax.runtime.errors import CheckpointError

_PAPER_TOP_K, _PAPER_PATCHES = 16, 196


@dataclasses.dataclass(frozen=True, eq=False)
class ReadyModel:
    """A model whose texts are encoded.

    Attributes:
      model: the composition.
      variables: its parameters, what `MPAFER.apply` takes.
      text_features: theta(t) [C, D].
      class_names: C names, in the order of the logits.
      hard_prompts: the texts a checkpoint was trained with, or of zero-shot classification.
      trained_on: which images, if any, and which CLIP.
      tokenizer: of the CLIP.
      mean: CLIP's mean of each colour, on the scale 0..1.
      std: likewise its standard deviation.
    """

    model: MPAFER
    variables: dict[str, Any] = dataclasses.field(repr=False)
    text_features: jax.Array = dataclasses.field(repr=False)
    class_names: tuple[str, ...]
    hard_prompts: HardPrompts
    trained_on: TrainedOn
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def from_checkpoint(path: str | os.PathLike[str], which: checkpoints.Which, clip: str) -> ReadyModel:
    """See `Predictor.from_checkpoint`."""
    params, description, _ = checkpoints.load(os.fspath(path), which)
    sections = description.model_sections()
    name, section = clip or sections.clip.name, sections.clip
    try:
        loaded = load_clip(name, revision=section.revision, cache_dir=section.cache_dir, dtype=section.dtype)
        tokenizer = load_tokenizer(loaded.tokenizer_folder)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise CheckpointError(
            f"{path}: its CLIP, {name!r}, cannot be loaded: {error}; name the place where it is now (clip=..., --clip)"
        ) from error
    description.check_clip(name, loaded.content_hash)
    model = build.make_model(sections, loaded.config, len(description.class_names))
    # What the backward pass may keep is no matter here.
    model = model.clone(remat="none", patch_weights=description.patch_weights)
    build.check_prompts(params, model)
    names = description.prompt_names
    soft = tokenize_soft(names, tokenizer.encode, loaded.config.text.max_position_embeddings, sections.ctx.num_ctx)
    both = variables(loaded.params, params)
    return ReadyModel(
        model=model,
        variables=both,
        text_features=_encode_soft_prompts(model, both, soft),
        class_names=description.class_names,
        hard_prompts=description.hard_prompts,
        trained_on=description.trained_on,
        tokenizer=tokenizer,
        mean=_rgb(description.normalization()["mean"]),
        std=_rgb(description.normalization()["std"]),
    )


def zero_shot(
    clip: str | PretrainedClip,
    class_names: Sequence[str],
    bank: str | Bank | None,
    *,
    granularity: Sequence[PromptGranularity],
    paraphrases: int,
    top_k: int,
    local_weight: float,
) -> ReadyModel:
    """See `Predictor.zero_shot`."""
    class_names = check_class_names(class_names, "class_names", at_least=2)
    loaded = load_clip(clip) if isinstance(clip, str) else clip
    if loaded.image_mean is None or loaded.image_std is None:
        raise ValueError(f"{loaded.name} has no preprocessor_config.json, so its images' mean and std are unknown")
    if isinstance(bank, str):
        bank = load_banks((bank,), paraphrases)
    hard_prompts = build_hard_prompts(class_names, 2 if bank is None else 3, bank, granularities=granularity)
    tokenizer = load_tokenizer(loaded.tokenizer_folder)
    check_names_differ([prompt_name(name) for name in class_names], tokenizer.encode)
    num_patches = loaded.config.vision.num_patches
    model = MPAFER(
        clip_config=loaded.config,
        prompt_shape=_no_prompts(loaded),
        top_k=top_k or max(1, round(num_patches * _PAPER_TOP_K / _PAPER_PATCHES)),
        local_weight=local_weight,
    )
    if local_weight and model.top_k > num_patches:
        raise ValueError(f"top_k is {top_k}, {loaded.name} has {num_patches} patches")
    encoder = text_encoder(model, jax.device_put(loaded.params), tokenizer.encode)
    text_features, _ = encode_hard_prompts({"own": hard_prompts}, encoder)["own"]
    unread = init_prompts(model.prompt_shape, seed_key(0))  # these texts have no place for a context
    return ReadyModel(
        model=model,
        variables=variables(loaded.params, unread),
        text_features=class_features(text_features),
        class_names=class_names,
        hard_prompts=hard_prompts,
        trained_on=TrainedOn("", 0, loaded.name),
        tokenizer=tokenizer,
        mean=loaded.image_mean,
        std=loaded.image_std,
    )


def _encode_soft_prompts(model: MPAFER, params: dict[str, Any], texts: Texts) -> jax.Array:
    def encode(params: dict[str, Any], texts: Texts) -> jax.Array:
        embedded = model.apply(params, texts, method="embed")
        features, _ = cast(tuple[jax.Array, jax.Array], model.apply(params, embedded, method="encode_soft_prompts"))
        return features

    return cast(Callable[..., jax.Array], jax.jit(encode))(params, texts)


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return (red, green, blue)


def _no_prompts(clip: PretrainedClip) -> PromptShape:
    """Of a model without visual prompts, whose context nothing reads."""
    vision, text = clip.config.vision, clip.config.text
    return PromptShape(
        num_ctx=1,
        num_classes=0,
        text_width=text.hidden_size,
        ctx_std=1.0,
        num_visual=0,
        visual_layers=(),
        num_layers=vision.num_layers,
        visual_width=vision.hidden_size,
        visual_std=1.0,
    )
