"""Parses and validates a language model's answers for a bank."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pydantic

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import (
    CONFIG,
    OPEN_CLIP_CONFIG,
    SHIPPED,
    file_names,
    find_files,
    has_tokenizer,
)
from mpafer_jax.config.expressions import CANONICAL_NAMES, canonical_name
from mpafer_jax.method.hard_prompts.bank import ACTION_UNITS
from mpafer_jax.method.hard_prompts.generation.backends import Reply
from mpafer_jax.method.hard_prompts.generation.questions import Answer, Description
from mpafer_jax.method.hard_prompts.templates import described, prompt_name
from mpafer_jax.runtime.errors import first_problem
from mpafer_jax.runtime.files import home_expanded
from mpafer_jax.runtime.texts import clean_text, is_one_line

_CLIPS_POSITIONS = 77  # of all OpenAI's CLIPs
_LEAD_INS = ("with ", "a photo ", "a person ", "the facial expression ", "a facial expression ")


class UnusableAnswerError(ValueError):
    """An invalid answer; `problems` are worded so that the model can correct it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class TokenBudget:
    """Maximum tokens of a templated text under a CLIP's tokenizer, special tokens included."""

    clip: str
    encode: Callable[[str], list[int]]
    tokens: int

    def count(self, class_name: str, description: str) -> int:
        """Number of tokens of the type-3 hard prompt with a description."""
        return len(self.encode(described(class_name, description)))


def load_budget(clip: str, tokens: int = 0, *, revision: str = "main", cache_dir: str = "") -> TokenBudget:
    """The token budget of a CLIP; reads only its tokenizer and configuration.

    Args:
      clip: as for `registry.load_backbone`; a folder may hold a tokenizer only.
      tokens: maximum; 0 for the CLIP's positions (77 without configuration).
      revision, cache_dir: see `files.find_files`.
    """
    folder = SHIPPED[clip].folder if clip in SHIPPED else home_expanded(clip)
    names = file_names(folder) if folder.is_dir() else set[str]()
    if has_tokenizer(names):
        tokenizer, config = load_tokenizer(folder), folder / (OPEN_CLIP_CONFIG if OPEN_CLIP_CONFIG in names else CONFIG)
    else:
        files = find_files(clip, revision=revision, cache_dir=cache_dir)
        tokenizer, config = load_tokenizer(files.tokenizer), files.config
    positions = _positions(config)
    if tokens > positions:
        raise ValueError(f"{tokens} tokens do not fit the {positions} positions of {clip}")
    return TokenBudget(clip, tokenizer.encode, tokens or positions)


def _positions(config: Path | None) -> int:
    if config is None or not config.is_file():
        return _CLIPS_POSITIONS
    try:
        raw = cast("dict[str, Any]", json.loads(config.read_text(encoding="utf-8")))
        section, field = "text_config", "max_position_embeddings"
        if config.name == OPEN_CLIP_CONFIG:
            raw, section, field = raw["model_cfg"], "text_cfg", "context_length"
        text = cast("dict[str, dict[str, Any]]", raw).get(section)
        return int((text or {}).get(field, _CLIPS_POSITIONS))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} is no configuration of a CLIP: {error}") from error


@dataclasses.dataclass(frozen=True)
class Expected:
    """Requirements of an answer: class, number of texts, length of a templated text."""

    class_name: str
    paraphrases: int
    budget: TokenBudget


def read_answer(reply: Reply, expected: Expected) -> tuple[Description, ...]:
    """Descriptions in a reply, cleaned, without final full stops, with sorted action units.

    Raises:
      UnusableAnswerError: the reply is refused, cut off or malformed, or its texts are invalid.
    """
    if reply.refusal:
        raise UnusableAnswerError([f"the model refused: {reply.refusal}"])
    try:
        answer = Answer.model_validate_json(_json_part(reply.text))
    except pydantic.ValidationError as error:
        if reply.cut_off:
            raise UnusableAnswerError(
                ["the answer was cut off by the limit on its length; answer more briefly"]
            ) from None
        raise UnusableAnswerError([f"it is not JSON of the form asked for: {first_problem(error)}"]) from None
    descriptions = tuple(map(_tidied, answer.descriptions))
    if problems := list(find_problems(descriptions, expected)):
        raise UnusableAnswerError(problems)
    return descriptions


def find_problems(descriptions: Sequence[Description], expected: Expected) -> Iterator[str]:
    """Yields all problems of descriptions."""
    if len(descriptions) != expected.paraphrases:
        yield f"there must be exactly {expected.paraphrases} descriptions, not {len(descriptions)}"
    if len({description.text.lower() for description in descriptions}) != len(descriptions):
        yield "two descriptions are the same; use other words for each"
    for number, description in enumerate(descriptions, start=1):
        for problem in _text_problems(description.text, expected):
            yield f"description {number} {problem}"
        unknown = [unit for unit in description.action_units if unit not in ACTION_UNITS]
        if unknown:
            yield f"description {number} has action units that FACS does not have: {unknown}"


def _text_problems(text: str, expected: Expected) -> Iterator[str]:
    if not text:
        yield "is empty"
        return
    if not text.isprintable():
        yield "holds a line break or a control character"
        return
    if "<|" in text:
        yield "holds '<|', which CLIP takes for a mark of its own"
        return
    if lead_in := next((start for start in _LEAD_INS if text.lower().startswith(start)), None):
        yield f"begins with {lead_in.strip()!r}; it has to follow those words, so leave them out"
    if named := _named_expressions(text, expected.class_name):
        yield f"names an expression ({', '.join(named)}); say only what is seen"
    length = expected.budget.count(expected.class_name, text)
    if length > expected.budget.tokens:
        words = len(text.split())
        room = max(1, words * expected.budget.tokens // length - 3)
        yield f"is too long with {words} words ({length} tokens, at most {expected.budget.tokens}); use at most {room}"


def _named_expressions(text: str, class_name: str) -> list[str]:
    """Words that name an expression, of this class or another."""
    expressions = {*CANONICAL_NAMES, canonical_name(class_name)}
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    named = [word for word in dict.fromkeys(words) if canonical_name(word) in expressions]
    whole = prompt_name(class_name).lower()
    return [*named, *([whole] if " " in whole and f" {whole} " in f" {' '.join(words)} " else [])]


def _tidied(description: Description) -> Description:
    # Not cleaned if it has line breaks, which would become spaces: they are reported.
    text = clean_text(description.text) if is_one_line(description.text) else description.text
    text = text.strip(" ").rstrip(" .")
    return Description(text=text, action_units=tuple(sorted(set(description.action_units))))


def _json_part(text: str) -> str:
    """The JSON object in a free-form reply, which may have code fences or a <think> part."""
    spoken = text.rpartition("</think>")[2]
    start, end = spoken.find("{"), spoken.rfind("}")
    return spoken[start : end + 1] if 0 <= start < end else spoken
