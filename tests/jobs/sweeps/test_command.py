"""`study sweep`: real runs of one step, started, failed, resumed, stopped and queued."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mpafer_jax.runtime import signals
from tests.jobs import runs

pytestmark = pytest.mark.processes

TEXT = """
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep


def get_sweep(argument):
    return Sweep(
        title="Two",
        base=argument,
        points=(
            Point("full", "full method"),
            Point("bare", "without visual prompts", {"visual_prompts.num_prompts": 0}),
        ),
        baselines=("majority",),
        seeds=(0, 5),
    )
"""


@pytest.fixture
def command(sample, tmp_path, monkeypatch):
    """Runs the command on the sample, in this process; the runs that it makes are others: flags -> how it ended."""
    monkeypatch.setenv("XLA_FLAGS", runs.environment()["XLA_FLAGS"])  # of the runs
    (tmp_path / "two.py").write_text(TEXT)
    changes = {**runs.CHANGES, **runs.SHORT, "data.train_per_class": 4}
    del changes["eval.report"]
    changes |= {"data.dir": str(sample / "faces"), "clip.name": str(sample / "clip")}

    def arguments(*flags, workdir="sweep", steps=1):
        values = {**changes, "train.num_steps": steps}
        return [
            f"--sweep={tmp_path / 'two.py'}:configs/sample.py",
            f"--workdir={tmp_path / workdir}",
            *(f"--config.{name}={value}" for name, value in values.items()),
            *flags,
        ]

    def call(*flags, **options):
        return runs.call("study sweep", *arguments(*flags, **options))

    call.arguments = arguments
    return call


def test_runs_of_one_shape_are_trained_together(command, tmp_path):
    done = command("--together=2")
    assert done.code == 0, done.err
    for point in ("full", "bare"):
        folders = [tmp_path / "sweep" / "all" / point / f"seed_{seed}" for seed in (0, 5)]
        assert [runs.summary(folder)["seed"] for folder in folders] == [0, 5]
        assert "2 runs are trained together" in (folders[0] / "log.txt").read_text()
        assert f"log in {folders[0] / 'log.txt'}" in (folders[1] / "log.txt").read_text()
    assert "4 runs, 4 of them have ended before" in command().err


def test_within_a_job_of_several_tasks_a_run_is_one_process(command, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    for flags in (["--together=2"], ["--seeds=6"]):
        done = command("--only=full", "--retries=0", *flags)
        assert done.code == 0, done.err
        assert "one by one" not in done.err
    assert "--distributed=off" in command("--dry_run", "--seeds=7").out
    assert "--distributed" not in command("--slurm", "--dry_run", "--seeds=7").out


def test_runs_fail_are_resumed_and_reused(command, sample, tmp_path):
    root = tmp_path / "sweep"
    dry = command("--dry_run")
    assert dry.code == 0, dry.err
    assert len(dry.out.splitlines()) == 4
    assert f"--workdir={root}/all/bare/seed_5" in dry.out.splitlines()[3]
    assert not root.exists()

    # A run that cannot be: its checkpoints' place is taken.
    taken = root / "all" / "bare" / "seed_0" / "checkpoints"
    taken.parent.mkdir(parents=True)
    taken.write_text("in the way")
    first = command("--seeds=0", "--retries=0", "--jobs=2")
    assert first.code == 1, first.err
    assert "failed: all/bare/seed_0: exit code " in first.err
    assert re.search(r"run 1 of 2, full method, seed 0: WAR \d+\.\d\d% on test, ", first.err)
    assert "| full method             |    1 |" in first.out
    assert "| without visual prompts  |    0 |" in first.out
    assert "| majority class of train |    1 |" in first.out
    full = root / "all" / "full" / "seed_0"
    assert (full / "predictions.npz").is_file()
    assert not (full / "report.html").exists()
    stored = runs.summary(full)

    taken.unlink()
    second = command("--seeds=0")
    assert second.code == 0, second.err
    assert "2 runs, 1 of them have ended before" in second.err
    assert runs.summary(full) == stored
    text = (root / "results.md").read_text()
    assert second.out == text + "\n"
    cells = [line for line in text.splitlines() if line.startswith("| without visual prompts")]
    assert cells[0].split("|")[2].strip() == "1"
    assert "- train images: 20: " in text
    assert "--config.train.num_steps=1" in text
    assert str(sample) not in text.replace(str(sample / "clip"), "")  # where the data was changes no result

    # Another sweep takes these runs and makes none.
    other = command("--seeds=0", f"--reuse={root}", workdir="other")
    assert other.code == 0, other.err
    assert other.err.count(": taken from ") == 2
    assert other.out == text + "\n"
    queued = command("--slurm", "--seeds=0", f"--reuse={root}", workdir="queued")
    assert (queued.code, queued.out) == (0, "nothing is left to run\n"), queued.err
    assert runs.summary(tmp_path / "queued" / "all" / "full" / "seed_0") == stored

    # Another configuration has no place in this folder.
    changed = command("--seeds=0", steps=3)
    assert changed.code == 2
    assert "config.train.num_steps: there 1, here 3" in changed.err

    # A CLIP that was exchanged since is not passed off as the old one.
    exchanged = {**stored, "clip": {**stored["clip"], "hash": "another"}}
    (full / "summary.json").write_text(json.dumps(exchanged))
    mixed = command("--seeds=0")
    assert mixed.code == 2
    assert "do not have the same CLIP" in mixed.err


def test_stopped_it_goes_on(command, tmp_path):
    words = command.arguments("--seeds=0", "--only=full", steps=3000)
    arguments = [sys.executable, "-m", "mpafer_jax.cli", "study", "sweep", *words]
    with subprocess.Popen(arguments, env=runs.environment(), cwd=runs.ROOT, stderr=subprocess.PIPE, text=True) as sweep:
        metrics = tmp_path / "sweep" / "all" / "full" / "seed_0" / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while not (metrics.is_file() and metrics.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = command("--seeds=0", "--only=full", steps=3000)
        assert second.code == 2
        assert re.search(rf"sweep is in use by process {sweep.pid} on .* since .* UTC; wait until", second.err)
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == signals.EXIT_CODE, errors
    assert "stopped; the same command resumes" in errors
    assert "sweep: 1 runs" not in errors  # nothing says that they were made
    folder = tmp_path / "sweep" / "all" / "full" / "seed_0"
    assert "stopped by SIGTERM after step" in (folder / "log.txt").read_text()
    assert list((folder / "checkpoints").iterdir())
    assert not (folder / "summary.json").exists()


def stand_in(tmp_path, name, text):
    """A command of Slurm's in tmp_path/bin."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "bin" / name).chmod(0o755)


