"""Runs on video clips: what is evaluated, resuming, predictions of a split, and folds in one table."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.data import preprocess
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.inference import Predictor
from mpafer_jax.jobs import predict, train
from tests.data import layouts
from tests.jobs import runs

EXPRESSIONS = ("anger", "happiness", "neutral", "sadness", "surprise")
CLIPS, FRAMES, SEGMENTS = 40, 5, 3
LISTS = {f"data.clips.{split}_list": f"fold_{{fold}}_{split}.txt" for split in ("train", "test")}
CHANGES = {"data.dataset": "clips", "data.clips.frames": SEGMENTS, "data.num_workers": 0, **LISTS}


@pytest.fixture(scope="module")
def clips(shared):
    """Forty clips of five drawn frames, twenty in each fold; the third has only two."""

    def write(root):
        layouts.write_drawn_clips(root, CLIPS, FRAMES, 32, EXPRESSIONS)
        for number in (1, 2, 3):
            (root / "002" / f"{number}.png").unlink()

    return shared("clips", write)


def config(sample, clips, **changes):
    return runs.config(sample, **{**CHANGES, "data.dir": str(clips), **changes})


@pytest.fixture(scope="module")
def trained(sample, clips, shared):
    """An undisturbed run that tests on the first twenty clips: (workdir, summary)."""
    baselines = ("majority", "zero_shot_type2", "zero_shot_global_local", "linear_probe", "text_context")
    changes = {"data.clips.fold": 2, "eval.report": "full", "eval.baselines": baselines}
    workdir = shared("trained_on_clips", lambda out: train.train_and_evaluate(config(sample, clips, **changes), out))
    return workdir, runs.summary(workdir)


def expected_logits(workdir, clips, names):
    """The mean over frames that are chosen and read here: of five in three segments 0, 2 and 4."""
    predictor = Predictor.from_checkpoint(workdir)
    means = []
    for name in names:
        files = [clips / name / f"{number}.png" for number in ((4, 5) if name == "002" else (1, 3, 5))]
        images = [preprocess.resize(Image.open(file), predictor.image_size) for file in files]
        pixels = np.stack([np.asarray(image) for image in images])
        means.append(predictor.logits(pixels, [name] * len(files)).mean(axis=0))
    return np.stack(means)


def test_a_clips_logits_are_the_mean_over_its_frames(trained, clips):
    workdir, summary = trained
    stored = Predictions.load(workdir / "predictions.npz")
    assert stored.names.tolist() == [f"{number:03d}" for number in range(20)]
    np.testing.assert_allclose(stored.logits, expected_logits(workdir, clips, stored.names), atol=2e-3)
    correct = stored.logits.argmax(axis=1) == stored.labels
    measured = summary["best"]["test"]
    assert measured["count"] == 20
    assert measured["war"] == pytest.approx(correct.mean())
    recalls = [correct[stored.labels == label].mean() for label in range(5)]
    assert measured["uar"] == pytest.approx(np.mean(recalls))
    assert summary["counts"]["test"] == dict.fromkeys(EXPRESSIONS, 4)
    assert sum(summary["counts"]["validation"].values()) + sum(summary["counts"]["train"].values()) == 20
    for features in (stored.features_before, stored.features_after):
        assert len(features) == 20
        np.testing.assert_allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1.0, atol=2e-3)
    # The middle frame of a clip that was taken for another expression is shown.
    size = stored.mistake_pixels.shape[1]
    name = str(stored.names[stored.mistakes[0]])
    middle = Image.open(clips / name / f"{5 if name == '002' else 3}.png")
    np.testing.assert_array_equal(stored.mistake_pixels[0], np.asarray(preprocess.resize(middle, size)))
    assert (workdir / "report.html").is_file()


def test_baselines_of_clips(trained):
    _, summary = trained
    baselines = summary["baselines"]
    assert baselines["majority"]["test"]["war"] == pytest.approx(0.2)
    for measured in baselines.values():  # of twenty clips
        assert round(20 * measured["test"]["war"], 6) == round(20 * measured["test"]["war"])


def parameters(workdir, step=12):
    return checkpoints_lib.load(pathlib.Path(workdir) / "checkpoints" / f"step_{step}", "last")[0]


def test_resuming_is_exact_to_the_bit(trained, sample, clips, tmp_path):
    workdir, summary = trained
    shutil.copytree(workdir, tmp_path / "run")
    for step in (6, 8, 10, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step}")
    (tmp_path / "run" / "summary.json").unlink()
    again = train.train_and_evaluate(config(sample, clips, **{"data.clips.fold": 2}), tmp_path / "run")
    assert again["process"]["resumed_after_step"] == 4
    for name, value in parameters(workdir).items():
        np.testing.assert_array_equal(value, parameters(tmp_path / "run")[name])
    assert again["best"] == summary["best"]
    assert runs.metrics(tmp_path / "run") == runs.metrics(workdir)


def test_predictions_of_a_split_are_of_clips(trained, sample, clips, tmp_path):
    import pyarrow.parquet

    workdir, _ = trained
    changes = {"data.clips.fold": 2, "eval.checkpoint": str(workdir), "predict.images_per_part": 7}
    predict.predict_dataset(config(sample, clips, **changes), tmp_path)
    parts = sorted((tmp_path / "predictions").glob("*.parquet"))
    assert len(parts) == 3
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(part) for part in parts]).to_pydict()
    stored = Predictions.load(workdir / "predictions.npz")
    assert table["file"] == stored.names.tolist()
    written = np.stack([table[f"p_{name}"] for name in EXPRESSIONS], axis=1)
    np.testing.assert_allclose(written, stored.probabilities, atol=1e-4)


@pytest.mark.processes
def test_folds_are_collated_in_a_table(sample, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", runs.environment()["XLA_FLAGS"])  # of the runs
    changes = {**runs.CHANGES, **CHANGES, "train.num_steps": 2, "train.num_epochs": 0.0, "optimizer.warmup_steps": 0}
    del changes["eval.report"]
    changes |= {"data.dir": str(clips), "clip.name": str(sample / "clip")}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    sweep = f"--sweep={runs.ROOT / 'configs' / 'sweeps' / 'seeds.py'}:clips"
    ended = runs.call("study sweep", sweep, "--folds=1,2", f"--workdir={tmp_path}", *flags)
    assert ended.code == 0, ended.err
    summaries = [runs.summary(tmp_path / "all" / "full" / f"fold_{fold}") for fold in (1, 2)]
    assert summaries[0]["fingerprints"]["test"] != summaries[1]["fingerprints"]["test"]
    cells = [json.loads((tmp_path / "all" / "full" / f"fold_{fold}" / "config.json").read_text()) for fold in (1, 2)]
    assert [cell["data"]["clips"]["fold"] for cell in cells] == [1, 2]
    assert [cell["seed"] for cell in cells] == [0, 0]
    row = next(line for line in ended.out.splitlines() if line.startswith("| full method"))
    for metric in ("war", "uar"):
        values = 100 * np.array([summary["best"]["test"][metric] for summary in summaries])
        assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" in row
    assert "standard deviation over folds" in ended.out
    both = runs.call("study sweep", sweep, "--folds=1,2", "--seeds=0", f"--workdir={tmp_path}", *flags)
    assert (both.code, "--folds takes the place of --seeds" in both.err) == (2, True)
    seeds = runs.call("study sweep", sweep, "--seeds=0", f"--workdir={tmp_path}", *flags)
    assert seeds.code == 2
    assert "holds a sweep over other runs: there folds, here seeds" in seeds.err
