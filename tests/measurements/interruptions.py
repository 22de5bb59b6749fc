"""Interrupts commands at random moments and counts how they end.

    python -m tests.measurements.interruptions --out=FOLDER [--tries=20] [--jobs=2] [--only=train,predict] [--seed=0]

Each command is run once undisturbed, which says how long it takes. Then it is started again and again, in a terminal
of its own (a pseudo-terminal), whose whole foreground group gets SIGINT at a moment that is drawn uniformly over that
time, as Ctrl-C sends it. Counted are the exit codes, ends by a signal (crashes), tracebacks on the terminal, processes
that are still there 5 s after the end, tries that ended before the signal, and seconds from the signal to the end. Then
the same command is given again without a signal, in the same folder: it has to end with 0, and where it has numbers
with those of the undisturbed one. Prints a table, and writes every try to FOLDER/interruptions.jsonl.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import sys
import threading
import time

from absl import app, flags

from tests.jobs import runs

_OUT = flags.DEFINE_string("out", None, "Folder for everything.", required=True)
_TRIES = flags.DEFINE_integer("tries", 20, "Interruptions of each command.")
_RESUMED = flags.DEFINE_integer("resumed", 20, "How many of them are gone on with.")
_JOBS = flags.DEFINE_integer("jobs", 2, "Tries at once.")
_ONLY = flags.DEFINE_list("only", [], "Commands; none: all.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_TIMEOUT = flags.DEFINE_integer("timeout", 300, "Seconds that a command may take.")
_TINY = (
    *("configs/folder.py:tiny_clip", "train.num_steps=12", "train.log_every=3", "train.eval_every=6"),
    *("train.checkpoint_every=3", "train.batch_size=4", "eval.batch_size=4", "eval.report=none"),
    "optimizer.warmup_steps=2",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, and what of its folder has to be the same however often it was stopped."""

    arguments: tuple[str, ...]
    numbers: str = ""  # pattern of files


def config(*words, data):
    return [f"--config={words[0]}", f"--config.data.dir={data}", *(f"--config.{word}" for word in words[1:])]


def commands(root):
    """The commands; {} is the folder of a try."""
    data, run = root / "sample" / "faces", root / "trained"
    main = ["-m", "mpafer_jax.main", *config(*_TINY, data=data)]
    sweep = ["launch/sweep.py", f"--sweep={root / 'sweep.py'}", "--workdir={}/sweep", *config(*_TINY, data=data)[1:]]
    predict = ["-m", "mpafer_jax.predict", str(run), *[str(data)] * 30, "--out={}/out.csv"]
    pretrain = (
        *("train.num_steps=6", "train.checkpoint_every=2", "train.log_every=2", "train.eval_every=6"),
        *("train.batch_size=8", "data.images=80", "data.held_out=16", "optimizer.warmup_steps=1"),
        "loss.attributes_alone_steps=2",
    )
    return {
        "train": Command((*main, "--workdir={}/run"), "run/metrics.jsonl"),
        "eval": Command((*main, "--mode=eval", "--workdir={}/eval", f"--config.eval.checkpoint={run}")),
        "predict": Command(tuple(predict), "out.csv"),
        "predict-faces": Command((*predict, "--faces=detect"), "out.csv"),
        "sweep": Command(tuple(sweep), "sweep/all/one/seed_1/metrics.jsonl"),
        "prepare": Command((*main, "--mode=eval", "--workdir={}/eval", f"--config.eval.checkpoint={run}",
                            "--config.data.prepared_dir={}/prepared")),
        "pretrain": Command(
            ("-m", "mpafer_jax.cli", "clip", "pretrain", "--config=configs/pretrain_tiny_clip.py", "--workdir={}/clip",
             *(f"--config.{word}" for word in pretrain)), "clip/metrics.jsonl"),
    }  # fmt: skip


def write_inputs(root):
    """A few drawn faces, a sweep of two runs, and a trained run."""
    if not (root / "sample").exists():
        counts = ("--train_per_class=4", "--test_per_class=2")
        code, text, *_ = in_terminal(
            ["-m", "mpafer_jax.cli", "data", "sample", f"--out={root / 'sample'}", *counts], None
        )
        if code:
            sys.exit(text)
    (root / "sweep.py").write_text(
        "from mpafer_jax.jobs.sweeps.sweep import Point, Sweep\n\n\n"
        "def get_sweep(argument=''):\n"
        f"    return Sweep('two runs', {_TINY[0]!r}, (Point('one', 'one'),), baseline='one', seeds=(0, 1))\n"
    )
    if not (root / "trained" / "summary.json").exists():
        arguments = [
            "-m",
            "mpafer_jax.main",
            *config(*_TINY, data=root / "sample" / "faces"),
            f"--workdir={root / 'trained'}",
        ]
        code, text, *_ = in_terminal(arguments, None)
        if code:
            sys.exit(text)


