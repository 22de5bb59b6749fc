"""Description banks: what a language model, or a person, says each expression looks like.

A bank is a JSON file with `name`, `source` (who wrote it, from what), `question` (what was asked) and `classes`, an
object from class name to one description.
"""

from __future__ import annotations

import importlib.resources
import pathlib
from collections.abc import Sequence
from importlib.resources.abc import Traversable

import numpy as np
import pydantic

from mpafer_jax.expressions import canonical_name

_SHIPPED = importlib.resources.files("mpafer_jax.hard_prompts")


class BankError(ValueError):
    """A bank that is not there, not of the format, or without a class; the message says which and what to do."""


class Bank(pydantic.BaseModel):
    """A checked description bank.

    Attributes:
      name: what it is called.
      source: who wrote it, from what.
      question: what was asked.
      classes: description by class name.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: str
    question: str
    classes: dict[str, str]

    def description(self, class_name: str) -> str:
        """What the bank says of a class, which may be named by a synonym.

        Raises:
          BankError: the bank does not know the class.
        """
        by_name = {canonical_name(name): text for name, text in self.classes.items()}
        if canonical_name(class_name) not in by_name:
            raise BankError(
                f"the description bank {self.name!r} has no class {class_name!r}; it has {', '.join(self.classes)}. "
                "Name a bank file that has it in hard_prompts.bank, or set hard_prompts.type to 1 or 2, which need none"
            )
        return by_name[canonical_name(class_name)]


def permuted(bank: Bank, class_names: Sequence[str], seed: int) -> Bank:
    """A bank of the given classes in which every description belongs to another class than its own.

    A control: what a model gains from descriptions beyond class names, it must lose with these.

    Args:
      bank: the descriptions.
      class_names: C names, two at least.
      seed: which of the permutations without a fixed point, all equally likely.

    Raises:
      BankError: the bank lacks a class, or there is only one class.
    """
    if len(class_names) < 2:
        raise BankError(f"descriptions of one class cannot be permuted, found {list(class_names)}")
    rng, own = np.random.default_rng(seed), np.arange(len(class_names))
    order = rng.permutation(own)
    while np.any(order == own):
        order = rng.permutation(own)
    donors: list[int] = order.tolist()
    classes = {name: bank.description(class_names[donor]) for name, donor in zip(class_names, donors, strict=True)}
    return Bank(
        name=f"{bank.name}, permuted",
        source=f"{bank.source}; permuted with seed {seed}",
        question=bank.question,
        classes=classes,
    )


def load_bank(name_or_path: str) -> Bank:
    """Reads a bank that ships with the package, by name ('expressions'), or any other, by the path of its file.

    Raises:
      BankError: there is no such bank, or it does not hold what a bank must.
    """
    shipped = _SHIPPED / f"{name_or_path}.json"
    file: Traversable = shipped if shipped.is_file() else pathlib.Path(name_or_path)
    if not file.is_file():
        known = sorted(item.name.removesuffix(".json") for item in _SHIPPED.iterdir() if item.name.endswith(".json"))
        raise BankError(
            f"hard_prompts.bank {name_or_path!r} is neither a file nor a bank that ships with the package "
            f"({', '.join(known)})"
        )
    try:
        return Bank.model_validate_json(file.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        raise BankError(f"{file} is not a description bank: {error}") from error
