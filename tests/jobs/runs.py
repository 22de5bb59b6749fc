"""Short runs on the sample: its configuration, and the command in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

from configs import sample as sample_config
from mpafer_jax.config.schema import Config

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


def config(sample, **changes) -> Config:
    """The sample's configuration for a run of twelve steps; changes are named with dots, as on the command line."""
    values = sample_config.get_config()
    paths = {"data.dir": str(sample / "faces"), "clip.name": str(sample / "clip")}
    with values.unlocked():
        values.update_from_flattened_dict({**CHANGES, **paths, **changes})
    return Config.from_config_dict(values)


def command(sample, workdir, *, devices=1, mode="train", **changes) -> list[str]:
    """The same run as a command."""
    values = {**CHANGES, "data.dir": str(sample / "faces"), "clip.name": str(sample / "clip"), **changes}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return [
        sys.executable,
        "-m",
        "mpafer_jax.main",
        f"--config={ROOT / 'configs' / 'sample.py'}",
        f"--workdir={workdir}",
        f"--mode={mode}",
        *flags,
    ]


def environment(devices=1, **extra) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **extra}


def run(arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=300, check=False, **options
    )


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def summary(workdir) -> dict:
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())
