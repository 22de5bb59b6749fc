"""What is done when a run fails, is stopped or ends, with a stand-in for the main command that ends as it is told."""

import os
import signal
import sys
import threading
import time

import pytest

from mpafer_jax.jobs.sweeps import plan, runner
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime import signals
from tests.jobs import runs

# Takes its next exit code from the file `codes` in its workdir; without one it runs until it is asked to stop, and then
# saves, unless there is a file `deaf`.
STAND_IN = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
names = ("CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR", "XLA_CLIENT_MEM_FRACTION", "NPROC")
print("started with", *(os.environ.get(name) for name in names))
codes = folder / "codes"
if codes.exists():
    first, *rest = codes.read_text().split()
    codes.write_text(" ".join(rest))
    sys.exit(int(first))

def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends a run at once
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(75)

if not (folder / "deaf").exists():
    signal.signal(signal.SIGTERM, save)
(folder / "waits").touch()
time.sleep(60)
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Runs a, b and c, whose exit codes stand in the files that `codes(a=...)` writes."""
    monkeypatch.chdir(runs.ROOT)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "main.py").write_text(STAND_IN)
    monkeypatch.setattr(runner, "MAIN", (sys.executable, str(tmp_path / "main.py")))
    points = tuple(Point(name, name) for name in "abc")
    return plan.plan(Sweep("", "configs/sample.py", points, baseline="a"), [], [0])


def codes(root, **by_point):
    for name, text in by_point.items():
        folder = root / "all" / name / "seed_0"
        folder.mkdir(parents=True)
        (folder / "codes").write_text(text)


def make(planned, root, jobs=1, retries=1, **options):
    ended = []
    failures = runner.run_all(
        planned, root, jobs=jobs, retries=retries, after_each=lambda run: ended.append(run.point.name), **options
    )
    return ended, {failure.run.point.name: failure.reason for failure in failures}


def left(root, name):
    return (root / "all" / name / "seed_0" / "codes").read_text().split()


def test_failures_are_tried_again_and_the_others_go_on(planned, tmp_path):
    codes(tmp_path, a="1 0", b="1 -9 0", c="0")
    ended, failures = make(planned, tmp_path)
    assert ended == ["a", "c"]
    assert list(failures) == ["b"]
    assert "exit code 247" in failures["b"]
    assert "started with None" in failures["b"]  # the end of its log
    assert left(tmp_path, "b") == ["0"]
    assert make(planned[1:2], tmp_path) == (["b"], {})


def test_a_mistake_is_not_repeated_and_a_stop_is_no_failure(planned, tmp_path):
    codes(tmp_path, a="2 0", b=f"{signals.EXIT_CODE} {signals.EXIT_CODE} 0", c="1 0")
    ended, failures = make(planned, tmp_path, retries=0)
    assert ended == ["b"]
    assert list(failures) == ["a", "c"]
    assert left(tmp_path, "a") == left(tmp_path, "c") == ["0"]


def test_what_a_group_leaves_undone_is_run_one_by_one(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_GROUP", (sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(1)"))
    codes(tmp_path, a="0", b="2", c="0")
    ended, failures = make(planned, tmp_path, together=2)
    assert (ended, list(failures)) == (["a", "c"], ["b"])
    log = (tmp_path / "all" / "a" / "seed_0" / "log.txt").read_text()
    assert log.count("--config=configs/sample.py") == 2
    assert str(tmp_path / "all" / "b" / "seed_0") in log
    assert "--config" not in (tmp_path / "all" / "c" / "seed_0" / "log.txt").read_text()  # alone from the start


def test_what_diverges_in_a_group_has_failed_and_is_not_trained_again(planned, tmp_path, monkeypatch):
    """A stand-in for a group's process: the second run diverges, the others are not trained."""
    script = "import pathlib, shlex, sys; folder = pathlib.Path(shlex.split(sys.argv[2])[0])"
    script += "; (folder / 'diverged.txt').touch(); sys.exit(1)"
    monkeypatch.setattr(runner, "_GROUP", (sys.executable, "-c", script))
    codes(tmp_path, a="0", b="0", c="0")
    ended, failures = make(planned, tmp_path, together=3)
    assert ended == ["a", "c"]
    assert list(failures) == ["b"]
    assert "numbers became infinite or NaN; its log is " in failures["b"]
    assert left(tmp_path, "b") == ["0"]


