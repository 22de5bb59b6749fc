"""Description banks: descriptions of each expression, by a person or a language model.

A bank is a JSON file with `name`, `source` (author and references), `question` (the prompt) and `classes`: by class
name and granularity (whole face, or one region) a list of texts with facial action units. Example:
docs/hard_prompts.md.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import Any, Self, get_args

import numpy as np
import pydantic

from mpafer_jax.config.expressions import canonical_name, check_class_names
from mpafer_jax.config.schema import Granularity, PromptGranularity
from mpafer_jax.method.hard_prompts.provenance import Provenance
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import PromptError
from mpafer_jax.runtime.texts import clean_text, is_one_line

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
# Ekman, Friesen and Hager, Facial Action Coding System: The Manual (2002): muscles of the face, head (51-58) and eyes
# (61-66).
ACTION_UNITS = frozenset({1, 2, *range(4, 40), *range(41, 47), *range(51, 59), *range(61, 67)})

_SHIPPED = importlib.resources.files("mpafer_jax.method.hard_prompts")


class _Part(pydantic.BaseModel):
    # Not strict=True, which refuses lists for tuples after a "before" validator; fields have strict types instead.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class BankText(_Part):
    """A description; in JSON also a plain string, without action units.

    Attributes:
      text: a noun phrase that can follow "a photo of a person ..., with"; cleaned by `texts.clean_text`.
      action_units: FACS numbers of the described movements; none for parts at rest.
    """

    text: pydantic.StrictStr
    action_units: tuple[pydantic.StrictInt, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @pydantic.field_validator("text")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        if not text.strip() or text != text.strip() or not is_one_line(text):
            raise ValueError(f"expected one line of text without blanks around it, found {text!r}")
        return clean_text(text)

    @pydantic.field_validator("action_units")
    @classmethod
    def _units_exist(cls, units: tuple[int, ...]) -> tuple[int, ...]:
        if unknown := sorted(set(units) - ACTION_UNITS):
            raise ValueError(f"the Facial Action Coding System has no action units {unknown}")
        return units


class ClassTexts(_Part):
    """Descriptions of a class, one or more per granularity; in JSON also a plain string, one holistic text."""

    holistic: tuple[BankText, ...] = ()
    brows: tuple[BankText, ...] = ()
    eyes: tuple[BankText, ...] = ()
    nose: tuple[BankText, ...] = ()
    cheeks: tuple[BankText, ...] = ()
    mouth: tuple[BankText, ...] = ()
    chin: tuple[BankText, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"holistic": [value]} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.items():
            raise ValueError(f"a class needs a text in at least one of {', '.join(GRANULARITIES)}")
        return self

    def of(self, granularity: Granularity) -> tuple[BankText, ...]:
        """Texts of a granularity, in the file's order."""
        return getattr(self, granularity)

    def items(self) -> list[tuple[Granularity, BankText]]:
        """All texts with their granularities."""
        return [(granularity, text) for granularity in GRANULARITIES for text in self.of(granularity)]


class Bank(_Part):
    """A validated description bank.

    Attributes:
      source: author and references.
      question: the prompt, with [class] for the class name.
      classes: descriptions by class name.
      provenance: of a bank written by a language model.
    """

    name: pydantic.StrictStr
    source: pydantic.StrictStr
    question: pydantic.StrictStr
    classes: dict[str, ClassTexts]
    provenance: Provenance | None = None

    @pydantic.field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: dict[str, ClassTexts]) -> dict[str, ClassTexts]:
        check_class_names(tuple(classes), "a bank's classes")
        return classes

    def entry(self, class_name: str) -> ClassTexts:
        """Descriptions of a class, which may be named by a synonym.

        Raises:
          PromptError: the bank lacks the class.
        """
        return self.entries([class_name])[0]

    def entries(self, class_names: Sequence[str]) -> list[ClassTexts]:
        """Descriptions of each class.

        Raises:
          PromptError: lists all classes that the bank lacks.
        """
        by_name = {canonical_name(name): texts for name, texts in self.classes.items()}
        if missing := self.missing(class_names):
            raise PromptError(
                f"the description bank {self.name!r} has no class {', '.join(map(repr, missing))}; it has "
                f"{', '.join(self.classes)}. Name a bank file that has what is missing in hard_prompts.bank, or set "
                "hard_prompts.type to 1 or 2, which need none"
            )
        return [by_name[canonical_name(name)] for name in class_names]

    def missing(self, class_names: Sequence[str], granularity: Granularity | None = None) -> list[str]:
        """The names of classes that the bank lacks, or of which it says nothing at a granularity."""
        by_name = {canonical_name(name): texts for name, texts in self.classes.items()}
        entries = [(name, by_name.get(canonical_name(name))) for name in class_names]
        return [name for name, entry in entries if entry is None or (granularity and not entry.of(granularity))]

    def texts(self, class_name: str, granularity: Granularity) -> tuple[BankText, ...]:
        """Descriptions of a class at one granularity, at least one.

        Raises:
          PromptError: the bank lacks the class, or this granularity of it.
        """
        self.check([class_name], [granularity])
        return self.entry(class_name).of(granularity)

    def check(self, class_names: Sequence[str], granularities: Sequence[PromptGranularity]) -> None:
        """Checks that the bank has these granularities of these classes; 'template' needs no descriptions.

        Raises:
          PromptError: lists everything that is missing.
        """
        wanted: list[Granularity] = [granularity for granularity in granularities if granularity != "template"]
        if not wanted:
            return
        lacking: list[str] = []
        for name, entry in zip(class_names, self.entries(class_names), strict=True):
            if absent := [granularity for granularity in wanted if not entry.of(granularity)]:
                known = ", ".join(dict.fromkeys(granularity for granularity, _ in entry.items()))
                lacking.append(f"{', '.join(map(repr, absent))} for class {name!r}, only of {known}")
        if lacking:
            raise PromptError(
                f"the description bank {self.name!r} says nothing of {'; nothing of '.join(lacking)}; choose among "
                "those in hard_prompts.granularity, or add texts to the bank's file"
            )

    def first(self, paraphrases: int) -> Bank:
        """Copy with the first `paraphrases` texts of each class and granularity; 0 for all."""
        if not paraphrases:
            return self
        cut = {
            name: ClassTexts(**{granularity: entry.of(granularity)[:paraphrases] for granularity in GRANULARITIES})
            for name, entry in self.classes.items()
        }
        return self.model_copy(update={"classes": cut})


