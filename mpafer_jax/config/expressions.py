"""Names of classes: one canonical name for each expression, what may stand together, and the mapping between datasets.

Datasets number their classes in different orders (RAF-DB starts with surprise, FERPlus and AffectNet with neutral,
class folders with whatever sorts first), so classes are never matched by number, only by canonical name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.texts import clean_text, without_invisible

CANONICAL_NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

# Spellings met in datasets, folder names and papers.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "neutral": ("neutrality", "no expression"),
    "happiness": ("happy", "joy", "joyful", "smile"),
    "sadness": ("sad",),
    "surprise": ("surprised",),
    "fear": ("fearful", "afraid", "scared"),
    "disgust": ("disgusted",),
    "anger": ("angry",),
    "contempt": ("contemptuous",),
}
_CANONICAL = {word: name for name, words in _SYNONYMS.items() for word in (name, *words)}


def canonical_name(name: str) -> str:
    """The canonical name of a class: "Happy", "happy" and "HAPPINESS" all give "happiness".

    A name that is no known expression (a user's own class) comes back in lower case, with hyphens, underscores and
    runs of spaces as one space: "Deep_Thought" gives "deep thought". Names that look the same give the same, however
    their letters are composed or how wide they are, and whatever invisible characters stand between them.
    """
    # Pd: every hyphen and dash.
    spaced = "".join(" " if c == "_" or unicodedata.category(c) == "Pd" else c for c in _as_seen(name))
    words = " ".join(spaced.lower().split())
    return _CANONICAL.get(words, words)


def _as_seen(name: str) -> str:
    return unicodedata.normalize("NFKC", clean_text(without_invisible(name)))


def check_class_names(names: Sequence[str], place: str, *, at_least: int = 1) -> tuple[str, ...]:
    """Class names as they are spelled, without white space around them, once each of them is a class of its own.

    Args:
      names: of one list: folders, a flag, a field.
      place: what the message calls the list.
      at_least: how many there have to be.

    Raises:
      ConfigError: a name is empty, two are the same class by `canonical_name`, or there are too few.
    """
    empty = [name for name in names if not canonical_name(name)]
    if empty:
        raise ConfigError(f"{place}: {', '.join(map(ascii, empty))} is no name of a class, in {_listed(names)}")
    spelled: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical in spelled:
            pair = (spelled[canonical], name)
            # Two that look the same are told apart by their code points.
            show = ascii if _as_seen(pair[0]) == _as_seen(pair[1]) else repr
            both = " and ".join(map(show, pair))
            raise ConfigError(f"{place}: {both} are the same class, {canonical!r}; classes have to differ")
        spelled[canonical] = name
    if len(names) < at_least:
        raise ConfigError(f"{place}: found {_listed(names)}, expected at least {at_least}")
    return tuple(" ".join(name.split()) for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no class"


def map_classes(source_names: Sequence[str], target_names: Sequence[str]) -> npt.NDArray[np.int32]:
    """For each class of a source, the index of the same expression among the target's classes.

    Args:
      source_names: the source's class names, in the order of its labels.
      target_names: the target's class names, in the order of its labels.

    Returns:
      int32[len(source_names)]: `target_label = mapping[source_label]`; -1 where the target has no such class.

    Raises:
      ConfigError: two names of one side mean the same expression, so that the mapping would be ambiguous.
    """
    for names in (target_names, source_names):
        check_class_names(names, f"classes {', '.join(names)}")
    targets = {canonical_name(name): position for position, name in enumerate(target_names)}
    return np.array([targets.get(canonical_name(name), -1) for name in source_names], np.int32)
