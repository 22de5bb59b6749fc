"""How texts are cleaned before they are tokenized, stored or compared."""

from __future__ import annotations

import html
import unicodedata

import ftfy


def clean_text(text: str) -> str:
    """A text as CLIP was trained to read it, capitals kept: the cleaning of OpenAI's own tokenizer.

    Typographic quotes become ' and ", ligatures and characters of other widths plain letters, HTML entities and
    wrongly decoded bytes what they stand for (ftfy), composed and decomposed letters the same, and runs of white space
    one space. Of all this transformers' CLIPTokenizer, since version 5, does the last two alone.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def without_invisible(text: str) -> str:
    """A text without what shows nothing: zero-width spaces and joiners, soft hyphens, marks of direction or order."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")


def is_one_line(text: str) -> bool:
    """Whether nothing in a text but its characters is to be seen: no line break, no control or invisible character.

    Spaces of any width are allowed, which language models and word processors write for a space.
    """
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in text)
