import numpy as np
import pytest

from mpafer_jax.expressions import CANONICAL_NAMES, canonical_name, map_classes


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
    with pytest.raises(ValueError, match="'happy' and 'joy' are the same expression, 'happiness'"):
        map_classes(["sad"], ["happy", "joy"])
