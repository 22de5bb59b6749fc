"""Vocabulary of a CLIP that is trained from scratch."""

from __future__ import annotations

from pathlib import Path

from mpafer_jax.backbones.clip.tokenizer import Tokenizer, train_tokenizer
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.jobs.pretraining.sources import CaptionedImages
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.runtime.errors import ConfigError


def make_vocabulary(data: CaptionedImages, config: PretrainConfig, folder: Path) -> Tokenizer:
    """Learns a byte-pair vocabulary from the captions and the hard prompts of the configured banks.

    The banks make class names single tokens. Words that occur in no caption stay untrained.
    """
    texts = data.texts()
    for name in config.model.vocabulary_banks:
        # Repeated like a frequent caption; rare words would get no token.
        texts += 100 * every_prompt(load_bank(name))
    try:
        return train_tokenizer(texts, folder, config.model.vocab_size)
    except ValueError as error:
        raise ConfigError(f"config.model.{error}") from error
