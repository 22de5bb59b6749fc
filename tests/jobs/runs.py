"""Short runs on the sample: their configuration and their command; commands in this process and in others."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from configs import sample as sample_config
from mpafer_jax.config.schema import Config
from mpafer_jax.runtime import preemption, signals

ROOT = pathlib.Path(__file__).parents[2]
CHANGES = {
    "train.batch_size": 16,
    "train.num_steps": 12,
    "train.log_every": 3,
    "train.eval_every": 4,
    "train.checkpoint_every": 2,
    "train.keep": 20,
    "eval.batch_size": 16,
    "optimizer.warmup_steps": 2,
    "data.validation_fraction": 0.2,
    "eval.report": "none",
}
SHORT = {"train.num_steps": 1, "optimizer.warmup_steps": 0}


def config(sample, **changes) -> Config:
    """The sample's configuration for a run of twelve steps; changes are named with dots, as on the command line."""
    values = sample_config.get_config()
    paths = {"data.dir": str(sample / "faces"), "clip.name": str(sample / "clip")}
    with values.unlocked():
        values.update_from_flattened_dict({**CHANGES, **paths, **changes})
    return Config.from_config_dict(values)


def words(sample, **changes) -> list[str]:
    """The same configuration as words of a command."""
    values = {**CHANGES, "data.dir": str(sample / "faces"), "clip.name": str(sample / "clip"), **changes}
    return [
        f"--config={ROOT / 'configs' / 'sample.py'}",
        *(f"--config.{name}={value}" for name, value in values.items()),
    ]


def other_clip(sample, folder) -> pathlib.Path:
    """The sample's CLIP with another content, in a new folder."""
    shutil.copytree(sample / "clip", folder)
    with (folder / "config.json").open("a") as stream:
        stream.write("\n")
    return folder


def command(sample, workdir, *, mode="train", **changes) -> list[str]:
    """The same run as a command."""
    flags = [f"--workdir={workdir}", f"--mode={mode}"]
    return [sys.executable, "-m", "mpafer_jax.main", *words(sample, **changes), *flags]


@dataclasses.dataclass
class Done:
    """How a command ended, and what it showed."""

    code: int
    out: str
    err: str


def call(name, *words) -> Done:
    """Runs `mpafer-jax NAME WORDS` in this process, at the root of the checkout."""
    from mpafer_jax.cli.main import COMMANDS

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = COMMANDS[name]([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
    return Done(code, out.getvalue(), err.getvalue())


def environment(devices=1, **extra) -> dict[str, str]:
    """That of the tests, with so many devices."""
    count = "--xla_force_host_platform_device_count="
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(count)]
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{count}{devices}"]), **extra}


def run(arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=300, check=False, **options
    )


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def summary(workdir) -> dict:
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())


def preempted(*_):
    """In place of a pass over images: ends as it does on several processes after SIGTERM, which need a notice."""
    assert isinstance(signals.Current.run, preemption.Notice)
    raise signals.Preempted("as asked")


def stop(arguments, environment, number, condition):
    """Starts a run, sends it a signal when the condition holds, and returns (exit code, logs)."""
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 900
        while not condition():
            assert time.monotonic() < deadline
            assert process.poll() is None, "ended before it could be stopped"
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate()
        return process.returncode, errors
