"""Stored predictions: the same numbers as the evaluation's, in order, without pickle."""

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.prompt_file import save_prompts
from mpafer_jax.data import preprocess
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import metrics, predictions
from mpafer_jax.inference import Predictor
from mpafer_jax.jobs import evaluate
from mpafer_jax.runtime import distributed
from mpafer_jax.runtime.errors import ReportError
from tests.jobs import runs


@pytest.fixture(scope="module")
def stored(finished):
    return predictions.Predictions.load(finished[0] / "predictions.npz")


def test_they_are_the_evaluations(finished, stored, sample):
    summary = finished[1]
    expected = summary["best"]["test"]
    found = metrics.from_logits(stored.logits, stored.labels, stored.class_names)
    assert found.confusion == expected["confusion"]
    assert found.cross_entropy == pytest.approx(expected["cross_entropy"], rel=1e-5)
    assert (stored.split, stored.step) == ("test", summary["best"]["step"])
    test = load_dataset(runs.config(sample).data).test
    assert stored.names.tolist() == test.names.tolist()
    np.testing.assert_array_equal(stored.labels, test.labels)


def test_features_are_of_both_towers(stored):
    assert stored.features_before.shape == stored.features_after.shape == (25, 64)
    assert stored.mapped.tolist() == list(range(25))
    for features in (stored.features_before, stored.features_after):
        np.testing.assert_allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1.0, atol=2e-3)
    assert np.abs(stored.features_before - stored.features_after).max() > 0.01


def test_mistakes_are_the_most_confident_ones_with_their_images(finished, stored, sample):
    wrong = np.flatnonzero(stored.logits.argmax(axis=1) != stored.labels)
    confidence = stored.probabilities.max(axis=1)
    expected = wrong[np.argsort(-confidence[wrong], kind="stable")][: predictions.MAX_MISTAKES]
    assert len(expected) > 3
    assert stored.mistakes.tolist() == expected.tolist()
    split = load_dataset(runs.config(sample).data).test
    size = stored.mistake_pixels.shape[1]
    for row, position in enumerate(stored.mistakes[:3]):
        seen = preprocess.resize(preprocess.decode_rgb(split.source[int(position)]), size)
        np.testing.assert_array_equal(stored.mistake_pixels[row], np.asarray(seen))
    predictor = Predictor.from_checkpoint(finished[0])
    for position, scores in zip(stored.mistakes, stored.mistake_patch_scores, strict=True):
        (found,) = predictor.stream([preprocess.decode_rgb(split.source[int(position)])])
        np.testing.assert_allclose(scores, found.patch_scores, atol=1e-4)
    spread = np.ptp(stored.mistake_patch_scores, axis=0).max(axis=0)
    assert np.all(spread > 1e-2)  # another image's scores would show


def test_mistakes_of_a_model_that_reads_grey_images_are_grey(finished, sample, tmp_path):
    params, description, step = checkpoints.load(finished[0], "best")
    changed = description.model_dump(mode="json")
    changed["config"]["data"]["grayscale"] = True
    (tmp_path / "grey").mkdir()
    save_prompts(tmp_path / "grey", params, changed, step)
    config = runs.config(sample, **{"eval.checkpoint": str(tmp_path / "grey"), "eval.report": "full"})
    evaluate.evaluate_checkpoint(config, tmp_path)
    pixels = predictions.Predictions.load(tmp_path / "evaluation_predictions.npz").mistake_pixels
    assert len(pixels) > 3
    assert np.all(pixels == pixels[..., :1])


def test_images_of_unknown_classes_are_left_out_of_everything(finished, sample, tmp_path):
    """They come between the others, whose names, features and images stay together."""
    shutil.copytree(sample / "faces" / "test", tmp_path / "test")
    shutil.copytree(tmp_path / "test" / "surprise", tmp_path / "test" / "boredom")  # after anger
    changes = {"data.dir": str(tmp_path), "data.train_splits": (), "data.validation_fraction": 0.0}
    config = runs.config(sample, **changes, **{"eval.checkpoint": str(finished[0]), "eval.report": "full"})
    result = evaluate.evaluate_checkpoint(config, tmp_path / "evaluated")
    found = predictions.Predictions.load(tmp_path / "evaluated" / "evaluation_predictions.npz")
    known = predictions.Predictions.load(finished[0] / "predictions.npz")
    assert result["test"]["count"] == 25
    assert found.names.tolist() == known.names.tolist()
    np.testing.assert_allclose(found.logits, known.logits, atol=1e-4)
    assert found.mapped.tolist() == list(range(25))
    for one, other in ((found.features_before, known.features_before), (found.features_after, known.features_after)):
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=2e-3)
    assert found.mistakes.max() >= 5
    for row, position in enumerate(found.mistakes):
        seen = preprocess.decode_rgb((tmp_path / "test" / found.names[position]).read_bytes())
        expected = preprocess.resize(seen, found.mistake_pixels.shape[1])
        np.testing.assert_array_equal(found.mistake_pixels[row], np.asarray(expected))


def test_other_processes_than_the_first_write_nothing(finished, sample, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), "eval.report": "full"})
    assert evaluate.evaluate_checkpoint(config, tmp_path)["test"]["count"] == 25
    assert list(tmp_path.iterdir()) == []


def test_damage_and_pickle_are_refused(stored, tmp_path):
    whole = tmp_path / "whole.npz"
    stored.save(whole)
    assert predictions.Predictions.load(whole).names.tolist() == stored.names.tolist()
    data = whole.read_bytes()
    values = {field.name: getattr(stored, field.name) for field in dataclasses.fields(stored)}
    contents = {
        "cut.npz": data[: len(data) // 2],
        "text.npz": b"not an archive",
        "empty.npz": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    # Wherever it is damaged, of whatever type the error is.
    for start in range(0, len(data), max(1, len(data) // 200)):
        (tmp_path / "damaged.npz").write_bytes(data[:start] + bytes(4) + data[start + 4 :])
        with contextlib.suppress(ReportError):
            predictions.Predictions.load(tmp_path / "damaged.npz")
    np.savez(tmp_path / "other.npz", logits=stored.logits)
    np.savez(tmp_path / "pickle.npz", **{**values, "names": np.array([{"a": 1}], dtype=object)}, allow_pickle=True)
    for name in (*contents, "other.npz", "pickle.npz"):
        with pytest.raises(ReportError, match=f"{name} cannot be read: .*run the evaluation again"):
            predictions.Predictions.load(tmp_path / name)
