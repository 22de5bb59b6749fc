"""The questions to a language model, and the form of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import pydantic

from mpafer_jax.method.hard_prompts.templates import prompt_name

MOST_WORDS = 25
"""Asked for in every answer: about 35 of CLIP's tokens, so that a templated text fits with room to spare."""


class Message(TypedDict):
    """One turn of a conversation, as chat protocols have it."""

    role: Literal["system", "user", "assistant"]
    content: str


# The first is the question of MPA-FER (arXiv 2506.21017); the others are ours, the same for a part of the face.
QUESTIONS: dict[str, str] = {
    "holistic": "What are the most useful visual features to distinguish the facial expression of [class]?",
    **{
        region: f"What are the most useful visual features of the {parts} to distinguish the facial expression of "
        "[class]?"
        for region, parts in {
            "brows": "eyebrows and the forehead",
            "eyes": "eyes and the eyelids",
            "nose": "nose",
            "cheeks": "cheeks",
            "mouth": "mouth and the lips",
            "chin": "chin and the jaw",
        }.items()
    },
}

INSTRUCTIONS = f"""You describe faces for a model that compares photographs with texts.
Answer with JSON and nothing else, in this form:
{{"descriptions": [{{"text": "raised brows and a wrinkled forehead", "action_units": [1, 2]}}]}}
Each text
- is a noun phrase in plain lower-case English that can follow "a photo of a person making a facial expression of \
[class], with",
- has at most {MOST_WORDS} words, on one line,
- says only what a still photograph shows, and of a part that stays at rest how it looks at rest,
- does not name the expression, any other expression or an emotion.
action_units holds the numbers of the facial action units (FACS) that the text speaks of, [] if there are none."""


class Description(pydantic.BaseModel):
    """One text of an answer; not a `BankText`, which refuses unusable texts: what is wrong with them is sent back."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    action_units: tuple[int, ...]


class Answer(pydantic.BaseModel):
    """A whole answer. In its JSON schema every object is closed and every field required, as servers' strict modes want
    it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    descriptions: tuple[Description, ...]


def ask(class_name: str, granularity: str, paraphrases: int) -> tuple[Message, ...]:
    """The conversation that asks for the texts of one class in one granularity.

    Args:
      class_name: as the dataset writes it.
      granularity: a key of QUESTIONS.
      paraphrases: how many texts.
    """
    question = QUESTIONS[granularity].replace("[class]", prompt_name(class_name))
    if paraphrases == 1:
        question += " Give one description."
    else:
        question += (
            f" Give {paraphrases} descriptions of the same features, each in other words and complete in itself."
        )
    return ({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question})


def ask_again(question: Sequence[Message], answer: str, problems: Sequence[str]) -> tuple[Message, ...]:
    """The conversation that sends an unusable answer back, with what is wrong with it."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    correction = f"This cannot be used:\n{listed}\nAnswer again in full, in the same form."
    return (*question, {"role": "assistant", "content": answer}, {"role": "user", "content": correction})
