"""The model of a checkpoint: its CLIP."""

from __future__ import annotations

from absl import logging

from mpafer_jax.artifacts.description import Description
from mpafer_jax.backbones.clip.load import PretrainedClip
from mpafer_jax.config.schema import Config
from mpafer_jax.method.build import load_frozen_clip


def load_checkpoints_clip(config: Config, description: Description, clip: str) -> tuple[Config, PretrainedClip]:
    """The CLIP that a checkpoint was trained on, and the configuration with the checkpoint's model and that CLIP.

    Args:
      config: of all that is not the checkpoint's, see `Description.applied_to`.
      description: of the checkpoint, which names its CLIP.
      clip: the place of the same CLIP, where it is no longer found under that name; '' for that name.

    Raises:
      CheckpointError: it is another CLIP.
      ConfigError: it cannot be had or read.
    """
    section, own = config.clip, description.model_sections().clip
    place = {"name": clip} if clip else {"name": own.name, "revision": own.revision}
    place["cache_dir"] = section.cache_dir or own.cache_dir
    config = description.applied_to(config.model_copy(update={"clip": section.model_copy(update=place)}))
    logging.info("CLIP: %s, %s", config.clip.name, "as --config.clip.name says" if clip else "as the checkpoint says")
    if clip:
        loaded = load_frozen_clip(config)
    else:
        advice = "; name the place where it is now (--config.clip.name=...)"
        loaded = load_frozen_clip(config, "the checkpoint was trained on the CLIP", advice)
    description.check_clip(config.clip.name, loaded.content_hash)
    return config, loaded
