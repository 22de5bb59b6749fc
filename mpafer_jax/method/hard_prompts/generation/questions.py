"""Questions to a language model, and the schema of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import pydantic

from mpafer_jax.method.hard_prompts.templates import prompt_name

MOST_WORDS = 25
"""Limit stated in the instructions: about 35 CLIP tokens, so that a templated text fits easily."""


class Message(TypedDict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


# The first is MPA-FER's (arXiv 2506.21017); ours ask the same for a region.
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


# Docstrings of these two classes are part of the JSON schema that is sent and hashed.
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
    """Messages that ask for texts of a class at a granularity, a key of `QUESTIONS`."""
    question = QUESTIONS[granularity].replace("[class]", prompt_name(class_name))
    if paraphrases == 1:
        question += " Give one description."
    else:
        question += (
            f" Give {paraphrases} descriptions of the same features, each in other words and complete in itself."
        )
    return ({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question})


def ask_again(question: Sequence[Message], answer: str, problems: Sequence[str]) -> tuple[Message, ...]:
    """Messages that send an invalid answer back with its problems."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    correction = f"This cannot be used:\n{listed}\nAnswer again in full, in the same form."
    return (*question, {"role": "assistant", "content": answer}, {"role": "user", "content": correction})
