"""Kills a run at random moments, again and again, and compares its end with that of an undisturbed one.

    python -m tests.chaos --out=FOLDER [--kills=20] [--processes=1] [--seed=0]

The run is of the quickstart's size: its CLIP, its faces, its batches; it saves every 20 of 100 steps. A kill comes at a
random moment after the first step of each start: SIGKILL in most cases, also in the middle of a save, SIGTERM in one of
four. Of several processes the signal goes to a random one, and the others end by themselves. Prints a line for each
kill: the signal, which step had been logged, where the run went on, and how many steps were lost; SIGTERM must lose
none, SIGKILL at most those between two checkpoints. At the end every parameter and every line of metrics must equal the
undisturbed run's to the bit. Ends with exit code 1 where they do not.
"""

import argparse
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.runtime import signals
from tests.jobs import runs
from tests.multihost.layouts import LAUNCHER, processes_of

_PARSER = argparse.ArgumentParser(description=__doc__)
_PARSER.add_argument("--out", type=pathlib.Path, required=True, help="folder for the two runs")
_PARSER.add_argument("--kills", type=int, default=20, help="how often to kill")
_PARSER.add_argument("--processes", type=int, default=1, help="of the run")
_PARSER.add_argument("--seed", type=int, default=0, help="of the moments and signals")
_PARSER.add_argument("--checkpoint_every", type=int, default=20, help="steps between checkpoints")
_PARSER.add_argument("--num_steps", type=int, default=100, help="steps in all")
_PARSER.add_argument("--timeout", type=int, default=900, help="seconds for a start, and for an end: nothing may hang")
_ARGUMENTS = _PARSER.parse_args() if __name__ == "__main__" else None


def command(workdir):
    changes = {
        "train.num_steps": _ARGUMENTS.num_steps,
        "train.log_every": 7,  # lines seldom fall together with checkpoints
        "train.eval_every": 2 * _ARGUMENTS.checkpoint_every,
        "train.checkpoint_every": _ARGUMENTS.checkpoint_every,
        "data.synthface.test": 200,
        "eval.baselines": "()",
        "data.prepared_dir": _ARGUMENTS.out / "prepared",
    }
    config = [f"--config={runs.ROOT / 'configs' / 'quickstart.py'}", f"--workdir={workdir}"]
    fields = [f"--config.{name}={value}" for name, value in changes.items()]
    return [str(LAUNCHER), str(_ARGUMENTS.processes), sys.executable, "-m", "mpafer_jax.main", *config, *fields]


def start(workdir):
    cache = str(_ARGUMENTS.out / "compiled")
    environment = runs.environment(JAX_COMPILATION_CACHE_DIR=cache, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    return subprocess.Popen(command(workdir), env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    try:
        _, errors = process.communicate(timeout=_ARGUMENTS.timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        sys.exit(f"hangs: no end within {_ARGUMENTS.timeout} s")
    return process.returncode, errors


def last_step(workdir):
    path = workdir / "metrics.jsonl"
    steps = re.findall(r'^\{"step": (\d+), .*\}$', path.read_text(), re.M) if path.is_file() else []
    return int(steps[-1]) if steps else 0


def lines_file(workdir):
    """Which file holds the lines: every start puts a new one there."""
    path = workdir / "metrics.jsonl"
    return path.stat().st_ino if path.is_file() else None


def kill_once(workdir, moments, before):
    """Starts the run, kills it, and returns (signal, exit code, logs), or None where it ended first."""
    earlier = lines_file(workdir)
    process = start(workdir)
    begun = time.monotonic()
    # Lines that a killed start wrote after its checkpoint lie there until the next one takes the file over.
    while process.poll() is None and (lines_file(workdir) == earlier or last_step(workdir) <= before):
        if time.monotonic() - begun > _ARGUMENTS.timeout:
            process.terminate()
            sys.exit(f"hangs: no step within {_ARGUMENTS.timeout} s")
        time.sleep(0.01)
    deadline = time.monotonic() + moments.expovariate(1 / 2.0)  # seconds: some steps, some saves
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    number = moments.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
    victims = processes_of(process.pid)
    if process.poll() is not None or not victims:
        code, errors = finish(process)
        return None, code, errors
    os.kill(moments.choice(victims), number)
    code, errors = finish(process)
    return number, code, errors


def main():
    out, moments = _ARGUMENTS.out, random.Random(_ARGUMENTS.seed)
    undisturbed, disturbed = out / "undisturbed", out / f"killed-{_ARGUMENTS.seed}"
    code, errors = finish(start(undisturbed))
    if code:
        sys.exit(f"the undisturbed run failed with exit code {code}:\n{errors}")
    kills, ends, worst, before = 0, 0, 0, 0
    while kills < _ARGUMENTS.kills:
        number, code, errors = kill_once(disturbed, moments, before)
        resumed = re.search(r"resuming after step (\d+)", errors)
        reached = last_step(disturbed)
        if number is None:
            if code:
                sys.exit(f"failed by itself with exit code {code}:\n{errors}")
            # A finished run is begun anew, so that every kill hits one that trains.
            check_equal(undisturbed, disturbed)
            ends += 1
            disturbed = out / f"killed-{_ARGUMENTS.seed}-{ends}"
            before = 0
            print(f"ended undisturbed and equal; going on in {disturbed.name}", flush=True)
            continue
        kills += 1
        stopped = re.search(r"stopped by SIGTERM after step (\d+)", errors)
        saved = newest(disturbed)
        lost = max(0, reached - saved)
        worst = max(worst, lost)
        print(
            f"kill {kills}: {signal.Signals(number).name}, exit code {code}, begun at step "
            f"{resumed[1] if resumed else 0}, logged {reached}, saved {saved}, lost {lost}",
            flush=True,
        )
        if number == signal.SIGTERM and code == signals.EXIT_CODE and stopped and int(stopped[1]) != saved:
            sys.exit(f"SIGTERM after step {stopped[1]}, but the newest checkpoint is of step {saved}")
        if number == signal.SIGKILL and code == 0:
            sys.exit("a killed run ended with exit code 0")
        if lost > _ARGUMENTS.checkpoint_every:
            sys.exit(f"{lost} steps were lost, more than the {_ARGUMENTS.checkpoint_every} between checkpoints")
        before = saved
    code, errors = finish(start(disturbed))
    if code:
        sys.exit(f"the last start failed with exit code {code}:\n{errors}")
    check_equal(undisturbed, disturbed)
    print(f"{kills} kills, at most {worst} steps lost; the end equals the undisturbed run's to the bit")


def newest(workdir):
    steps = [path.name.removeprefix("step_") for path in (workdir / "checkpoints").glob("step_*")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def check_equal(one, two):
    (a, _, step), (b, _, other) = checkpoints.load(one, "last"), checkpoints.load(two, "last")
    assert step == other == _ARGUMENTS.num_steps, (step, other)
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name])
    assert runs.metrics(one) == runs.metrics(two)


if __name__ == "__main__":
    main()