def test_jobs_have_a_gpu_each_and_share_what_was_compiled(planned, tmp_path):
    codes(tmp_path, a="0", b="0", c="0")
    ended, failures = make(planned, tmp_path, jobs=2, gpus=["4", "6"])
    assert (sorted(ended), failures) == (["a", "b", "c"], {})
    logs = [(tmp_path / "all" / name / "seed_0" / "log.txt").read_text() for name in "abc"]
    assert {line.split()[2] for line in logs} == {"4", "6"}
    assert {line.split()[3] for line in logs} == {str(tmp_path / "compilation_cache")}
    assert {line.split()[4] for line in logs} == {"None"}  # the whole memory of its GPU


@pytest.mark.parametrize(
    ("gpus", "set_before", "expected"),
    [
        (["4", "6"], {}, {("4", "0.450"), ("6", "0.450")}),
        ([], {}, {("None", "0.300")}),
        ([], {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, {("None", "None")}),
    ],
)
def test_jobs_of_one_gpu_share_its_memory(planned, tmp_path, monkeypatch, gpus, set_before, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    codes(tmp_path, a="0", b="0", c="0")
    make(planned, tmp_path, jobs=3, gpus=gpus)
    logs = [(tmp_path / "all" / name / "seed_0" / "log.txt").read_text() for name in "abc"]
    found = {(line.split()[2], line.split()[4]) for line in logs}
    assert found <= expected
    assert {memory for _, memory in found} == {memory for _, memory in expected}


@pytest.mark.parametrize(("jobs", "set_before", "expected"), [(1, {}, None), (2, {}, "3"), (2, {"NPROC": "5"}, "5")])
def test_jobs_share_the_cores(planned, tmp_path, monkeypatch, jobs, set_before, expected):
    monkeypatch.setattr(runner.workers, "usable_cores", lambda: 6)
    monkeypatch.delenv("NPROC", raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    codes(tmp_path, a="0", b="0", c="0")
    make(planned, tmp_path, jobs=jobs)
    assert (tmp_path / "all" / "a" / "seed_0" / "log.txt").read_text().split()[-1] == str(expected)


def when_it_waits(run):
    deadline = time.monotonic() + 30
    while not (run / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_asked_to_stop_it_stops_its_runs_and_starts_no_other(planned, tmp_path):
    codes(tmp_path, a="0")

    def stop():
        when_it_waits(tmp_path / "all" / "b" / "seed_0")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    started = time.monotonic()
    with pytest.raises(signals.Preempted):
        make(planned, tmp_path)
    thread.join()
    assert time.monotonic() - started < 30  # and not the minute that the stand-in would wait
    assert not (tmp_path / "all" / "c").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_asked_to_stop_while_a_table_is_made_it_lets_the_other_runs_save(planned, tmp_path):
    codes(tmp_path, a="0")
    other = tmp_path / "all" / "b" / "seed_0"

    def make_table(run):
        when_it_waits(other)
        os.kill(os.getpid(), signal.SIGTERM)
        signals.wait()
        signals.check_alone()

    with pytest.raises(signals.Preempted):
        runner.run_all(planned[:2], tmp_path, jobs=2, retries=0, after_each=make_table)
    assert (other / "saved").exists()


def test_if_no_table_can_be_made_the_rest_is_not_run(planned, tmp_path):
    codes(tmp_path, a="0", b="0", c="0")

    def refuse(run):
        raise ValueError("mixed")

    with pytest.raises(ValueError, match="mixed"):
        runner.run_all(planned, tmp_path, jobs=1, retries=0, after_each=refuse)
    assert left(tmp_path, "c") == ["0"]


def test_a_run_that_is_stopped_before_it_listens_has_not_failed(planned, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    codes(tmp_path, a="0")
    other = tmp_path / "all" / "b" / "seed_0"
    other.mkdir(parents=True)
    (other / "deaf").touch()

    def refuse(run):
        when_it_waits(other)
        raise ValueError("mixed")

    with pytest.raises(ValueError, match="mixed"):
        runner.run_all(planned[:2], tmp_path, jobs=2, retries=0, after_each=refuse)
    assert "run 2 of 2, b, seed 0: stopped after" in caplog.text
    assert "failed" not in caplog.text
