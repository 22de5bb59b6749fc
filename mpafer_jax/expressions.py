"""Names of facial expressions: one canonical name for each, and the mapping of classes between datasets by name.

Datasets number their classes in different orders (RAF-DB starts with surprise, FERPlus and AffectNet with neutral,
class folders with whatever sorts first), so classes are never matched by number, only by canonical name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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
    runs of spaces as one space: "Deep_Thought" gives "deep thought".
    """
    words = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    return _CANONICAL.get(words, words)


def map_classes(source_names: Sequence[str], target_names: Sequence[str]) -> npt.NDArray[np.int32]:
    """For each class of a source, the index of the same expression among the target's classes.

    Args:
      source_names: the source's class names, in the order of its labels.
      target_names: the target's class names, in the order of its labels.

    Returns:
      int32[len(source_names)]: `target_label = mapping[source_label]`; -1 where the target has no such class.

    Raises:
      ValueError: two names of one side mean the same expression, so that the mapping would be ambiguous.
    """
    targets = _index_by_canonical_name(target_names)
    _index_by_canonical_name(source_names)
    return np.array([targets.get(canonical_name(name), -1) for name in source_names], np.int32)


def _index_by_canonical_name(names: Sequence[str]) -> dict[str, int]:
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        canonical = canonical_name(name)
        if canonical in index:
            raise ValueError(f"classes {names[index[canonical]]!r} and {name!r} are the same expression, {canonical!r}")
        index[canonical] = position
    return index
