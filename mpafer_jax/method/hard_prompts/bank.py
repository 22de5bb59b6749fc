"""Description banks: what a person, or a language model, says each expression looks like.

A bank is a JSON file with `name`, `source` (who wrote it, from what), `question` (what was asked) and `classes`: by
class name and granularity (the whole face, or one region) a list of texts, each with the facial action units whose
traces it describes. docs/hard_prompts.md shows one.
"""

from __future__ import annotations

import importlib.resources
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
# Numbers of single movements in Ekman, Friesen and Hager, Facial Action Coding System: The Manual (2002): muscles of
# the face, head (51-58) and eyes (61-66).
ACTION_UNITS = frozenset({1, 2, *range(4, 40), *range(41, 47), *range(51, 59), *range(61, 67)})

_SHIPPED = importlib.resources.files("mpafer_jax.method.hard_prompts")


class _Part(pydantic.BaseModel):
    # Strict by the types of its fields: of what a "before" validator returns, strict mode takes no list as a tuple.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class BankText(_Part):
    """One way to say what is seen; a plain string stands for a text without action units.

    Attributes:
      text: a noun phrase that can follow "a photo of a person ..., with"; kept as `texts.clean_text` makes it.
      action_units: numbers of the units whose traces it describes; none where what it describes is at rest.
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
    """What a bank says of one class, several wordings of each granularity; a plain string is one holistic text."""

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
        """The texts of one granularity, in the file's order."""
        return getattr(self, granularity)

    def items(self) -> list[tuple[Granularity, BankText]]:
        """Every text with its granularity."""
        return [(granularity, text) for granularity in GRANULARITIES for text in self.of(granularity)]


class Bank(_Part):
    """A checked description bank.

    Attributes:
      name: what it is called.
      source: who wrote it, from what.
      question: what was asked, with [class] for the class's name.
      classes: descriptions per class, by its name.
      provenance: of a bank that a language model wrote.
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
        """All that the bank says of a class, which may be named by a synonym.

        Raises:
          PromptError: the bank does not know the class.
        """
        return self.entries([class_name])[0]

    def entries(self, class_names: Sequence[str]) -> list[ClassTexts]:
        """All that the bank says of each class.

        Raises:
          PromptError: the bank lacks classes; names all of them.
        """
        by_name = {canonical_name(name): texts for name, texts in self.classes.items()}
        if missing := [name for name in class_names if canonical_name(name) not in by_name]:
            raise PromptError(
                f"the description bank {self.name!r} has no class {', '.join(map(repr, missing))}; it has "
                f"{', '.join(self.classes)}. Name a bank file that has what is missing in hard_prompts.bank, or set "
                "hard_prompts.type to 1 or 2, which need none"
            )
        return [by_name[canonical_name(name)] for name in class_names]

    def texts(self, class_name: str, granularity: Granularity) -> tuple[BankText, ...]:
        """What the bank says of a class at one granularity, one text at least.

        Raises:
          PromptError: the bank does not know the class, or says nothing of it at that granularity.
        """
        self.check([class_name], [granularity])
        return self.entry(class_name).of(granularity)

    def check(self, class_names: Sequence[str], granularities: Sequence[PromptGranularity]) -> None:
        """Refuses a bank that does not say enough, with everything that it lacks in one message.

        Args:
          class_names: the classes that are wanted.
          granularities: which descriptions of each; 'template', the class's name alone, needs none.

        Raises:
          PromptError: the bank lacks classes, or granularities of some; names all of them.
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
        """The same with at most so many texts of each class and granularity, the file's first; 0 for all."""
        if not paraphrases:
            return self
        cut = {
            name: ClassTexts(**{granularity: entry.of(granularity)[:paraphrases] for granularity in GRANULARITIES})
            for name, entry in self.classes.items()
        }
        return self.model_copy(update={"classes": cut})


def pooled(banks: Sequence[Bank]) -> Bank:
    """One bank with the texts of several, in their order; a class need not be in all of them.

    Args:
      banks: one at least; a single one comes back as it is.
    """
    if len(banks) == 1:
        return banks[0]
    names: dict[str, str] = {}  # as the first bank that has the class spells it
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
    """A derangement control: a bank in which every class has the descriptions of another one.

    What a model gains from descriptions beyond class names, it must lose with these.

    Args:
      bank: the descriptions.
      class_names: C names, two at least.
      seed: which of the permutations without a fixed point, all equally likely.

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


def load_bank(name_or_path: str) -> Bank:
    """Reads a bank that ships with the package, by name ('expressions'), or any other, by the path of its file.

    Raises:
      PromptError: there is no such bank, or it does not hold what a bank must.
    """
    shipped = _SHIPPED / f"{name_or_path}.json"
    try:
        file: Traversable = shipped if shipped.is_file() else files.local_path(name_or_path, "hard_prompts.bank")
    except ValueError as error:
        raise PromptError(str(error)) from error
    if not file.is_file():
        known = sorted(item.name.removesuffix(".json") for item in _SHIPPED.iterdir() if item.name.endswith(".json"))
        raise PromptError(
            f"hard_prompts.bank {name_or_path!r} is neither a file nor a bank that ships with the package "
            f"({', '.join(known)})"
        )
    try:
        return Bank.model_validate_json(files.read_text(file))
    except ValueError as error:  # pydantic's, or of a file that is no UTF-8
        raise PromptError(
            f"{file} is not a description bank (docs/hard_prompts.md says what one is): {error}"
        ) from error


def load_banks(names_or_paths: Sequence[str], paraphrases: int) -> Bank:
    """Reads several banks as one: of each the first `paraphrases` texts per class and granularity (0: all), pooled.

    Raises:
      PromptError: as for `load_bank`.
    """
    return pooled([load_bank(name).first(paraphrases) for name in names_or_paths])
