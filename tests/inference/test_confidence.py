"""How sure predictions are: a temperature, abstaining, unlike images; from every place where a model lies."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.confidence import FILE
from mpafer_jax.cli.export import export
from mpafer_jax.cli.predict import predict
from mpafer_jax.data.preprocess import resize
from mpafer_jax.inference import Predictor, media
from mpafer_jax.jobs import evaluate
from mpafer_jax.runtime.errors import CheckpointError
from tests.inference.test_command import run
from tests.jobs import runs


@pytest.fixture(scope="module")
def step(trained):
    return checkpoints.load(trained, "best")[2]


@pytest.fixture(scope="module")
def calibrated(trained):
    return Predictor.from_checkpoint(trained, batch_sizes=(1, 8), calibrated=True)


@pytest.fixture
def older(trained, step, tmp_path):
    """The run as an earlier version left it: without a confidence."""
    workdir = shutil.copytree(trained, tmp_path / "older")
    (checkpoints.folder(workdir, step) / FILE).unlink()
    return workdir


def test_every_place_of_a_checkpoint_has_the_same(trained, step, sample, finished, calibrated, tmp_path):
    assert export([str(trained), "--to=prompts", f"--out={tmp_path / 'exported'}"]) == 0
    assert f"/ {calibrated.temperature:.4g}): temperature" in (tmp_path / "exported" / "README.md").read_text()
    moved = shutil.copytree(checkpoints.folder(trained, step), tmp_path / f"step_{step}")
    expected = finished[1]["confidence"]
    for place in (trained, trained / "checkpoints", checkpoints.folder(trained, step), moved, tmp_path / "exported"):
        found = Predictor.from_checkpoint(place, clip=str(sample / "clip"), calibrated=True)
        assert found.temperature == expected["temperature"]
        assert found.confidence.unlike_distance == expected["unlike_distance"]
        np.testing.assert_array_equal(found.confidence.whitening, calibrated.confidence.whitening)
        assert f"calibrated: temperature {found.temperature:.2f}, fitted on 15 validation images" in repr(found)


def test_probabilities_and_distances(predictor, calibrated, faces):
    before, after = predictor.predict(faces[3]), calibrated.predict(faces[3])
    np.testing.assert_array_equal(before.logits, after.logits)
    np.testing.assert_allclose(before.probabilities, jax.nn.softmax(before.logits), rtol=1e-5)
    np.testing.assert_allclose(after.probabilities, jax.nn.softmax(after.logits / calibrated.temperature), rtol=1e-5)
    assert (before.temperature, after.temperature) == (None, calibrated.temperature)
    assert str(after).endswith("% (calibrated)")

    pixels = np.asarray(resize(Image.open(faces[3]).convert("RGB"), predictor.image_size))[None]
    prompts = predictor.forward.image_prompts(predictor.params)
    _, outputs = predictor.forward.classify(prompts, predictor.frozen, pixels, predictor.text_features)
    away = np.asarray(outputs["patch_features"], np.float64).mean(axis=(0, 1)) - predictor.confidence.mean
    whitening = predictor.confidence.whitening.astype(np.float64)
    distance = np.sqrt(away @ whitening @ whitening @ away)  # symmetric: its square is the inverse covariance
    assert before.unlike == pytest.approx(distance / predictor.confidence.unlike_distance, rel=1e-3)
    assert after.unlike == before.unlike
    assert after.to_dict()["unlike"] == after.unlike


def test_abstaining(predictor, faces):
    sure = [prediction.confidence for prediction in predictor.predict_batch(faces)]
    middle = float(np.median(sure))
    for prediction, confidence in zip(predictor.stream(faces, min_confidence=middle), sure, strict=True):
        assert prediction.certain == (confidence >= middle)
        assert prediction.to_dict()["status"] == ("ok" if prediction.certain else "uncertain")
        assert prediction.to_dict()["expression"] in str(prediction)
        assert ("uncertain" in str(prediction)) != prediction.certain
    assert not predictor.predict(faces[0], min_confidence=1.0).certain
    with pytest.raises(ValueError, match="min_confidence is a fraction from 0 to 1, found 60"):
        predictor.predict(faces[0], min_confidence=60)


def test_the_command_counts_and_goes_on_after_an_interruption(
    trained, calibrated, faces, tmp_path, monkeypatch, capsys
):
    middle = round(float(np.median([prediction.confidence for prediction in calibrated.predict_batch(faces)])), 4)
    whole = calibrated.predict_batch(faces * 2, min_confidence=middle)
    out, options = tmp_path / "out.csv", ("--calibrated", f"--min_confidence={middle}")
    real = media.images

    def interrupted(*arguments, **settings):
        yield from real(*arguments, **settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(media, "images", interrupted)
        assert run(trained, *faces * 2, f"--out={out}", *options) == 130
    assert run(trained, *faces * 2, f"--out={out}", "--calibrated", "--min_confidence=0.9") == 2
    assert f"min_confidence there {middle}, here 0.9" in capsys.readouterr().err
    assert run(trained, *faces * 2, f"--out={out}", *options) == 0
    said = capsys.readouterr().err
    uncertain, unlike = sum(not p.certain for p in whole), sum(p.is_unlike for p in whole)
    assert 0 < uncertain < len(whole)
    assert f"{len(whole) - uncertain} predicted, {uncertain} uncertain, 0 without a face" in said
    assert (f"{unlike} of {len(whole)} images are unlike the training images" in said) == bool(unlike)
    assert f"confidences are calibrated: {calibrated.confidence}" in said
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, prediction in zip(rows, whole, strict=True):
        assert row["status"] == prediction.status
        assert row["expression"] == prediction.expression
        assert float(row["confidence"]) == pytest.approx(prediction.confidence, rel=1e-4)
        assert float(row["temperature"]) == calibrated.temperature
        assert float(row["unlike"]) == pytest.approx(prediction.unlike, rel=1e-3)
    for prediction, face in zip(whole[:2], faces, strict=False):
        assert run(trained, face, *options) == 0
        assert capsys.readouterr().out.split("\t")[1] == (prediction.expression if prediction.certain else "uncertain")


def test_images_unlike_the_training_images_are_counted(trained, faces, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "noise.png")
    out = tmp_path / "out.jsonl"
    for _ in range(2):  # a table, and one that an earlier start has begun
        assert run(trained, tmp_path / "noise.png", faces[0], f"--out={out}") == 0
        unlike = [json.loads(line)["unlike"] for line in out.read_text().splitlines()]
        assert unlike[0] > 1
        number = sum(value > 1 for value in unlike)
        assert f"{number} of 2 images are unlike the training images" in capsys.readouterr().err


def test_a_checkpoint_without_says_so_and_an_evaluation_makes_it(sample, trained, older, step, faces, capsys):
    with pytest.raises(CheckpointError, match=r"has no calibrated temperature .*mpafer-jax evaluate"):
        Predictor.from_checkpoint(older, calibrated=True)
    prediction = Predictor.from_checkpoint(older, calibrated=None).predict(faces[0])
    assert (prediction.temperature, prediction.unlike, prediction.is_unlike) == (None, None, False)
    assert run(older, faces[0]) == 0
    assert "confidences are uncalibrated, and images unlike" in capsys.readouterr().err
    assert run(older, faces[0], "--calibrated") == 2
    assert "has no calibrated temperature" in capsys.readouterr().err

    other = runs.config(sample, **{"data.validation_fraction": 0.3})  # other training images: not its own
    assert "confidence" not in evaluate.evaluate_checkpoint(other, older)
    result = evaluate.evaluate_checkpoint(runs.config(sample), older)
    assert result["confidence"] == json.loads((trained / "summary.json").read_text())["confidence"]
    one, two = (checkpoints.folder(folder, step) / FILE for folder in (trained, older))
    assert one.read_bytes() == two.read_bytes()
    assert Predictor.from_checkpoint(older, calibrated=None).temperature == result["confidence"]["temperature"]
    # On other images the stored one is measured, and nothing is fitted.
    elsewhere = evaluate.evaluate_checkpoint(other, older)["confidence"]
    assert elsewhere["temperature"] == result["confidence"]["temperature"]
    assert elsewhere["splits"]["validation"] != result["confidence"]["splits"]["validation"]


@pytest.mark.parametrize("damage", ["cut", "changed", "another's"])
def test_a_damaged_one_is_refused(older, trained, step, damage):
    path, intact = checkpoints.folder(older, step) / FILE, checkpoints.folder(trained, step) / FILE
    data = intact.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-40])
    elif damage == "changed":
        middle = data.index("temperature".encode("utf-32-le"))
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        stored = np.load(intact)
        about = {**json.loads(str(stored["about"])), "prompts": "0" * 64}
        np.savez(path, about=np.array(json.dumps(about)), mean=stored["mean"], whitening=stored["whitening"])
    with pytest.raises(CheckpointError, match=rf"{FILE} cannot be used \("):
        Predictor.from_checkpoint(older)


def test_options_that_cannot_be(trained, sample, faces, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict([str(faces[0]), "--zero_shot", f"--clip={sample / 'clip'}", "--calibrated"])
    assert "--calibrated does nothing without a checkpoint, which --zero_shot has not" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(trained, faces[0], "--min_confidence=60")
    assert "--min_confidence: min_confidence is a fraction from 0 to 1, found 60" in capsys.readouterr().err
