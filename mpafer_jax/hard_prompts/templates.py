"""Hard prompts: the fixed texts that soft prompts are pulled towards (MPA-FER section 3, three types)."""

from __future__ import annotations

from collections.abc import Sequence

from mpafer_jax.hard_prompts.bank import Bank

_PHOTO = "a photo of {}"
_FACE = "a photo of a person making a facial expression of {}"


def prompt_name(class_name: str) -> str:
    """A class name as it is read in a text: `happily_surprised` becomes 'happily surprised'."""
    return " ".join(class_name.replace("_", " ").split())


def build_hard_prompts(class_names: Sequence[str], prompt_type: int, bank: Bank | None) -> list[str]:
    """One text per class.

    Args:
      class_names: C names.
      prompt_type: 1 `a photo of [class]`, 2 `a photo of a person making a facial expression of [class]`, 3 type 2
        followed by the bank's description of the class.
      bank: read by type 3 only.

    Raises:
      ValueError: a type that does not exist, or type 3 without a bank.
      BankError: the bank lacks a class.
    """
    if prompt_type not in (1, 2, 3) or (prompt_type == 3 and bank is None):
        raise ValueError(
            f"hard prompts are of type 1, 2 or 3, and type 3 needs a bank; found type {prompt_type}, {bank}"
        )
    template = _PHOTO if prompt_type == 1 else _FACE
    texts = [template.format(prompt_name(name)) for name in class_names]
    if prompt_type == 3 and bank is not None:
        texts = [f"{text}, with {bank.description(name)}" for text, name in zip(texts, class_names, strict=True)]
    return texts