def group_of(session):
    """Processes of a terminal's session that still run."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def in_terminal(arguments, moment):
    """Runs a command in a terminal; Ctrl-C after `moment` seconds, None for never.

    Returns:
      exit code, what the terminal showed, seconds, seconds from Ctrl-C to the end (None if it came too late), processes
      that are left.
    """
    started = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background ignores
        os.chdir(runs.ROOT)
        os.execvpe(sys.executable, [sys.executable, *arguments], runs.environment(PYTHONPATH=str(runs.ROOT)))
    shown = bytearray()

    def read():
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # nobody has it open any more
                return
            if not part:
                return
            shown.extend(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    pressed = status = None
    while status is None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        status = None
        now = time.monotonic()
        if moment is not None and pressed is None and now - started >= moment:
            pressed = now
            os.write(terminal, b"\x03")  # the terminal makes SIGINT of it, for the whole foreground group
        if now - started > (moment or 0) + _TIMEOUT.value:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    ended = time.monotonic()
    left = group_of(pid)
    while left and time.monotonic() - ended < 5:
        time.sleep(0.1)
        left = group_of(pid)
    for process in left:
        os.kill(process, signal.SIGKILL)
    reader.join(5)
    os.close(terminal)
    after = None if pressed is None else ended - pressed
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace"), ended - started, after, len(left)


def numbers(command, folder):
    """What has to be equal, without what differs from run to run."""
    if not command.numbers:
        return None
    text = (folder / command.numbers).read_text().replace(str(folder), "")
    # Of predictions to five digits: what is missing is computed in batches of other sizes.
    return (
        re.sub(r"\d\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.5f}", text) if "csv" in command.numbers else text
    )


def attempt(name, command, folder, moment, expected, resumes):
    folder.mkdir(parents=True)
    arguments = [argument.replace("{}", str(folder)) for argument in command.arguments]
    code, text, _, after, left = in_terminal(arguments, moment)
    found = {
        "command": name,
        "moment": moment,
        "code": code,
        "in_time": after is not None,
        "seconds_to_end": after,
        "left": left,
        "traceback": "Traceback (most recent call last)" in text or "KeyboardInterrupt" in text,
        "last_line": text.strip().splitlines()[-1] if text.strip() else "",
        "there": sorted(path.name for path in folder.rglob("*") if path.is_file())[:20],
    }
    if resumes:
        again, text, *_ = in_terminal(arguments, None)
        found |= {"again": again, "same": again == 0 and numbers(command, folder) == expected}
        if again:
            found["again_said"] = text[-2000:]
    if code >= 0 and not found["traceback"] and found.get("same", True):
        shutil.rmtree(folder)
    return found


def main(_):
    root = pathlib.Path(_OUT.value).resolve()
    root.mkdir(parents=True, exist_ok=True)
    write_inputs(root)
    moments = random.Random(_SEED.value)
    everything = commands(root)
    print("| command | tries | in time | exit codes | crashes | tracebacks | processes left | median, longest s to end "
          "| went on | same numbers |\n|---|---:|---:|---|---:|---:|---:|---|---:|---:|", flush=True)  # fmt: skip
    for name in _ONLY.value or everything:
        command = everything[name]
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        whole = folder / "whole"
        whole.mkdir(parents=True)
        arguments = [argument.replace("{}", str(whole)) for argument in command.arguments]
        code, text, seconds, *_ = in_terminal(arguments, None)
        if code:
            print(f"{name}: failed undisturbed with exit code {code}:\n{text[-2000:]}", flush=True)
            continue
        expected = numbers(command, whole)
        times = [moments.uniform(0, seconds) for _ in range(_TRIES.value)]
        with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
            tries = [
                pool.submit(attempt, name, command, folder / str(number), at, expected, number < _RESUMED.value)
                for number, at in enumerate(times)
            ]
            found = [one.result() for one in tries]
        with (root / "interruptions.jsonl").open("a") as file:
            for one in found:
                print(json.dumps(one), file=file)
        codes = collections.Counter(one["code"] for one in found)
        ends = sorted(one["seconds_to_end"] for one in found if one["in_time"])
        resumed = [one for one in found if "again" in one]
        cells = [
            name,
            len(found),
            len(ends),
            ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())),
            sum(one["code"] < 0 for one in found),
            sum(one["traceback"] for one in found),
            sum(one["left"] for one in found),
            f"{ends[len(ends) // 2]:.2f}, {ends[-1]:.2f}" if ends else "",
            f"{sum(one['again'] == 0 for one in resumed)} of {len(resumed)}",
            f"{sum(one['same'] for one in resumed)} of {len(resumed)}" if command.numbers else "",
        ]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    app.run(main)
