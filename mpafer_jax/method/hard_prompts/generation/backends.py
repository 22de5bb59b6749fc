"""What every way of asking a language model has in common: a conversation in, a reply out, two kinds of failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from mpafer_jax.method.hard_prompts.generation.questions import Message
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat


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
    """What a model said.

    Attributes:
      text: the whole of it; '' where it said nothing.
      model: what it calls itself.
      answer_format: what bound its form.
      cut_off: whether the limit on its length ended it.
      refusal: why it will not answer, or ''.
    """

    text: str
    model: str
    answer_format: AnswerFormat
    cut_off: bool = False
    refusal: str = ""


class Backend(Protocol):
    """A language model that can be asked."""

    @property
    def kind(self) -> Literal["openai", "transformers"]:
        """For the provenance."""
        ...

    @property
    def model(self) -> str:
        """As it was asked for."""
        ...

    @property
    def endpoint(self) -> str:
        """Base URL, '' if there is none."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How it chooses its words."""
        ...

    def reply(self, messages: Sequence[Message], schema: dict[str, Any]) -> Reply:
        """Asks.

        Args:
          messages: the conversation so far.
          schema: JSON schema of the answer; binding where the backend can bind, else the words have to do.

        Raises:
          GenerationError: it would be refused again.
          UnavailableError: it may be answered later.
        """
        ...
