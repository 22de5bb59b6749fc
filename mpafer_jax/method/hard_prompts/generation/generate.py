"""Has a language model write a bank: asks, checks, sends back what cannot be used, and keeps what can.

Every usable answer lands in `<out>.partial.jsonl` as it comes; the bank appears, whole, when the last one has.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from mpafer_jax import __version__
from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.method.hard_prompts.bank import Bank
from mpafer_jax.method.hard_prompts.generation import answers
from mpafer_jax.method.hard_prompts.generation.answers import Expected, UnusableAnswerError
from mpafer_jax.method.hard_prompts.generation.backends import Backend
from mpafer_jax.method.hard_prompts.generation.lengths import TokenBudget
from mpafer_jax.method.hard_prompts.generation.partial import Answered, PartialFile, distinct
from mpafer_jax.method.hard_prompts.generation.questions import INSTRUCTIONS, QUESTIONS, Message, ask, ask_again
from mpafer_jax.method.hard_prompts.provenance import Provenance
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, GenerationError

_TOOL = f"mpafer_jax.cli.generate_descriptions {__version__}"
_MOST_FAILURES_IN_A_ROW = 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a bank is to hold.

    Attributes:
      class_names: as the dataset writes them.
      granularities: keys of `questions.QUESTIONS`.
      paraphrases: texts of each class in each granularity.
      corrections: how many times an answer that cannot be used is sent back before its question is given up.
    """

    class_names: tuple[str, ...]
    granularities: tuple[str, ...]
    paraphrases: int = 3
    corrections: int = 3

    def __post_init__(self) -> None:
        """Refuses what cannot be asked.

        Raises:
          GenerationError: names what was found and what is expected.
        """
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
    """How it went.

    Attributes:
      missing: questions that this run found unanswered.
      kept: questions that an earlier run had got answered.
      failures: a line for each question without a usable answer; the bank was written if there is none.
    """

    missing: int
    kept: int
    failures: tuple[str, ...]


def partial_path(out: Path) -> Path:
    """Where the answers wait until a bank is complete."""
    return out.with_name(f"{out.name}.partial.jsonl")


def check_out(out: Path, overwrite: bool) -> None:
    """Refuses a place that is taken, before anything is asked.

    Raises:
      GenerationError: there is a file and `overwrite` is false, or something that is no file.
    """
    if out.is_file() and not overwrite:
        raise GenerationError(f"{out} exists; name another file, or replace it with --overwrite")
    if out.exists() and not out.is_file():
        raise GenerationError(f"{out} is no file; name the JSON file to write")


@dataclasses.dataclass(frozen=True)
class _Question:
    """One class in one granularity; `key` is a hash of all that the answer depends on."""

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
            questions.append(_Question(granularity, expected, messages, _hash(backend, messages)))
    return questions


def _hash(backend: Backend, messages: Sequence[Message]) -> str:
    """SHA-256 of conversation, form, model and sampling; not of where the model runs."""
    asked = {
        "model": backend.model,
        "backend": backend.kind,
        "sampling": dataclasses.asdict(backend.sampling),
        "messages": list(messages),
        "schema": answers.answer_schema(),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def generate(wanted: Wanted, backend: Backend, budget: TokenBudget, out: Path, *, overwrite: bool = False) -> Outcome:
    """Writes a bank to `out`, once every question has a usable answer.

    Args:
      wanted: classes and granularities.
      backend: who is asked.
      budget: how long texts may be.
      out: the JSON file.
      overwrite: whether a file that is there may be replaced.

    Raises:
      GenerationError: `out` is taken.
      GenerationError: the model will not answer, whatever is asked; answers so far are kept.
      UnavailableError: the model does not answer now; likewise.
    """
    check_out(out, overwrite)
    partial = PartialFile(partial_path(out))
    questions = _questions(wanted, backend, budget)
    found: dict[str, Answered] = {}
    for question in questions:
        known = partial.get(question.key)
        # Checked again: the budget may be another one than it was then.
        if known is not None and not list(answers.find_problems(known.descriptions, question.expected)):
            found[question.key] = known
    kept = len(found)
    logging.info("%d questions for %s, %d of them answered before", len(questions), backend.model, kept)

    failures: list[str] = []
    in_a_row = 0
    for question in questions:
        if question.key in found:
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
        partial.add(answered)
        found[question.key] = answered
        logging.info("%d of %d: %s", len(found), len(questions), question)
    if not failures:
        check_out(out, overwrite)  # it may have appeared since
        bank = _bank(out.stem, wanted, backend, budget, [found[question.key] for question in questions])
        files.write_text(out, _rendered(bank))
        partial.remove()
    return Outcome(len(questions) - kept, kept, tuple(failures))


def _ask(backend: Backend, question: _Question, corrections: int) -> Answered:
    """Asks one question, and sends the answer back while it cannot be used.

    Raises:
      UnusableAnswerError: of the last answer.
    """
    messages = question.messages
    for sent_back in range(corrections + 1):
        reply = backend.reply(messages, answers.answer_schema())
        try:
            descriptions = answers.read_answer(reply, question.expected)
        except UnusableAnswerError as error:
            logging.info("%s: answer %d cannot be used: %s", question, sent_back + 1, error)
            if sent_back == corrections:
                raise
            # Only the last answer goes back, so that the conversation does not grow; and servers refuse empty turns.
            messages = question.messages
            if reply.text.strip():
                messages = ask_again(question.messages, reply.text, error.problems)
            continue
        return Answered(
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


def _bank(
    name: str, wanted: Wanted, backend: Backend, budget: TokenBudget, found: Sequence[Answered]
) -> dict[str, Any]:
    """The bank as JSON, checked as one that is read."""
    classes: dict[str, dict[str, Any]] = {name: {} for name in wanted.class_names}
    for answered in found:
        texts = [said.model_dump(mode="json") for said in answered.descriptions]
        classes[answered.class_name][answered.granularity] = texts
    provenance = Provenance(
        model=backend.model,
        reported_models=distinct(answered.reported_model for answered in found),
        backend=backend.kind,
        endpoints=distinct(answered.endpoint for answered in found),
        date=max(answered.date for answered in found),
        tool=_TOOL,
        instructions=INSTRUCTIONS,
        questions={name: QUESTIONS[name] for name in wanted.granularities},
        paraphrases=wanted.paraphrases,
        temperature=backend.sampling.temperature,
        seed=backend.sampling.seed,
        max_tokens=backend.sampling.max_tokens,
        answer_formats=tuple(dict.fromkeys(answered.answer_format for answered in found)),
        tokenizer=budget.clip,
        token_budget=budget.tokens,
        corrected=tuple(f"{answered.class_name}/{answered.granularity}" for answered in found if answered.corrected),
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


def _rendered(bank: dict[str, Any]) -> str:
    """Indented JSON with each text and its units on one line, since a person is to read it."""

    def on_one_line(found: re.Match[str]) -> str:
        units = ", ".join(re.findall(r"\d+", found["units"]))
        return f'{{"text": {found["text"]}, "action_units": [{units}]}}'

    text = r'\{\s+"text": (?P<text>".*"),\s+"action_units": \[(?P<units>[^\]]*)\]\s+\}'
    return re.sub(text, on_one_line, json.dumps(bank, indent=2, ensure_ascii=False)) + "\n"