def test_what_a_job_is_still_to_make_is_not_queued_again(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    stand_in(tmp_path, "sbatch", "echo a line of this site; echo 42")
    stand_in(tmp_path, "squeue", 'echo "$*" >> "$(dirname "$0")/asked"; cat "$(dirname "$0")/waiting"')
    asked, waiting = tmp_path / "bin" / "asked", tmp_path / "bin" / "waiting"
    flags = ["--slurm", "--seeds=0"]  # tasks 0: full, 1: bare
    assert command(*flags).code == 0
    assert not asked.exists()

    waiting.write_text("1\n")
    again = command(*flags)
    assert again.code == 2
    assert "job 42 is still to make 1 of these runs (all/bare/seed_0 first)" in again.err
    assert asked.read_text() == "--jobs=42 --array --noheader --format=%K\n"
    assert command(*flags, "--only=full").code == 0  # that task has ended, without a result
    stand_in(tmp_path, "squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert command(*flags).code == 0  # forgotten, so long ago has it ended

    stand_in(tmp_path, "squeue", "echo Unable to contact slurm controller >&2; exit 1")
    unknown = command(*flags)
    assert unknown.code == 2
    assert "whether job 42 has ended is not known: squeue --jobs=42 " in unknown.err


def test_an_array_of_slurm_jobs(command, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    root = tmp_path / "sweep"
    flags = ["--slurm", "--jobs=3", "--sbatch=--gpus-per-node=1 --nodes=1", "--seeds=0"]
    dry = command(*flags, "--dry_run")
    assert dry.code == 0, dry.err
    first, _, *lines = dry.out.splitlines()
    assert first.startswith("sbatch --parsable --array=0-1%3 ")
    assert " --gpus-per-node=1 --nodes=1 launch/slurm.sbatch --arguments-from=" in first
    assert len(lines) == 2
    assert not root.exists()

    missing = command(*flags)
    assert missing.code == 2
    assert "there is no sbatch on this machine; --dry_run prints" in missing.err

    stand_in(tmp_path, "sbatch", 'echo "$JAX_COMPILATION_CACHE_DIR" "$@" > "$(dirname "$0")/called"; echo 42')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    queued = command(*flags)
    assert queued.code == 0, queued.err
    assert queued.out.splitlines()[-1] == "42"
    called = (tmp_path / "bin" / "called").read_text()
    assert called.startswith(f"{root / 'compilation_cache'} --parsable --array=0-1%3 ")
    path = called.split("--arguments-from=")[1].strip()
    # Each task's own line becomes the arguments of the main command.
    started = subprocess.run(
        ["bash", "launch/slurm.sbatch", "--dry-run", f"--arguments-from={path}"],
        env={**runs.environment(), "SLURM_ARRAY_TASK_ID": "1"},
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[0]
    assert started.startswith("srun --kill-on-bad-exit=0 python -m mpafer_jax.main '--config=configs/sample.py'")
    assert f"'--workdir={root}/all/bare/seed_0'" in started
    assert "'--config.eval.baselines=()'" in started
