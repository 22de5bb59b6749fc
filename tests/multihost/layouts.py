"""One run on several layouts of processes and devices, and what differs between them.

    python -m tests.multihost.layouts --out=FOLDER

trains 20 steps on 1 device, 8 devices, 2 processes x 4 and 4 processes x 2 with the same global batch, and prints how
far losses, gradient norms, prompts, frozen features and evaluations are from those of one device.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import numpy as np

from mpafer_jax.artifacts import checkpoints
from tests.jobs import runs

LAUNCHER = runs.ROOT / "launch" / "local_multihost.sh"
# SGD: an update is a multiple of the gradient, so that prompts show what the gradients were. AdamW divides by the
# gradient's size, which makes rounding of tiny gradients as large as the update.
SGD = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.002}
EVERY_STEP = {"train.log_every": 1}


@dataclasses.dataclass(frozen=True)
class Layout:
    processes: int
    devices: int  # of each process

    def __str__(self):
        devices = f"{self.devices} device" + "s" * (self.devices > 1)
        return devices if self.processes == 1 else f"{self.processes} processes x {self.devices}"


@contextlib.contextmanager
def running(layout, sample, workdir, **changes):
    """The run as a process whose standard error is a pipe; it has ended when the block has, whatever happened."""
    changes = {"data.features_dir": f"{workdir}/features", **changes}  # each layout computes its own
    with started(layout, runs.command(sample, workdir, **changes)) as process:
        yield process


@contextlib.contextmanager
def started(layout, words):
    """The same of any command."""
    command = [str(LAUNCHER), str(layout.processes), *words]
    environment = runs.environment(devices=layout.devices, JAX_LOCAL_CPU_DEVICES=str(layout.devices))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate()


def wait_for(condition, process, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process, timeout=900) -> tuple[int, str]:
    """(exit code, standard error)."""
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def run(layout, sample, workdir, **changes) -> str:
    with running(layout, sample, workdir, **changes) as process:
        code, errors = finish(process)
    assert code == 0, f"{layout}: exit code {code}\n{errors}"
    return errors


_START = """\
import os, pathlib, sys, time
from mpafer_jax.runtime import distributed
index, folder = int(os.environ["JAX_PROCESS_ID"]), pathlib.Path(sys.argv[1])
def say(*words):
    with (folder / f"said_by_{index}").open("a") as stream:
        print(index, *words, file=stream)
"""
JOIN = "distributed.start(distributed.find_cluster(os.environ))\n"


def program(text, folder) -> list[str]:
    """Runs Python statements in two processes; each knows its `index` and the `folder`, and can `say` something.

    Returns:
      The lines that they said, with their indices; those of process 0 first.
    """
    command = [str(LAUNCHER), "2", sys.executable, "-c", _START + textwrap.dedent(text), str(folder)]
    done = runs.run(command, cwd=runs.ROOT)
    assert done.returncode == 0, done.stderr
    return [line for path in sorted(folder.glob("said_by_*")) for line in path.read_text().splitlines()]


def processes_of(launcher) -> list[int]:
    """The ids of a launcher's Python processes, in the order of their start."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            flag, module = (path / "cmdline").read_bytes().split(b"\0")[1:3]
            is_run = flag == b"-m" and module in (b"mpafer_jax.main", b"mpafer_jax.cli")
        except (OSError, IndexError, ValueError):  # it ended meanwhile
            continue
        if parent == launcher and is_run:
            found.append(int(path.name))
    return sorted(found)


def signal_last(launcher, number) -> None:
    """Sends a signal to the last of a launcher's processes, and to no other."""
    os.kill(processes_of(launcher)[-1], number)


def difference(a, b) -> dict[str, float]:
    """Largest difference of two finished runs, relative where numbers have a size of their own."""
    (one, _, _), (two, _, _) = checkpoints.load(a, "last"), checkpoints.load(b, "last")
    lines = list(zip(runs.metrics(a), runs.metrics(b), strict=True))
    train = [(x, y) for x, y in lines if x["kind"] == "train"]
    found = {name: max(abs(x[name] - y[name]) / abs(x[name]) for x, y in train) for name in ("loss", "grad_norm")}
    found["prompts"] = max(float(np.abs(one[name] - two[name]).max()) for name in one)
    p, q = (np.load(next(pathlib.Path(run).glob("features/*.npz"))) for run in (a, b))
    assert p["hashes"].tolist() == q["hashes"].tolist()
    found["features"] = float(np.abs(p["features"] - q["features"]).max())
    x, y = (np.array(runs.summary(run)["last"]["test"]["confusion"]) for run in (a, b))
    found["images evaluated"] = float(abs(x.sum() - y.sum()))
    found["confusion"] = float(np.abs(x - y).max())
    return found


def main(out):
    if not (out / "sample").exists():  # by its command, which has flags of its own
        words = [f"--out={out / 'sample'}", "--train_per_class=14", "--test_per_class=5"]
        subprocess.run(
            [sys.executable, "-m", "mpafer_jax.cli", "data", "sample", *words], check=True, stdout=sys.stderr
        )
    names = None
    for layout in (Layout(1, 1), Layout(1, 8), Layout(2, 4), Layout(4, 2)):
        workdir = out / f"{layout.processes}x{layout.devices}"
        run(layout, out / "sample", workdir, **SGD, **EVERY_STEP, **{"train.num_steps": 20})
        found = difference(out / "1x1", workdir)
        if names is None:
            names = list(found)
            print(f"| layout | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
        print(f"| {layout} | {' | '.join(f'{found[name]:.1e}' for name in names)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the runs")
    main(parser.parse_args().out)
