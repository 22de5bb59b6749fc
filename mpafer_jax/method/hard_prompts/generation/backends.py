"""Interface of language-model backends: messages in, a reply out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from mpafer_jax.method.hard_prompts.generation.questions import Message
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat, BackendKind


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling options; None is not sent: the server's default.

    Attributes:
      temperature: 0 for greedy decoding.
      seed: servers may ignore it.
      max_tokens: of an answer, in the model's tokens.
    """

    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
      model: as reported by the server.
      answer_format: constraint on the reply's format.
      cut_off: whether it ended at `max_tokens`.
      refusal: the model's refusal, or ''.
    """

    text: str
    model: str
    answer_format: AnswerFormat
    cut_off: bool = False
    refusal: str = ""


class Backend(Protocol):
    """A language model; `endpoint` is the server's base URL, or ''."""

    kind: BackendKind
    model: str
    endpoint: str
    sampling: Sampling

    def reply(self, messages: Sequence[Message]) -> Reply:
        """Continues a conversation; constrains the reply to the schema of `Answer` if the backend can."""
        ...
