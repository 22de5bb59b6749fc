"""Loads the model of a checkpoint, built as in training (`method.build`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.description import Description
from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.templates import (
    build_hard_prompts,
    configured_hard_prompts,
    prompt_names,
    words_read,
)
from mpafer_jax.runtime.errors import CheckpointError


def load_model(
    path: str | os.PathLike[str], which: checkpoints.Which, clip: str
) -> tuple[build.Experiment, checkpoints.Params, Description, Confidence | None]:
    """A checkpoint's model with its backbone, its prompts, its description, and its confidence if it has one.

    Args:
      path: as for `checkpoints.load`.
      which: of several, "best" or "last".
      clip: the CLIP it was trained on, if that has moved; '' for its recorded name.

    Raises:
      CheckpointError: it cannot be read, or its CLIP is missing or another.
    """
    params, description, step = checkpoints.load(path, which)
    confidence = Confidence.load(checkpoints.folder(path, step), params)
    sections = description.model_sections()
    # No backward pass: rematerialization is irrelevant.
    sections = sections.model_copy(update={"clip": sections.clip.model_copy(update={"remat": "none"})})
    section, name = sections.clip, clip or sections.clip.name
    try:
        loaded = load_backbone(
            name,
            revision=section.revision,
            cache_dir=section.cache_dir,
            dtype=section.dtype,
            activation=section.activation,
        )
        loaded.load_tokenizer()  # here, so that an error names the checkpoint
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise CheckpointError(
            f"{path}: its CLIP, {name!r}, cannot be loaded: {error}; name the place where it is now (clip=..., --clip)"
        ) from error
    description.check_clip(name, loaded.content_hash)
    model = build.make_model(sections, loaded.backbone, len(description.class_names))
    model.learner.check(params)
    names = description.class_names
    experiment = build.assemble(model, loaded, names, description.words_read, description.hard_prompts)
    return experiment.with_patch_weights(description.patch_weights), params, description, confidence


def for_classes(
    config: Config,
    params: checkpoints.Params,
    description: Description,
    clip: Pretrained,
    class_names: Sequence[str],
) -> tuple[build.Experiment, checkpoints.Params]:
    """A checkpoint's model and prompts for evaluation on given classes.

    Args:
      config: from `description.applied_to`; its banks (`hard_prompts.bank`) describe new classes where the checkpoint's
        do not.
      params: the checkpoint's prompts.
      description: of the checkpoint.
      clip: the one it was trained on.
      class_names: C names; those that the checkpoint knows, in its spelling.

    Raises:
      CheckpointError: a class is new, but parameters were learned per class; or the prompts do not have the described
        shapes.
      PromptError: a class is new, and has no description where class prompts go on with one (`ctx.words`).
    """
    weights, trained = description.patch_weights, description.class_names
    build.make_model(config, clip.backbone, len(trained)).learner.check(params)
    model = build.make_model(config, clip.backbone, len(class_names))
    known = dict(zip(trained, zip(description.prompt_names, description.words_read, strict=True), strict=True))
    configured = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    new = {name: spelled for name, spelled in zip(class_names, configured, strict=True) if name not in known}
    names = words = tuple(new.values())
    if new and config.ctx.words == "hard_prompt":
        section = description.hard_prompts_section()
        banks = tuple(dict.fromkeys((*section.bank, *config.hard_prompts.bank)))
        section = section.model_copy(update={"bank": banks})
        words = words_read(config.ctx, names, configured_hard_prompts(section, names))
    known |= dict(zip(new, zip(names, words, strict=True), strict=True))
    read = [known[name] for name in class_names]
    hard_prompts = description.hard_prompts
    if tuple(class_names) != trained:
        rows: list[int] = map_classes(class_names, trained).tolist()
        params = model.learner.select_classes(params, rows, class_names)
        # Only training reads hard prompts, and new classes may have no descriptions.
        hard_prompts = build_hard_prompts([name for name, _ in read], 2, None)
        if weights is not None:
            if without := [name for name, row in zip(class_names, rows, strict=True) if row < 0]:
                logging.warning("no motion prior is known for %s: their patches weigh the same", ", ".join(without))
            weights = tuple(weights[row] if row >= 0 else (1.0,) * len(weights[0]) for row in rows)
    experiment = build.assemble(model, clip, class_names, [words for _, words in read], hard_prompts)
    return experiment.with_patch_weights(weights), params


def load_checkpoints_clip(config: Config, description: Description, clip: str) -> tuple[Config, Pretrained]:
    """The configuration with a checkpoint's model and CLIP, and that CLIP.

    Args:
      config: for all that is not the checkpoint's, see `Description.applied_to`.
      description: of the checkpoint.
      clip: its CLIP, if that has moved; '' for its recorded name.

    Raises:
      CheckpointError: `clip` is another CLIP.
      ConfigError: the CLIP cannot be loaded.
    """
    section, own = config.clip, description.model_sections().clip
    place = {"name": clip} if clip else {"name": own.name, "revision": own.revision}
    place |= {"cache_dir": section.cache_dir or own.cache_dir, "activation": own.activation}
    config = description.applied_to(config.model_copy(update={"clip": section.model_copy(update=place)}))
    logging.info("CLIP: %s, %s", config.clip.name, "as --config.clip.name says" if clip else "as the checkpoint says")
    if clip:
        loaded = build.load_frozen_clip(config)
    else:
        advice = "; name the place where it is now (--config.clip.name=...)"
        loaded = build.load_frozen_clip(config, "the checkpoint was trained on the CLIP", advice)
    description.check_clip(config.clip.name, loaded.content_hash)
    return config, loaded
