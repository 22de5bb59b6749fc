"""Runs a sweep as an array of Slurm jobs, one task per run, started by `launch/slurm.sbatch`."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import shlex
import subprocess
from collections.abc import Sequence

from absl import logging

from mpafer_jax.jobs.sweeps.plan import Run
from mpafer_jax.jobs.sweeps.runner import shared_environment
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

_SCRIPT = pathlib.Path("launch") / "slurm.sbatch"


def queue(runs: Sequence[Run], root: pathlib.Path, jobs: int, options: Sequence[str], *, dry_run: bool) -> str:
    """Queues the runs of a sweep in `root`; arguments, result and errors as for `launch.Plan.queue`."""
    if not runs:
        return "nothing is left to run"
    lines = "".join(f"{shlex.join(run.command(root))}\n" for run in runs)  # the main command's arguments, one line each
    # Named by its content, so that waiting tasks of an earlier array keep theirs.
    path = root / "slurm" / f"{hashlib.sha256(lines.encode()).hexdigest()[:12]}.txt"
    limit = f"%{jobs}" if jobs else ""
    command = [
        "sbatch",
        "--parsable",  # prints only the job's number
        f"--array=0-{len(runs) - 1}{limit}",
        f"--output={path.parent / '%x-%A_%a.log'}",
        *options,
        str(_SCRIPT),
        f"--arguments-from={path}",
    ]
    if dry_run:
        return f"{shlex.join(command)}\nwith {path}:\n{lines}".rstrip()
    _refuse_waiting(runs, root)
    files.write_text(path, lines)
    try:
        queued = subprocess.run(command, env=shared_environment(root), stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError("there is no sbatch on this machine; --dry_run prints what would be queued") from error
    if queued.returncode:
        raise ConfigError(f"sbatch has refused this (exit code {queued.returncode}): {shlex.join(command)}")
    _remember(queued.stdout, runs, path)
    return f"{shlex.join(command)}\n{queued.stdout.rstrip()}"


def _remember(printed: str, runs: Sequence[Run], path: pathlib.Path) -> None:
    """Records the runs of a job beside `path`, for `_refuse_waiting`.

    `printed` is the output of `sbatch --parsable`: JOB or JOB;CLUSTER, possibly after lines of the site.
    """
    match = re.search(r"^(\d+)(;\S+)?\s*\Z", printed, re.MULTILINE)
    if not match:
        logging.warning("sbatch did not name the job (%r); before it has ended, do not queue this sweep again", printed)
        return
    files.write_json(path.with_name(f"{match[1]}.json"), [run.name for run in runs])


def _refuse_waiting(runs: Sequence[Run], root: pathlib.Path) -> None:
    """Raises ConfigError if an unfinished array of this folder has one of the runs: two jobs would share a workdir."""
    names = {run.name for run in runs}
    for path in sorted((root / "slurm").glob("*.json")):
        queued: list[str] = json.loads(path.read_text(encoding="utf-8"))
        if not names & set(queued):
            continue
        waiting = sorted(names & {queued[task] for task in _unfinished(path.stem)})
        if waiting:
            raise ConfigError(
                f"job {path.stem} is still to make {len(waiting)} of these runs ({waiting[0]} first); wait until it "
                f"has ended, or end it (scancel {path.stem}), or queue others (--only, --seeds)"
            )


def _unfinished(job: str) -> list[int]:
    """Waiting or running tasks of an array according to squeue, which forgets jobs minutes after their end."""
    command = ["squeue", f"--jobs={job}", "--array", "--noheader", "--format=%K"]
    try:
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        logging.warning("there is no squeue on this machine, so whether job %s has ended is not known", job)
        return []
    if queue.returncode and "Invalid job id" not in queue.stderr:
        raise ConfigError(f"whether job {job} has ended is not known: {shlex.join(command)}: {queue.stderr.strip()}")
    return [int(task) for task in queue.stdout.split() if task.isdigit()]
