"""Published datasets, recognised by their counts, and copies of them that hold other images.

Numbers on two copies compare only if these hold the same images with the same labels. The counts of splits and classes
tell most copies apart.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data.records import SourceIndex

PROTOCOL = "protocol: "  # start of every statement
ClassCounts = Mapping[str, int]  # canonical name of a class -> images
_INCOMPARABLE = "numbers on it are not comparable with published ones"


@dataclasses.dataclass(frozen=True)
class Known:
    """A published dataset, or a copy of one.

    Attributes:
      title: of the dataset.
      parts: images by split; their total where the classes' counts are not published.
      reader: of the owners' layout; '' for a copy.
      label_rules: that give these images and labels.
      remark: how a copy differs from the owners' splits; '' for these.
    """

    title: str
    parts: Mapping[str, ClassCounts | int]
    reader: str = ""
    label_rules: tuple[str, ...] = ("owner",)
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a dataset's counts say (starts with `PROTOCOL`), and whether they are those of a published protocol."""

    text: str
    comparable: bool

    def without(self, unreadable: int) -> Statement:
        """The statement where so many of the images could not be read and are left out."""
        if not unreadable:
            return self
        consequence = f": {_INCOMPARABLE}" if self.comparable else ""
        return Statement(f"{self.text}; {unreadable:,} of the images could not be read{consequence}", False)


def _counts(classes: str, *numbers: int) -> ClassCounts:
    return dict(zip(classes.split(), numbers, strict=True))


_RAFDB = "surprise fear disgust happiness sadness anger neutral"
_FERPLUS = "neutral happiness surprise sadness anger disgust fear contempt"
_FER2013 = "anger disgust fear happiness sadness surprise neutral"
_AFFECTNET = "neutral happiness sadness surprise fear disgust anger contempt"
_AFFECTNET_TRAIN = _counts(_AFFECTNET, 74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750)
_TRAINING = _counts(_FER2013, 3995, 436, 4097, 7215, 4830, 3171, 4965)
_PUBLIC_TEST = _counts(_FER2013, 467, 56, 496, 895, 653, 415, 607)
_PRIVATE_TEST = _counts(_FER2013, 491, 55, 528, 879, 594, 416, 626)
_BOTH_TESTS = {name: count + _PRIVATE_TEST[name] for name, count in _PUBLIC_TEST.items()}

# From the owners' label files; of copies, what their users report.
KNOWN = (
    Known(
        "RAF-DB",
        {
            "train": _counts(_RAFDB, 1290, 281, 717, 4772, 1982, 705, 2524),
            "test": _counts(_RAFDB, 329, 74, 160, 1185, 478, 162, 680),
        },
        "rafdb",
    ),
    Known(
        "FERPlus",
        {
            "train": _counts(_FERPLUS, 8733, 7284, 3136, 3022, 2098, 116, 536, 120),
            "validation": _counts(_FERPLUS, 1180, 862, 411, 348, 289, 25, 60, 16),
            "test": _counts(_FERPLUS, 1083, 892, 394, 382, 269, 16, 86, 15),
        },
        "ferplus",
        ("majority_labelcsv", "majority_votes"),
    ),
    Known("FER2013", {"train": _TRAINING, "validation": _PUBLIC_TEST, "test": _PRIVATE_TEST}, "fer2013"),
    Known("AffectNet", {"train": _AFFECTNET_TRAIN, "test": _counts(_AFFECTNET, *[500] * 8)}, "affectnet"),
    Known("AffectNet", {"train": _AFFECTNET_TRAIN, "test": 3999}, "affectnet"),  # the npy release
    Known("SFEW 2.0", {"train": 958, "test": 436}, "sfew"),
    Known("FER2013", {"train": _TRAINING, "test": _BOTH_TESTS}, remark="with PublicTest and PrivateTest as one test"),
    Known("FER2013", {"train": 28821, "validation": 7066}, remark="split otherwise than by its owners"),
    Known("FERPlus", {"train": 66379, "validation": 8341, "test": 3579}, remark="an augmented copy"),
    Known("AffectNet", {"train": 17101, "validation": 5406, "test": 2755}, remark="a reduced copy, split otherwise"),
    Known("AffectNet", {"train": 29042}, remark="a reduced copy"),
)


def recognize(index: SourceIndex) -> Statement | None:
    """Compares a dataset's counts with `KNOWN`; None if they say nothing.

    A dataset in its owners' layout should have their counts, of the classes as its reader calls them. Others, as class
    folders, are compared with all of `KNOWN`, whatever their splits are called. Of a choice of classes, these are
    compared, and of a choice of images by config.data.where all that it chose from.
    """
    if index.whole is not None:
        whole = recognize(index.whole)
        left = ", ".join(f"{split} {len(records):,}" for split, records in index.splits.items())
        return whole and dataclasses.replace(whole, text=f"{whole.text}; of these data.where leaves {left}")
    owners = [known for known in KNOWN if known.reader == index.dataset]
    names = (index.reader_names if owners else ()) or index.class_names
    found: dict[str, ClassCounts] = {}
    for split, records in ((split, records) for split, records in index.splits.items() if records):
        counts = collections.Counter(record.label for record in records)
        found[split] = {canonical_name(name): counts[label] for label, name in enumerate(names)}
    if owners:
        statements = [_of_owners(known, found) for known in owners if index.label_rule in known.label_rules]
        recognized = next((s for s in statements if s and s.comparable), None)
        return recognized or (statements[0] if statements and None not in statements else None)
    return next(filter(None, (say(known, found) for say in (_of_copy, _of_renamed, _of_part) for known in KNOWN)), None)


