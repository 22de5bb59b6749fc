"""Where the texts of a generated bank come from: enough to judge them, and to ask again."""

from __future__ import annotations

from typing import Literal

import pydantic

AnswerFormat = Literal["json_schema", "json_object", "text"]
"""What was asked of the server: answers bound to a JSON schema, to any JSON, or to nothing but the words asked."""


class Provenance(pydantic.BaseModel):
    """How a language model wrote a bank. Never holds a key.

    Attributes:
      model: as it was asked for.
      reported_models: what the server called it in its answers, often with a date.
      backend: openai (an endpoint with OpenAI's protocol) or transformers (on the own machine).
      endpoints: base URLs that answered, without credentials; empty for transformers.
      date: UTC, of the last answer, ISO 8601.
      tool: name and version of the program that asked.
      instructions: what was said of the form of an answer (the system message).
      questions: by granularity, with [class] for the class's name.
      paraphrases: wordings asked for per question.
      temperature: of sampling; None: the server's own default.
      seed: of sampling; None: none was sent.
      max_tokens: length limit of an answer in the model's own tokens; None: none was sent.
      answer_formats: what bound the answers' form; more than json_schema only where a server refused that.
      tokenizer: name of the CLIP in whose tokens lengths were counted.
      token_budget: most tokens of a templated text, start and end included.
      corrected: 'class/granularity' of each answer that was sent back at least once (too long, or not as asked).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    reported_models: tuple[str, ...]
    backend: Literal["openai", "transformers"]
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
