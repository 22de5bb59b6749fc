"""Known datasets by their counts: owners' splits, choices of classes, copies, and classes under other names."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from mpafer_jax.data import protocols, records, where
from mpafer_jax.data.records import ImageFile, Record, SourceIndex

RAFDB, FERPLUS, FER2013, AFFECTNET = protocols.KNOWN[:4]
OWNERS = [known for known in protocols.KNOWN if known.reader]
NO_IMAGE = ImageFile(Path("none"))


def index(splits: Mapping[str, Mapping[str, int] | int], dataset: str = "folder", rule: str = "owner") -> SourceIndex:
    """So many records of each class; of a number, two classes that share it."""
    by_class = {
        s: {"happiness": c // 3, "sadness": c - c // 3} if isinstance(c, int) else dict(c) for s, c in splits.items()
    }
    names = tuple(dict.fromkeys(name for counts in by_class.values() for name in counts))
    found = {
        split: [Record("x", NO_IMAGE, names.index(name)) for name, number in counts.items() for _ in range(number)]
        for split, counts in by_class.items()
    }
    return SourceIndex(names, found, source_labels=names, dataset=dataset, label_rule=rule)


def say(*arguments, **options) -> tuple[str, bool]:
    statement = protocols.recognize(index(*arguments, **options))
    return ("", True) if statement is None else (statement.text, statement.comparable)


def counts_of(known: protocols.Known, split: str) -> dict[str, int]:
    part = known.parts[split]
    assert isinstance(part, Mapping)
    return dict(part)


@pytest.mark.parametrize(
    ("known", "rule"),
    [(k, r) for k in OWNERS for r in k.label_rules],
    ids=lambda value: getattr(value, "reader", value),
)
def test_the_owners_splits(known, rule):
    text, comparable = say(known.parts, known.reader, rule)
    assert text.startswith(f"protocol: {known.title}, its owners' splits (train ")
    assert comparable


def test_images_chosen_by_an_attribute_are_of_the_whole_dataset():
    whole = index(RAFDB.parts, "rafdb")
    splits = {
        split: [dataclasses.replace(r, attributes={"gender": ("female", "male")[at % 3 > 0]}) for at, r in enumerate(s)]
        for split, s in whole.splits.items()
    }
    statement = protocols.recognize(where.select(dataclasses.replace(whole, splits=splits), ("gender=female",)))
    assert statement == protocols.Statement(
        "protocol: RAF-DB, its owners' splits (train 12,271, test 3,068); of these data.where leaves train 4,091, "
        "test 1,023",
        True,
    )


def test_totals_are_the_published_ones():
    totals = {k.reader: [p if isinstance(p, int) else sum(p.values()) for p in k.parts.values()] for k in OWNERS[:4]}
    assert totals == {
        "rafdb": [12271, 3068],
        "ferplus": [25045, 3191, 3137],
        "fer2013": [28709, 3589, 3589],
        "affectnet": [287651, 4000],
    }


def test_class_folders_with_the_owners_images():
    train, test = counts_of(RAFDB, "train"), counts_of(RAFDB, "test")
    named = {split: {name.title(): n for name, n in c.items()} for split, c in (("train", train), ("validation", test))}
    assert say(named) == ("protocol: RAF-DB, its owners' splits (train 12,271, validation 3,068 = its test)", True)
    assert say({"train": train}) == ("protocol: RAF-DB, its owners' splits (train 12,271)", True)


def test_a_choice_of_classes():
    seven = {name: n for name, n in counts_of(AFFECTNET, "train").items() if name != "contempt"}
    text = "protocol: AffectNet, its owners' splits (train 283,901, test 3,500; 7 of its 8 classes)"
    assert say({"train": seven, "test": dict.fromkeys(seven, 500)}) == (text, True)
    assert say({"train": seven, "test": dict.fromkeys(seven, 500)}, "affectnet") == (text, True)


def test_renamed_classes_are_those_of_the_reader():
    chosen = ("contentment=happiness", "surprise", "sadness")
    text = "protocol: RAF-DB, its owners' splits (train 8,044, test 1,992; 3 of its 7 classes)"
    renamed = records.select_classes(index(RAFDB.parts, "rafdb"), chosen)
    assert renamed.class_names == ("contentment", "surprise", "sadness")
    assert protocols.recognize(renamed) == protocols.Statement(text, True)
    fewer = index({"train": {**counts_of(RAFDB, "train"), "happiness": 4771}}, "rafdb")
    assert not protocols.recognize(records.select_classes(fewer, chosen)).comparable
    # The names that numbered folders are given are what tells a copy.
    numbers = {str(number): n for number, n in enumerate(counts_of(RAFDB, "train").values(), start=1)}
    named = tuple(f"{name}={number}" for name, number in zip(counts_of(RAFDB, "train"), numbers, strict=True))
    assert protocols.recognize(records.select_classes(index({"train": numbers}), named)).comparable


def test_what_an_owners_copy_lacks():
    train, test = counts_of(RAFDB, "train"), counts_of(RAFDB, "test")
    assert say({"train": {**train, "fear": 280}, "test": test}, "rafdb") == (
        "protocol: not the owners' splits of RAF-DB (train 12,271, test 3,068) but train 12,270, test 3,068: an "
        "augmented or reduced copy; numbers on it are not comparable with published ones",
        False,
    )
    # Published with fewer faces than in the challenge's paper.
    assert say({"train": 891, "test": 431}, "sfew") == ("", True)
    # Another rule has other counts, which are not in the table.
    assert say({"train": counts_of(FERPLUS, "train")}, "ferplus", "argmax") == ("", True)


def test_releases_of_affectnet():
    train = counts_of(AFFECTNET, "train")
    test = {**counts_of(AFFECTNET, "test"), "fear": 499}
    assert say({"train": train, "test": test}, "affectnet")[1]
    few = {name: n // 10 for name, n in train.items()}
    text, comparable = say({"train": few, "test": counts_of(AFFECTNET, "test")}, "affectnet")
    assert "(train 287,651, test 4,000) but train 28,7" in text
    assert not comparable
    # Of which class the newer release lacks an image is not known.
    six = [name for name in train if name not in ("contempt", "anger")]
    chosen = {"train": {name: train[name] for name in six}, "test": {name: test[name] for name in six}}
    assert say(chosen, "affectnet") == ("", True)


@pytest.mark.parametrize("known", [k for k in protocols.KNOWN if k.remark], ids=lambda known: known.remark)
def test_copies(known):
    text, comparable = say(known.parts)
    assert text.startswith(f"protocol: {known.title}, {known.remark} (train ")
    assert text.endswith("numbers on it are not comparable with published ones")
    assert not comparable


def test_one_split_of_an_augmented_copy_gives_it_away():
    more = {name: 2 * n for name, n in counts_of(RAFDB, "train").items()}
    assert say({"train": more, "test": counts_of(RAFDB, "test")}) == (
        "protocol: test is the test split of RAF-DB, but train 24,542 is none of its splits: an augmented or reduced "
        "copy; numbers on it are not comparable with published ones",
        False,
    )


def test_numbered_folders_and_wrong_names():
    numbered = {str(i): n for i, n in enumerate(counts_of(RAFDB, "train").values(), start=1)}
    text, comparable = say({"train": numbered})
    assert "in other classes: '1' has as many images as its surprise, '2' has as many images as its fear, " in text
    assert not comparable
    named = counts_of(FER2013, "train")
    named["anger"], named["disgust"] = named["disgust"], named["anger"]
    text, _ = say({"train": named, "test": counts_of(FER2013, "test")})
    assert text.endswith(
        "in other classes: 'anger' has as many images as its disgust, 'disgust' has as many images as its anger; the "
        "classes' names or their order are wrong"
    )


def test_chance_says_nothing():
    assert say({"train": {"happy": 30, "sad": 20}}) == ("", True)
    balanced = dict.fromkeys(["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"], 500)
    assert say({"test": balanced}) == ("", True)  # AffectNet's, or anybody's
    assert say({"test": dict.fromkeys("abcdefgh", 500)}) == ("", True)  # nor are these its classes, misnamed
    assert say({"train": 958}) == ("", True)
    assert say({"train": 4772}) == ("", True)