def pooled(banks: Sequence[Bank]) -> Bank:
    """Joins the texts of one or more banks, in order; a class need not be in all of them."""
    if len(banks) == 1:
        return banks[0]
    names: dict[str, str] = {}  # spelled as in the first bank with the class
    for bank in banks:
        for name in bank.classes:
            names.setdefault(canonical_name(name), name)
    by_class = [{canonical_name(name): entry for name, entry in bank.classes.items()} for bank in banks]
    classes = {
        name: ClassTexts(
            **{
                granularity: tuple(t for entries in by_class if key in entries for t in entries[key].of(granularity))
                for granularity in GRANULARITIES
            }
        )
        for key, name in names.items()
    }
    name, source, question = (
        joint.join(dict.fromkeys(getattr(bank, field) for bank in banks))
        for field, joint in (("name", " + "), ("source", " | "), ("question", " | "))
    )
    return Bank(name=name, source=source, question=question, classes=classes)


def permuted(bank: Bank, class_names: Sequence[str], seed: int) -> Bank:
    """Derangement control: every class gets the descriptions of another class.

    With these, a model should lose what it gains from descriptions beyond class names.

    Args:
      bank: the descriptions.
      class_names: C names, at least two.
      seed: of the derangement, drawn uniformly.

    Raises:
      PromptError: the bank lacks a class, or there is only one class.
    """
    if len(class_names) < 2:
        raise PromptError(f"descriptions of one class cannot be permuted, found {list(class_names)}")
    rng, positions = np.random.default_rng(seed), np.arange(len(class_names))
    order = rng.permutation(positions)
    while np.any(order == positions):
        order = rng.permutation(positions)
    donors: list[int] = order.tolist()
    entries = bank.entries(class_names)
    classes = {name: entries[donor] for name, donor in zip(class_names, donors, strict=True)}
    return Bank(
        name=f"{bank.name}, permuted",
        source=f"{bank.source}; permuted with seed {seed}",
        question=bank.question,
        classes=classes,
    )


def load_bank(name_or_path: str, field: str = "hard_prompts.bank") -> Bank:
    """Reads a bank shipped with the package, by name ('expressions'), or from a JSON file, by path.

    Args:
      field: of a configuration, or a command's option, that errors name.

    Raises:
      PromptError: the bank is missing or invalid.
    """
    shipped = _SHIPPED / f"{name_or_path}.json"
    try:
        file: Traversable = shipped if shipped.is_file() else files.local_path(name_or_path, field)
    except ValueError as error:
        raise PromptError(str(error)) from error
    if not file.is_file():
        known = sorted(item.name.removesuffix(".json") for item in _SHIPPED.iterdir() if item.name.endswith(".json"))
        raise PromptError(
            f"{field} {name_or_path!r} is neither a file nor a bank that ships with the package ({', '.join(known)})"
        )
    try:
        text = files.read_text(file)
        json.loads(text, object_pairs_hook=_refuse_twice)
        return Bank.model_validate_json(text)
    except ValueError as error:  # from pydantic, or not UTF-8
        raise PromptError(
            f"{file} is not a description bank (docs/hard_prompts.md says what one is): {error}"
        ) from error


def bank_of_option(text: str) -> Bank | None:
    """The bank that a command's --bank names; None for 'none'.

    Raises:
      PromptError: as for `load_bank`.
    """
    return None if text == "none" else load_bank(text, "--bank")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a name that it has twice, of which parsers keep the last."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} stands twice in one object; put what belongs to it under one")
    return dict(pairs)


def load_banks(names_or_paths: Sequence[str], paraphrases: int) -> Bank:
    """Reads and pools banks: the first `paraphrases` texts of each per class and granularity, 0 for all.

    Raises:
      PromptError: as for `load_bank`.
    """
    return pooled([load_bank(name).first(paraphrases) for name in names_or_paths])
