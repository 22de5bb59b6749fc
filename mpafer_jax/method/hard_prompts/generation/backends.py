"""What every way of asking a language model shares: a conversation in, a reply out, two kinds of failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

from mpafer_jax.method.hard_prompts.generation.questions import Message
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat

BackendKind = Literal["openai", "transformers"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a model chooses its words; None leaves a choice to the server, and sends nothing.

    Attributes:
      temperature: 0 for the likeliest words.
      seed: of the draw, where a server honours it.
      max_tokens: of an answer, in the model's own tokens.
    """

    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
      text: all of it.
      model: what the model calls itself.
      answer_format: what bound the reply's form.
      cut_off: whether the limit on its length ended it.
      refusal: why the model will not answer, or ''.
    """

    text: str
    model: str
    answer_format: AnswerFormat
    cut_off: bool = False
    refusal: str = ""


class Backend(Protocol):
    """A language model: its name, the server's base URL ('' for none), and how it samples."""

    kind: BackendKind
    model: str
    endpoint: str
    sampling: Sampling

    def reply(self, messages: Sequence[Message]) -> Reply:
        """Continues a conversation; binds the reply to the schema of `Answer` where the backend can."""
        ...
