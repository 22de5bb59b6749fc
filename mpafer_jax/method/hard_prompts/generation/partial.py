"""Answers on their way to a bank: one line each, so that a run that was stopped asks only for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pydantic
from absl import logging

from mpafer_jax.method.hard_prompts.bank import BankText
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat
from mpafer_jax.runtime import files


class Answered(pydantic.BaseModel):
    """An answer that was found usable.

    Attributes:
      question: hash of all that was asked.
      class_name: whose texts they are.
      granularity: of which part.
      descriptions: the texts.
      reported_model: what the model calls itself.
      endpoint: who answered.
      answer_format: what bound the answer's form.
      corrected: whether an answer had to be sent back before.
      date: UTC, ISO 8601.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    question: str
    class_name: str
    granularity: str
    descriptions: tuple[BankText, ...]
    reported_model: str
    endpoint: str
    answer_format: AnswerFormat
    corrected: bool
    date: str


class PartialFile:
    """The answers that have come so far, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a line that cannot be read is reported and dropped: its question is asked anew."""
        self.path = path
        self._answers: dict[str, Answered] = {}
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                answered = Answered.model_validate_json(line)
            except pydantic.ValidationError:
                logging.warning("%s: line %d is no answer (cut off?); its question is asked again", path, number)
                continue
            self._answers[answered.question] = answered
        if len(self._answers) != len(lines):
            files.write_text(path, "".join(_line(answered) for answered in self._answers.values()))

    def get(self, question: str) -> Answered | None:
        """The answer to a question, if there is one."""
        return self._answers.get(question)

    def add(self, answered: Answered) -> None:
        """Keeps an answer; when this returns it is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(answered))
            file.flush()
            os.fsync(file.fileno())
        self._answers[answered.question] = answered

    def remove(self) -> None:
        """Deletes the file."""
        self.path.unlink(missing_ok=True)


def _line(answered: Answered) -> str:
    return answered.model_dump_json() + "\n"


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in the order of their first appearance, without empty ones."""
    return tuple(value for value in dict.fromkeys(values) if value)
