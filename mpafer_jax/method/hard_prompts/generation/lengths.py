"""How many of CLIP's tokens a description takes once it stands in its prompt."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import SHIPPED, file_names, find_files, has_tokenizer
from mpafer_jax.method.hard_prompts.templates import described
from mpafer_jax.runtime.files import home_expanded

_CLIPS_POSITIONS = 77  # of every CLIP that OpenAI published


@dataclasses.dataclass(frozen=True)
class TokenBudget:
    """A limit on templated texts.

    Attributes:
      clip: name of the CLIP whose tokenizer counts.
      encode: text to ids, start and end included.
      tokens: the most that a text may have.
    """

    clip: str
    encode: Callable[[str], list[int]]
    tokens: int

    def count(self, class_name: str, description: str) -> int:
        """Tokens of the hard prompt of type 3 that a description makes, start and end included."""
        return len(self.encode(described(class_name, description)))


def load_budget(clip: str, tokens: int = 0, *, revision: str = "main", cache_dir: str = "") -> TokenBudget:
    """The budget of a CLIP, of which nothing but the tokenizer and the configuration is read.

    Args:
      clip: as for `weights.load.load_clip`; a folder may also hold a tokenizer alone.
      tokens: most tokens; 0 for as many as the CLIP has positions (77 where the folder holds no configuration).
      revision: of a repository on the Hub.
      cache_dir: the Hub's cache; '' for the environment's.

    Raises:
      FileNotFoundError: there is no such CLIP.
      ValueError: its files cannot be read, or `tokens` is more than it has positions.
    """
    folder = SHIPPED.get(clip) or home_expanded(clip)
    if not (folder.is_dir() and has_tokenizer(file_names(folder))):
        folder = find_files(clip, revision=revision, cache_dir=cache_dir).folder
    tokenizer = load_tokenizer(folder)
    positions = _positions(folder / "config.json")
    if tokens > positions:
        raise ValueError(f"{tokens} tokens do not fit the {positions} positions of {clip}")
    return TokenBudget(clip, tokenizer.encode, tokens or positions)


def _positions(config: Path) -> int:
    if not config.is_file():
        return _CLIPS_POSITIONS
    try:
        text = cast("dict[str, dict[str, Any]]", json.loads(config.read_text(encoding="utf-8"))).get("text_config")
        return int((text or {}).get("max_position_embeddings", _CLIPS_POSITIONS))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} is no configuration of a CLIP: {error}") from error
