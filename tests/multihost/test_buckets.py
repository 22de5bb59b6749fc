"""Workdirs and datasets in buckets: real clients against servers on this machine that speak the buckets' protocols."""

import contextlib
import functools
import os
import signal
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.data import bucket, registry
from mpafer_jax.data.records import PREPARED_FOLDER
from mpafer_jax.runtime import files, signals
from mpafer_jax.runtime.errors import DataError
from tests import needs
from tests.artifacts.test_checkpoint import DESCRIPTION, save, state
from tests.jobs import runs
from tests.multihost import buckets, layouts
from tests.multihost.layouts import Layout, wait_for

pytestmark = pytest.mark.cloud

for package in ("gcsfs", "s3fs", "gcp_storage_emulator", "moto"):
    needs.installed(package, "pip install -e '.[test]'")


@pytest.fixture(scope="session")
def ports():
    """A server's port for each scheme, until the session ends: clients remember the first one that they find."""
    with contextlib.ExitStack() as servers:
        yield functools.cache(lambda scheme: servers.enter_context(buckets.serving(scheme, os.environ)))


@pytest.fixture(params=buckets.SCHEMES)
def home(request, ports, monkeypatch):
    """A URL in a bucket; this process and those it starts find the server."""
    for name, value in buckets.environment(request.param, ports(request.param)).items():
        monkeypatch.setenv(name, value)
    return f"{request.param}://bucket/home"


def at(home, name):
    return files.any_path(f"{home}/{name}", "test")


def test_files_are_written_read_and_replaced(home):
    path = at(home, "folder/a.json")
    assert files.in_bucket(path)
    assert not path.exists()
    files.write_json(path, {"a": 1})
    files.write_json(path, {"a": 2})
    assert path.is_file()
    assert path.parent.is_dir()
    assert path.read_text(encoding="utf-8") == '{\n  "a": 2\n}\n'
    with files.local_copy(path) as copy:
        assert copy.read_bytes() == path.read_bytes()
        assert not files.in_bucket(copy)
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert "2" in path.read_text()


def test_checkpoints_fall_back_from_damaged_and_unfinished_ones(home, caplog):
    workdir = at(home, "checkpoints_test")
    folder = workdir / "checkpoints"

    def opened():
        return Checkpoints(workdir, keep=3, select_by="war")

    first = opened()
    save(first, [2, 4, 6, 8, 10])
    first.close()
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_6", "step_8"]  # the newest three
    params, _, step = checkpoints.load(workdir, "last")
    assert step == 10
    np.testing.assert_array_equal(params["ctx"], state(10).params["ctx"])

    (folder / "step_10" / "commit_success.txt").unlink()  # as of a save that was killed
    assert checkpoints.load(str(workdir), "last")[2] == 8
    for path in _objects(folder / "step_8" / "opt_state"):
        path.write_bytes(path.read_bytes()[:10])
    second = opened()
    restored = second.restore_latest(state(0), DESCRIPTION)
    second.close()
    assert int(restored.step) == 6
    np.testing.assert_array_equal(restored.opt_state["trace"], state(6).opt_state["trace"])
    assert f"falling back from step 8: {folder}/step_8 cannot be read" in caplog.text
    left: list[str] = []
    for _ in range(5):  # each deletes unfinished steps; under load the emulator of Google's buckets may keep one
        opened().close()
        left = sorted(path.name for path in folder.iterdir())
        if "step_10" not in left:
            break
    assert left == ["step_6", "unreadable-step_8"]


def _objects(folder):
    for path in folder.iterdir():
        yield from _objects(path) if path.is_dir() else [path]


def put(folder, target):
    for path in folder.rglob("*"):
        if path.is_file() and PREPARED_FOLDER not in path.parts:
            (target / path.relative_to(folder)).write_bytes(path.read_bytes())