def _of_owners(known: Known, found: Mapping[str, ClassCounts]) -> Statement | None:
    """Whether a dataset in its owners' layout is complete; None if that cannot be judged."""
    judged = {split: counts for split, counts in found.items() if split in known.parts}
    other = [split for split, counts in judged.items() if not _equal(counts, known.parts[split])]
    if judged and not other:
        return Statement(f"{PROTOCOL}{known.title}, its owners' splits ({_sizes(known, judged)})", True)
    if not any(isinstance(known.parts[split], Mapping) for split in other):
        return None
    owners = ", ".join(f"{split} {_total(_chosen(known.parts[split], found[split])):,}" for split in judged)
    return Statement(
        f"{PROTOCOL}not the owners' splits of {known.title} ({owners}) but {_sizes(known, judged)}: an augmented or "
        f"reduced copy; {_INCOMPARABLE}",
        False,
    )


def _of_copy(known: Known, found: Mapping[str, ClassCounts]) -> Statement | None:
    """A dataset of which every split is one of a known dataset."""
    parts = _parts(known, found)
    if parts.keys() != found.keys() or not (_telling(known, found, parts) or set(parts.values()) == set(known.parts)):
        return None
    sizes = _sizes(known, found, parts)
    if known.remark:
        return Statement(f"{PROTOCOL}{known.title}, {known.remark} ({sizes}): {_INCOMPARABLE}", False)
    return Statement(f"{PROTOCOL}{known.title}, its owners' splits ({sizes})", True)


def _of_renamed(known: Known, found: Mapping[str, ClassCounts]) -> Statement | None:
    """A dataset with the counts of a known one, all different, under other names of classes."""
    for split, counts in found.items():
        for name, part in known.parts.items():
            if isinstance(part, int) or counts == part or sorted(part.values()) != sorted(counts.values()):
                continue
            if len({*part.values()}) < len(part):  # as AffectNet's test, 500 of each: anybody's
                continue
            pairs = {own: next(n for n, number in part.items() if number == count) for own, count in counts.items()}
            listed = ", ".join(f"{own!r} has as many images as its {n}" for own, n in pairs.items() if own != n)
            return Statement(
                f"{PROTOCOL}{split} has the counts of the {name} split of {known.title}, in other classes: {listed}; "
                "the classes' names or their order are wrong",
                False,
            )
    return None


def _of_part(known: Known, found: Mapping[str, ClassCounts]) -> Statement | None:
    """A dataset of which some splits are those of a known one, and others are not."""
    parts = _parts(known, found)
    if known.remark or not _telling(known, found, parts):
        return None
    same = " and ".join(f"{split} is the {part} split of {known.title}" for split, part in parts.items())
    others = {split: counts for split, counts in found.items() if split not in parts}
    return Statement(
        f"{PROTOCOL}{same}, but {_sizes(known, others)} is none of its splits: an augmented or reduced copy; "
        f"{_INCOMPARABLE}",
        False,
    )


def _parts(known: Known, found: Mapping[str, ClassCounts]) -> dict[str, str]:
    """Split -> the part of a known dataset with the same counts, where there is one."""
    equal = ((split, name) for split in found for name, part in known.parts.items() if _equal(found[split], part))
    return dict(equal)


def _telling(known: Known, found: Mapping[str, ClassCounts], parts: Mapping[str, str]) -> bool:
    """Whether equal counts are no chance: those of a part's classes, and not as many of each."""
    by_class = [found[split] for split, part in parts.items() if isinstance(known.parts[part], Mapping)]
    return any(len({*counts.values()}) > 1 for counts in by_class)


def _equal(counts: ClassCounts, part: ClassCounts | int) -> bool:
    return _total(counts) == part if isinstance(part, int) else counts == _chosen(part, counts)


def _chosen(part: ClassCounts | int, counts: ClassCounts) -> ClassCounts | int:
    """The part's counts of the classes that `counts` has."""
    return part if isinstance(part, int) else {name: part.get(name, 0) for name in counts}


def _total(part: ClassCounts | int) -> int:
    return part if isinstance(part, int) else sum(part.values())


def _sizes(known: Known, found: Mapping[str, ClassCounts], parts: Mapping[str, str] | None = None) -> str:
    """'train 12,271, validation 3,068 = its test; 7 of its 8 classes'."""
    names = parts or {}
    sizes = [f"{s} {_total(c):,}" + (f" = its {names[s]}" if names.get(s, s) != s else "") for s, c in found.items()]
    classes = max((len(part) for part in known.parts.values() if isinstance(part, Mapping)), default=0)
    own = max(len(counts) for counts in found.values())
    return ", ".join(sizes) + (f"; {own} of its {classes} classes" if own < classes else "")
