"""Provenance of a generated bank, enough to reproduce the requests."""

from __future__ import annotations

from typing import Literal

import pydantic

BackendKind = Literal["openai", "transformers"]
AnswerFormat = Literal["json_schema", "json_object", "text"]
"""Requested format of answers: JSON with a schema, any JSON, or free text."""


class Provenance(pydantic.BaseModel):
    """How a language model wrote a bank. Never holds a key.

    Attributes:
      model: as requested.
      reported_models: names in the server's answers, often with a date.
      backend: openai (an endpoint with OpenAI's protocol) or transformers (local).
      endpoints: base URLs without credentials; empty for transformers.
      date: UTC, of the last answer, ISO 8601.
      tool: name and version of the generating program.
      instructions: the system message.
      questions: by granularity, with [class] for the class name.
      paraphrases: texts per question.
      temperature, seed: of sampling; None: not sent.
      max_tokens: length limit of an answer in the model's tokens; None: not sent.
      answer_formats: other than json_schema only if a server refused that.
      tokenizer: name of the CLIP whose tokens were counted.
      token_budget: maximum tokens of a templated text, special tokens included.
      corrected: 'class/granularity' of each answer that was sent back at least once.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    reported_models: tuple[str, ...]
    backend: BackendKind
    endpoints: tuple[str, ...]
    date: str
    tool: str
    instructions: str
    questions: dict[str, str]
    paraphrases: int
    temperature: float | None
    seed: int | None
    max_tokens: int | None
    answer_formats: tuple[AnswerFormat, ...]
    tokenizer: str
    token_budget: int
    corrected: tuple[str, ...]
