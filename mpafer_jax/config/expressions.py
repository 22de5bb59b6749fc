"""Class names: canonical names of expressions, checks, and the mapping between datasets.

Datasets order their classes differently (RAF-DB starts with surprise, FERPlus and AffectNet with neutral, class
folders sort by name), so classes are matched by canonical name, never by index.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.texts import clean_text, without_invisible

CANONICAL_NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

# Spellings in datasets, folder names and papers.
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
# Mistakes in the folder names of public copies; readers say when they meet one.
_MISSPELLINGS = {"suprise": "surprise", "suprised": "surprise", "disgusting": "disgust", "fearfull": "fear"}
_CANONICAL = {word: name for name, words in _SYNONYMS.items() for word in (name, *words)} | _MISSPELLINGS
# Codes of class folders and columns; too short to be read as words, so only where all classes of a dataset are codes.
_CODES = {
    "neutral": ("neu", "ne"),
    "happiness": ("hap", "ha"),
    "sadness": ("sad", "sa"),
    "surprise": ("sur", "su"),
    "fear": ("fea", "fe", "af"),
    "disgust": ("dis", "di"),
    "anger": ("ang", "an"),
    "contempt": ("con", "co"),
}
_OF_CODE = {code: name for name, codes in _CODES.items() for code in codes}
_NEAR = 0.85  # of difflib's ratio: "surprize", "neutrel" and "contemt" are near, "content" and "mad" are not


def canonical_name(name: str) -> str:
    """Canonical name of a class: "Happy", "happy" and "HAPPINESS" give "happiness".

    Other names become lower case, with hyphens, underscores and runs of spaces as one space: "Deep_Thought" gives
    "deep thought". Unicode composition, width and invisible characters make no difference.
    """
    words = _words(name)
    return _CANONICAL.get(words, words)


def _words(name: str) -> str:
    # Pd: every hyphen and dash.
    spaced = "".join(" " if c == "_" or unicodedata.category(c) == "Pd" else c for c in _as_seen(name))
    return " ".join(spaced.lower().split())


def corrected_name(name: str) -> str:
    """The expression that a known misspelling means, '' for other names: "Suprise" gives "surprise"."""
    return _MISSPELLINGS.get(_words(name), "")


def near_expression(name: str) -> str:
    """The expression that an unknown name may be a misspelling of, '' for none: "surprize" gives "surprise"."""
    words = _words(name)
    near = [] if words in _CANONICAL else difflib.get_close_matches(words, _CANONICAL, n=1, cutoff=_NEAR)
    # "danger" and "unhappy" are words of their own.
    return _CANONICAL[near[0]] if near and not words.endswith(near[0]) else ""


def names_of_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """The expressions of a dataset whose classes are all codes, such as "hap", "sur" or "AN", "DI"; else ()."""
    names = [_OF_CODE.get(code.lower(), "") for code in codes]
    return tuple(names) if len(names) > 1 and all(names) else ()


def _as_seen(name: str) -> str:
    return unicodedata.normalize("NFKC", clean_text(without_invisible(name)))


def check_class_names(names: Sequence[str], place: str, *, at_least: int = 1) -> tuple[str, ...]:
    """Checks that class names are distinct; returns them with their spelling and normalised white space.

    Args:
      names: from one list: folders, a flag, a field.
      place: name of the list in errors.
      at_least: minimum number of classes.

    Raises:
      ConfigError: a name is empty, two have the same `canonical_name`, or there are too few.
    """
    empty = [name for name in names if not canonical_name(name)]
    if empty:
        raise ConfigError(f"{place}: {', '.join(map(ascii, empty))} is no name of a class, in {_listed(names)}")
    spelled: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical in spelled:
            pair = (spelled[canonical], name)
            # Names that look the same are shown by code points.
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
    """Maps labels of a source dataset to those of a target, by canonical class names.

    Args:
      source_names, target_names: class names in the order of the labels.

    Returns:
      int32[len(source_names)]: `target_label = mapping[source_label]`; -1 if the target lacks the class.

    Raises:
      ConfigError: two names of one dataset are the same expression.
    """
    for names in (target_names, source_names):
        check_class_names(names, f"classes {', '.join(names)}")
    targets = {canonical_name(name): position for position, name in enumerate(target_names)}
    return np.array([targets.get(canonical_name(name), -1) for name in source_names], np.int32)