def test_a_dataset_is_copied_and_kept_up_to_date(home, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put(sample / "faces" / "test", at(home, "faces"))
    config = runs.config(sample, **{"data.dir": f"{home}/faces"}).data
    index = registry.read_source(config)
    copy = bucket.copy_of(config.dir)
    assert copy.is_relative_to(tmp_path)
    assert registry.prepared_root(config) == copy / PREPARED_FOLDER
    names = [record.name for record in index.splits["train"]]
    assert names == [f"{name}/{number:03}.png" for name in index.class_names for number in range(5)]
    images = {record.name: record.image.read() for record in index.splits["train"]}
    for name, data in images.items():
        assert data == (sample / "faces" / "test" / name).read_bytes()

    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.png")}
    at(home, "faces/anger/000.png").unlink()
    at(home, "faces/anger/900.png").write_bytes(images["anger/000.png"])
    (copy / "anger" / "001.png").write_bytes(b"half")  # as of a copying that was killed
    (copy / PREPARED_FOLDER).mkdir()
    (copy / PREPARED_FOLDER / "kept").touch()
    index = registry.read_source(config)
    assert [record.name for record in index.splits["train"]][:5] == [f"anger/{n}.png" for n in ("001", *_THREE, "900")]
    assert (copy / "anger" / "001.png").read_bytes() == images["anger/001.png"]
    assert (copy / PREPARED_FOLDER / "kept").exists()
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*.png")}
    assert len(before.items() & after.items()) == 23  # all but the three that changed were let lie
    with pytest.raises(DataError, match="nothing is stored under that name"):
        bucket.fetch(f"{home}/nothing")


_THREE = ("002", "003", "004")


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_equal_those_on_a_disk(home, sample, tmp_path, monkeypatch):
    """Training, evaluation and predictions, all in a bucket, with the dataset from there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(sample / "faces", at(home, "dataset"))
    steps = {"train.num_steps": 60, "train.eval_every": 30, "train.checkpoint_every": 20, "eval.report": "numbers"}
    workdir, two = at(home, "run"), Layout(2, 1)
    changes = {**steps, "data.dir": f"{home}/dataset", "data.features_dir": str(tmp_path / "features")}
    with layouts.running(two, sample, workdir, **changes) as process:
        wait_for(lambda: (workdir / "metrics.jsonl").is_file(), process)
        process.send_signal(signal.SIGTERM)
        code, errors = layouts.finish(process)
    assert code == signals.EXIT_CODE, errors
    errors = layouts.run(two, sample, workdir, **changes)
    assert "resuming after step" in errors
    layouts.run(two, sample, tmp_path / "disk", **steps)
    (a, _, _), (b, _, _) = checkpoints.load(workdir, "last"), checkpoints.load(tmp_path / "disk", "last")
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name])
    for name in ("metrics.jsonl", "results.md"):
        assert (workdir / name).read_text() == (tmp_path / "disk" / name).read_text()
    assert "<svg" in (workdir / "report.html").read_text()
    assert any((workdir / "tensorboard").iterdir())

    layouts.run(two, sample, workdir, mode="predict", **changes, **{"predict.images_per_part": 10})
    rows = []
    for path in sorted((workdir / "predictions").glob("test-*.parquet")):
        with path.open("rb") as stream:
            rows += pq.read_table(stream).to_pylist()
    assert [row["index"] for row in rows] == list(range(25))
    layouts.run(two, sample, tmp_path / "evaluated", mode="eval", **changes, **{"eval.checkpoint": str(workdir)})


def test_a_bucket_that_cannot_be_reached_is_one_error(sample):
    # A process of its own: clients remember the first credentials that they find.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/none",
        "AWS_CONFIG_FILE": "/none",
    }
    for mode, field in (("train", "--workdir"), ("eval", "the checkpoint")):
        command = runs.command(sample, "s3://bucket/run", mode=mode)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        expected = f"error: ConfigError: {field} is 's3://bucket/run', which cannot be reached (NoCredentialsError"
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
