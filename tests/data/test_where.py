"""Selection of images by their attributes."""

from pathlib import Path

import pytest

from mpafer_jax.data import where
from mpafer_jax.data.records import ImageFile, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

SEEN = [
    {"angle": "straight", "sure": "80"},
    {"angle": "half left", "sure": "9.5"},
    {"angle": "half right"},
    {},
    {"angle": "straight", "sure": "60"},
]
TRAIN = [Record(f"{i}.png", ImageFile(Path(f"{i}.png")), i % 2, attributes=seen) for i, seen in enumerate(SEEN)]
INDEX = SourceIndex(("x", "y"), {"train": TRAIN, "test": TRAIN[:2]}, dropped={"train": {"old": 1}}, dataset="mine")


@pytest.mark.parametrize(
    ("conditions", "selected"),
    [
        ((), "01234"),
        (("angle=straight",), "04"),
        (("angle=half left|half right",), "12"),
        (("sure>=60",), "04"),
        (("sure<=60",), "14"),
        (("sure >= 60", "angle = straight"), "04"),
        (("angle=straight|half left", "sure<=79"), "14"),
    ],
)
def test_select(conditions: tuple[str, ...], selected: str) -> None:
    found = where.select(INDEX, conditions)
    assert "".join(record.name[0] for record in found.splits["train"]) == selected
    assert len(found.left_out.get("train", ())) == 5 - len(selected)


def test_what_is_left_out_is_counted_by_the_first_condition_it_fails() -> None:
    found = where.select(INDEX, ("angle=straight", "sure>=70"))
    assert found.dropped == {
        "train": {"old": 1, "not angle=straight": 3, "not sure>=70": 1},
        "test": {"not angle=straight": 1},
    }
    assert [record.label for record in found.left_out["test"]] == [-1]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("angle", r"'angle' is no condition; expected NAME=VALUE"),
        ("sure>=many", r"'sure>=many' is no condition"),
        (
            "angel=straight",
            r"names an attribute that mine does not have here; did you mean angle\?; it has angle, sure",
        ),
        ("angle=strait", r"no image has the angle 'strait'; did you mean straight\?; the values are half left, half"),
        ("angle=", "is no condition"),
        ("angle>=3", "compares numbers, and the values of angle are half left"),
    ],
)
def test_conditions_that_cannot_hold_are_refused(condition: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        where.select(INDEX, (condition,))
