import numpy as np
import pytest

from mpafer_jax.config.expressions import CANONICAL_NAMES, canonical_name, check_class_names, map_classes
from mpafer_jax.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        ("Happy", "happiness"),
        (" HAPPINESS ", "happiness"),
        ("sad", "sadness"),
        ("Surprised", "surprise"),
        ("fearful", "fear"),
        ("Angry", "anger"),
        ("Disgusted", "disgust"),
        ("no_expression", "neutral"),
        ("Deep_Thought--again", "deep thought again"),
        ("4", "4"),
        # Names that look the same: decomposed, full width, with a no-break or zero-width space, with another hyphen.
        ("de\u0301gou\u0302t", "d\u00e9go\u00fbt"),
        ("\uff2a\uff4f\uff59", "happiness"),
        ("no\u00a0expression\u200b", "neutral"),
        ("\ufeffsad", "sadness"),
        ("deep\u2011thought", "deep thought"),
        ("don\u2019t know", "don't know"),
        ("\u00c9tonn\u00c9", "\u00e9tonn\u00e9"),
    ],
)
def test_canonical_name(spelled: str, canonical: str) -> None:
    assert canonical_name(spelled) == canonical


def test_canonical_names_are_their_own_names() -> None:
    assert [canonical_name(name) for name in CANONICAL_NAMES] == list(CANONICAL_NAMES)


def test_classes_are_mapped_by_name_and_not_by_number() -> None:
    # FER_2013's numbers to RAF-DB's, as published by others: {0: 5, 1: 2, 2: 1, 3: 3, 4: 4, 5: 0, 6: 6}.
    fer2013 = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    rafdb = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    mapping = map_classes(fer2013, rafdb)
    assert mapping.dtype == np.int32
    assert mapping.tolist() == [5, 2, 1, 3, 4, 0, 6]


def test_a_class_that_the_target_lacks_is_minus_one() -> None:
    assert map_classes(["contempt", "fear"], ["fear"]).tolist() == [-1, 0]


def test_two_spellings_of_one_expression_are_an_error() -> None:
    with pytest.raises(ConfigError, match="classes happy, joy: 'happy' and 'joy' are the same class, 'happiness'"):
        map_classes(["sad"], ["happy", "joy"])


def test_checked_names_keep_their_spelling() -> None:
    assert check_class_names([" Happy", "Deep_Thought", "no  expression"], "x") == (
        "Happy",
        "Deep_Thought",
        "no expression",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", ""], "here: '' is no name of a class, in 'a', ''"),
        (["a", "_ -"], "here: '_ -' is no name of a class"),
        (["a", "\u200b"], r"here: '\\u200b' is no name of a class"),
        (["a", "b", "A"], "here: 'a' and 'A' are the same class, 'a'; classes have to differ"),
        (["\u00e9", "e\u0301"], r"here: '\\xe9' and 'e\\u0301' are the same class, '\u00e9'"),
        (["a"], "here: found 'a', expected at least 2"),
        ([], "here: found no class, expected at least 2"),
    ],
)
def test_names_that_do_not_go_together(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_class_names(names, "here", at_least=2)
