"""Texts: cleaned before they are tokenized, stored or compared, and sorted and listed for messages."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence


def clean_text(text: str) -> str:
    """Cleans a text as OpenAI's CLIP tokenizer does, without lowercasing.

    Fixes encoding errors, typographic quotes, ligatures and character widths (ftfy), unescapes HTML entities,
    normalises Unicode, and collapses white space. transformers' CLIPTokenizer does only the last two since version 5.
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):  # which ftfy and `unescape` leave as they are
        import ftfy  # here, since it takes a third of a second

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def without_invisible(text: str) -> str:
    """A text without invisible characters: zero-width spaces and joiners, soft hyphens, direction marks, variation
    selectors.
    """
    return "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")


def natural_order(text: str) -> list[str | int]:
    """Sort key that compares numbers in texts as numbers: "4-19" before "20-39"."""
    # Texts and numbers alternate, so that like is compared with like.
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def first(items: Sequence[str], number: int) -> str:
    """The first items of a list and how many more there are: "a, b, and 3 more"."""
    more = len(items) - number
    return ", ".join([*items[:number], *([f"and {more} more"] if more > 0 else [])])


def is_one_line(text: str) -> bool:
    """Whether a text has no line break, control or invisible character.

    Spaces of any width are allowed, as language models and word processors write them.
    """
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in text)
