"""Generates a bank with a language model: asks, checks, sends invalid answers back.

Valid answers are appended to `<out>.partial.jsonl`, from which an interrupted run resumes; the bank is written when
complete.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic
from absl import logging

from mpafer_jax import __version__
from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.method.hard_prompts.bank import Bank
from mpafer_jax.method.hard_prompts.generation import answers
from mpafer_jax.method.hard_prompts.generation.answers import Expected, TokenBudget, UnusableAnswerError
from mpafer_jax.method.hard_prompts.generation.backends import Backend
from mpafer_jax.method.hard_prompts.generation.questions import (
    INSTRUCTIONS,
    QUESTIONS,
    Answer,
    Description,
    Message,
    ask,
    ask_again,
)
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat, Provenance
from mpafer_jax.runtime import files, locks
from mpafer_jax.runtime.errors import ConfigError, GenerationError

_TOOL = f"mpafer-jax prompts generate {__version__}"
_MOST_FAILURES_IN_A_ROW = 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Contents of the bank to generate.

    Attributes:
      class_names: spelled as in the dataset.
      granularities: keys of `questions.QUESTIONS`.
      paraphrases: texts per class and granularity.
      corrections: how often an invalid answer is sent back before the question fails.
    """

    class_names: tuple[str, ...]
    granularities: tuple[str, ...]
    paraphrases: int = 3
    corrections: int = 3

    def __post_init__(self) -> None:
        """Raises GenerationError for invalid classes or granularities."""
        try:
            check_class_names(self.class_names, "classes")
        except ConfigError as error:
            raise GenerationError(f"{error}; names with commas between them") from error
        if not self.granularities or len(set(self.granularities)) != len(self.granularities):
            raise GenerationError(
                f"granularities must be names with commas between them, each once, found {list(self.granularities)}"
            )
        if unknown := [name for name in self.granularities if name not in QUESTIONS]:
            raise GenerationError(f"granularities {', '.join(unknown)} do not exist; they are {', '.join(QUESTIONS)}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Numbers of questions asked and of answers reused; a line per failure. The bank is written if none failed."""

    asked: int
    reused: int
    failures: tuple[str, ...]


def partial_path(out: Path) -> Path:
    """File of the answers until the bank is complete."""
    return out.with_name(f"{out.name}.partial.jsonl")


def check_out(out: Path, overwrite: bool) -> None:
    """Raises GenerationError if `out` exists and must not be overwritten."""
    if out.is_file() and not overwrite:
        raise GenerationError(f"{out} exists; name another file, or replace it with --overwrite")
    if out.exists() and not out.is_file():
        raise GenerationError(f"{out} is no file; name the JSON file to write")


@dataclasses.dataclass(frozen=True)
class _Question:
    """A class at a granularity; `key` hashes everything that the answer depends on."""

    granularity: str
    expected: Expected
    messages: tuple[Message, ...]
    key: str

    def __str__(self) -> str:
        return f"{self.expected.class_name}, {self.granularity}"


def _questions(wanted: Wanted, backend: Backend, budget: TokenBudget) -> list[_Question]:
    questions: list[_Question] = []
    for class_name in wanted.class_names:
        expected = Expected(class_name, wanted.paraphrases, budget)
        for granularity in wanted.granularities:
            messages = ask(class_name, granularity, wanted.paraphrases)
            request = {
                "model": backend.model,
                "backend": backend.kind,
                "sampling": dataclasses.asdict(backend.sampling),
                "messages": list(messages),
                "schema": Answer.model_json_schema(),
            }
            questions.append(_Question(granularity, expected, messages, files.json_digest(request)))
    return questions


class _Answered(pydantic.BaseModel):
    """A valid answer, a line of the partial file; `question` is the key of its `_Question`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    question: str
    class_name: str
    granularity: str
    descriptions: tuple[Description, ...]
    reported_model: str
    endpoint: str
    answer_format: AnswerFormat
    corrected: bool
    date: str

    def append_to(self, path: Path) -> None:
        """Appends the answer to a file, durably (fsync)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(self.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read_partial(path: Path) -> dict[str, _Answered]:
    """Answers of earlier runs by question; drops invalid lines, whose questions are asked again."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    known: dict[str, _Answered] = {}
    for number, line in enumerate(lines, start=1):
        try:
            answered = _Answered.model_validate_json(line)
        except pydantic.ValidationError:
            logging.warning("%s: line %d is no answer (cut off?); its question is asked again", path, number)
            continue
        known[answered.question] = answered
    if len(known) != len(lines):
        files.write_text(path, "".join(answered.model_dump_json() + "\n" for answered in known.values()))
    return known


def generate(wanted: Wanted, backend: Backend, budget: TokenBudget, out: Path, *, overwrite: bool = False) -> Outcome:
    """Generates a bank and writes it to the JSON file `out` if every question has a valid answer.

    Raises:
      GenerationError, UnavailableError: the backend failed; the answers so far are saved.
      LockedError: another process writes the same bank.
    """
    check_out(out, overwrite)
    with locks.hold(out.with_name(f"{out.name}.lock"), out):
        return _generate(wanted, backend, budget, out, overwrite=overwrite)


def _generate(wanted: Wanted, backend: Backend, budget: TokenBudget, out: Path, *, overwrite: bool) -> Outcome:
    partial = partial_path(out)
    earlier = _read_partial(partial)
    questions = _questions(wanted, backend, budget)
    usable: dict[str, _Answered] = {}
    for question in questions:
        answered = earlier.get(question.key)
        # The budget may have changed.
        if answered is not None and not list(answers.find_problems(answered.descriptions, question.expected)):
            usable[question.key] = answered
    reused = len(usable)
    logging.info("%d questions for %s, %d of them answered before", len(questions), backend.model, reused)

    failures: list[str] = []
    in_a_row = 0
    for question in questions:
        if question.key in usable:
            continue
        if in_a_row == _MOST_FAILURES_IN_A_ROW:
            failures.append(f"{question}: not asked, since {in_a_row} questions in a row had failed")
            continue
        try:
            answered = _ask(backend, question, wanted.corrections)
        except UnusableAnswerError as error:
            failures.append(f"{question}: no usable answer in {wanted.corrections + 1}, the last one: {error}")
            in_a_row += 1
            continue
        in_a_row = 0
        answered.append_to(partial)
        usable[question.key] = answered
        logging.info("%d of %d: %s", len(usable), len(questions), question)
    if not failures:
        check_out(out, overwrite)  # may have been created meanwhile
        bank = _bank(out.stem, wanted, backend, budget, [usable[question.key] for question in questions])
        files.write_text(out, _rendered(bank))
        partial.unlink(missing_ok=True)
    return Outcome(len(questions) - reused, reused, tuple(failures))


def _ask(backend: Backend, question: _Question, corrections: int) -> _Answered:
    """Asks a question; sends invalid answers back up to `corrections` times."""
    messages = question.messages
    for sent_back in range(corrections + 1):
        reply = backend.reply(messages)
        try:
            descriptions = answers.read_answer(reply, question.expected)
        except UnusableAnswerError as error:
            logging.info("%s: answer %d cannot be used: %s", question, sent_back + 1, error)
            if sent_back == corrections:
                raise
            # Only the last answer, so that the conversation does not grow; servers refuse empty turns.
            messages = question.messages
            if reply.text.strip():
                messages = ask_again(question.messages, reply.text, error.problems)
            continue
        return _Answered(
            question=question.key,
            class_name=question.expected.class_name,
            granularity=question.granularity,
            descriptions=descriptions,
            reported_model=reply.model,
            endpoint=backend.endpoint,
            answer_format=reply.answer_format,
            corrected=sent_back > 0,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
    raise ValueError(f"corrections is {corrections}, expected 0 or more")


def _bank(name: str, wanted: Wanted, backend: Backend, budget: TokenBudget, usable: list[_Answered]) -> dict[str, Any]:
    """The bank as validated JSON."""
    classes: dict[str, dict[str, Any]] = {name: {} for name in wanted.class_names}
    for answered in usable:
        texts = [text.model_dump(mode="json") for text in answered.descriptions]
        classes[answered.class_name][answered.granularity] = texts
    provenance = Provenance(
        model=backend.model,
        reported_models=_distinct(answered.reported_model for answered in usable),
        backend=backend.kind,
        endpoints=_distinct(answered.endpoint for answered in usable),
        date=max(answered.date for answered in usable),
        tool=_TOOL,
        instructions=INSTRUCTIONS,
        questions={name: QUESTIONS[name] for name in wanted.granularities},
        paraphrases=wanted.paraphrases,
        temperature=backend.sampling.temperature,
        seed=backend.sampling.seed,
        max_tokens=backend.sampling.max_tokens,
        answer_formats=tuple(dict.fromkeys(answered.answer_format for answered in usable)),
        tokenizer=budget.clip,
        token_budget=budget.tokens,
        corrected=tuple(f"{answered.class_name}/{answered.granularity}" for answered in usable if answered.corrected),
    )
    bank = {
        "name": name,
        "source": f"Written by {backend.model}, see provenance. Not checked by a person.",
        "question": QUESTIONS[wanted.granularities[0]],
        "classes": classes,
        "provenance": provenance.model_dump(mode="json"),
    }
    Bank.model_validate_json(json.dumps(bank))
    return bank


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct values in order, without empty ones."""
    return tuple(value for value in dict.fromkeys(values) if value)


def _rendered(bank: dict[str, Any]) -> str:
    """Indented JSON with each text and its units on one line, for readability."""

    def on_one_line(match: re.Match[str]) -> str:
        units = ", ".join(re.findall(r"\d+", match["units"]))
        return f'{{"text": {match["text"]}, "action_units": [{units}]}}'

    text = r'\{\s+"text": (?P<text>".*"),\s+"action_units": \[(?P<units>[^\]]*)\]\s+\}'
    return re.sub(text, on_one_line, json.dumps(bank, indent=2, ensure_ascii=False)) + "\n"
