"""SIGTERM where no training step runs: every process ends with the code that says "again", and again is enough."""

import signal
import sys

import pyarrow.parquet as pq
import pytest

from mpafer_jax.runtime import signals
from tests.jobs import runs
from tests.multihost import layouts
from tests.multihost.layouts import Layout, wait_for

pytestmark = pytest.mark.processes

LAYOUTS = (Layout(1, 1), Layout(2, 1))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """So many images that there is time to be stopped."""
    from mpafer_jax.jobs.sample import write_sample

    out = tmp_path_factory.mktemp("many") / "sample"
    write_sample(out, train_per_class=10, test_per_class=400, seed=0)
    return out


@pytest.fixture(scope="module")
def trained(many, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    layouts.run(Layout(1, 1), many, workdir, **{"train.num_steps": 1, "optimizer.warmup_steps": 0})
    return workdir


def stop_at(text, process):
    """Sends SIGTERM to the launcher's last process when the run says this; returns (exit code, standard error)."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            break
    else:
        raise AssertionError("".join(lines))
    layouts.signal_last(process.pid, signal.SIGTERM)
    code, errors = layouts.finish(process)
    return code, "".join(lines) + errors


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_evaluations_end_between_two_batches(many, trained, tmp_path, layout):
    changes = {"eval.checkpoint": str(trained), "eval.batch_size": 2}
    with layouts.running(layout, many, tmp_path / "eval", mode="eval", **changes) as process:
        code, errors = stop_at("hard prompt of", process)
    assert code == signals.EXIT_CODE, errors
    assert errors.count("stopped by SIGTERM while no step was running") == layout.processes
    assert not (tmp_path / "eval" / "evaluation.json").exists()

    training = {"train.num_steps": 2, "train.eval_every": 2, "optimizer.warmup_steps": 0, "eval.batch_size": 2}
    with layouts.running(layout, many, tmp_path / "train", **training) as process:
        code, errors = stop_at("validation after step 2", process)
    assert code == signals.EXIT_CODE, errors
    assert not (tmp_path / "train" / "summary.json").exists()
    layouts.run(layout, many, tmp_path / "train", **training)
    assert runs.summary(tmp_path / "train")["last"]["test"]["count"] == 2000


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_training_does_not_wait_for_its_evaluation(many, tmp_path, layout):
    """Two thousand images, one by one: the step is saved without, and the run that resumes begins with them."""
    training = {"train.num_steps": 4, "train.eval_every": 2, "train.log_every": 2, "optimizer.warmup_steps": 0}
    training |= {"data.validation_fraction": 0.0, "eval.select_on_test_split": True, "loss.gamma": 0.0}
    lines = tmp_path / "metrics.jsonl"
    with layouts.running(layout, many, tmp_path, **{**training, "eval.batch_size": layout.processes}) as process:
        wait_for(lambda: lines.is_file() and '"step": 2,' in lines.read_text(), process)
        layouts.signal_last(process.pid, signal.SIGTERM)
        code, errors = layouts.finish(process)
    assert code == signals.EXIT_CODE, errors
    assert "stopped by SIGTERM after step 2 of 4" in errors
    assert [(line["step"], line["kind"]) for line in runs.metrics(tmp_path)] == [(2, "train")]
    layouts.run(layout, many, tmp_path, **{**training, "eval.batch_size": 200})
    logged = [(line["step"], line["kind"]) for line in runs.metrics(tmp_path)]
    assert logged == [(2, "train"), (2, "test"), (4, "train"), (4, "test")]
    measured = {line["step"]: line["war"] for line in runs.metrics(tmp_path) if line["kind"] == "test"}
    best = runs.summary(tmp_path)["best"]
    assert best["step"] == max(measured, key=lambda step: (measured[step], -step))
    assert best["test"]["war"] == measured[best["step"]]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_studies_and_features_end_between_two_batches(many, trained, tmp_path, layout):
    cli = [sys.executable, "-m", "mpafer_jax.cli"]
    matrix = ["study", "cross-dataset", f"--workdir={tmp_path}", f"--checkpoint=run={trained}", "--batch_size=2"]
    changes = {"data.features_dir": tmp_path / "cache", "eval.batch_size": 2}
    features = ["data", "features", *runs.words(many, **changes), f"--out={tmp_path}", "--split=test"]
    for words, text in ((matrix, "run on run: 2000 images"), (features, "classes: 5")):
        with layouts.started(layout, [*cli, *words]) as process:
            code, errors = stop_at(text, process)
        assert code == signals.EXIT_CODE, errors
        assert errors.count("stopped by SIGTERM") == layout.processes
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_predictions_keep_their_parts_and_go_on(many, trained, tmp_path, layout):
    changes = {"eval.checkpoint": str(trained), "eval.batch_size": 2, "predict.images_per_part": 4}
    folder = tmp_path / "predictions"
    with layouts.running(layout, many, tmp_path, mode="predict", **changes) as process:
        wait_for(lambda: len(list(folder.glob("*.parquet"))) > 2, process)
        layouts.signal_last(process.pid, signal.SIGTERM)
        code, errors = layouts.finish(process)
    assert code == signals.EXIT_CODE, errors
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 2 < len(written) < 500
    assert not list(folder.glob("*.tmp"))
    layouts.run(layout, many, tmp_path, mode="predict", **changes)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["index"] for row in rows] == list(range(2000))
