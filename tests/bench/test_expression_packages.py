"""How the answers of other packages are counted, by hand."""

import sys

import numpy as np
import pytest

from mpafer_jax.runtime.errors import DataError
from tests.bench import expression_packages as packages
from tests.bench import ferplus
from tests.bench.face_finders import photographs_of
from tests.data import layouts

pytestmark = pytest.mark.bench


def test_answers_are_counted_in_the_eight_classes():
    labels = np.array([0, 0, 1, 1, 2, 4, 7, 0])
    answers = ["neutral", "sad", "happy", "Happiness", "surprised", None, "neutral", "neutral"]
    measured = packages.measure(answers, labels)
    assert measured.war == pytest.approx(5 / 8)
    assert measured.uar == pytest.approx((2 / 3 + 1 + 1 + 0 + 0) / 5)  # of the classes that occur
    assert measured.recall["neutral"] == pytest.approx(2 / 3)
    assert (measured.recall["anger"], measured.recall["contempt"], measured.recall["fear"]) == (0, 0, None)
    assert measured.confusion[4][8] == 1  # no answer
    assert measured.confusion[7][0] == 1


@pytest.mark.parametrize(
    "words",
    [
        ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),  # fer, human
        ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"),  # face-api
    ],
)
def test_the_words_of_the_packages_are_classes(words):
    labels = [ferplus.CLASS_NAMES.index(packages.canonical_name(word)) for word in words]
    assert packages.measure(words, np.array(labels)).war == 1


def test_other_answers_are_refused():
    with pytest.raises(ValueError, match="found the answers bored, expected neutral, happiness"):
        packages.measure(["bored"], np.array([0]))


def test_a_row_of_a_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, pathlib, sys\n"
        "number = len(pathlib.Path(sys.argv[1]).read_bytes()) // 48**2\n"
        "answers = ['happy', None] * (number // 2)\n"
        "result = dict(answers=answers, seconds=0.5, timed=number - 1, parameters=7, versions={'it': sys.argv[3]})\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(result))\n"
    )
    faces, labels = np.zeros((4, 48, 48), np.uint8), np.array([1, 1, 1, 0])
    result = packages.run([sys.executable, str(program)], "1.5", faces, tmp_path)
    row = packages.described(result, labels)
    assert (row["answered"], row["images_per_second"], row["war"], row["uar"]) == (2, 6, 0.5, pytest.approx(1 / 3))
    assert 0 < row["seconds"] < 60
    text = packages.render({"package": row}, 4)
    assert "| package |             50.00 |  33.33 |     0.0 |      66.7 |  " in text
    assert "- package: it 1.5; 2 images with a face, the others are mistakes.\n" in text
    with pytest.raises(packages.PackageError, match=r"ended with exit code 1:\n[^$]*FileNotFoundError"):
        packages.run([sys.executable, str(program), "missing"], "", faces, tmp_path)


def test_public_test_in_the_owners_layout(tmp_path):
    with pytest.raises(DataError, match=r"no split has both votes and images"):
        ferplus.public_test(tmp_path)
    votes = {"fer0.png": (1, 8, 0, 0, 0, 0, 0, 0, 1, 0), "fer1.png": (9, 0, 0, 1, 0, 0, 0, 0, 0, 0)}
    layouts.write_label_csv(tmp_path / "FER2013Train", votes)
    with pytest.raises(DataError, match=r"no images of PublicTest; expected .*FER2013Valid"):
        ferplus.public_test(tmp_path)
    layouts.write_label_csv(tmp_path / "FER2013Valid", votes)
    faces, labels = ferplus.public_test(tmp_path)
    assert labels.tolist() == [1, 0]
    assert (faces.shape[0], faces.ndim, faces.dtype) == (2, 3, np.uint8)


@pytest.mark.skipif(not layouts.FERPLUS.is_dir(), reason="FERPlus is not here; set MPAFER_FERPLUS_DIR")
def test_public_test_has_the_published_counts():
    faces, labels = ferplus.public_test(layouts.FERPLUS)
    assert faces.shape == (3191, 48, 48)
    assert np.bincount(labels).tolist() == [1180, 862, 411, 348, 289, 25, 60, 16]
    assert len(photographs_of(layouts.FERPLUS, 3)) == 3
