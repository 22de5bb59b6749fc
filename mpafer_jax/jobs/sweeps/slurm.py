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
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError


def arguments(runs: Sequence[Run], root: pathlib.Path) -> tuple[pathlib.Path, str]:
    """The file for the runs' arguments, and its content: one shell-quoted line of the main command's arguments per run.

    Named by its content, so that waiting tasks of an earlier array keep theirs.
    """
    lines = "".join(f"{shlex.join(run.command(root))}\n" for run in runs)
    return root / "slurm" / f"{hashlib.sha256(lines.encode()).hexdigest()[:12]}.txt", lines


def sbatch_command(
    script: pathlib.Path, path: pathlib.Path, number: int, jobs: int, options: Sequence[str]
) -> list[str]:
    """The command that queues the array.

    Args:
      script: launch/slurm.sbatch.
      path: the file of `arguments`.
      number: of runs.
      jobs: maximum number of running tasks; 0: no limit.
      options: of sbatch: resources, partition.
    """
    limit = f"%{jobs}" if jobs else ""
    logs = path.parent / "%x-%A_%a.log"
    return [
        "sbatch",
        "--parsable",  # prints only the job's number
        f"--array=0-{number - 1}{limit}",
        f"--output={logs}",
        *options,
        str(script),
        f"--arguments-from={path}",
    ]


def remember(printed: str, runs: Sequence[Run], path: pathlib.Path) -> None:
    """Records the runs of a job beside `path`, for `refuse_waiting`.

    Args:
      printed: output of `sbatch --parsable`: JOB or JOB;CLUSTER, possibly after lines of the site.
      runs: of the array, in order.
      path: the file of `arguments`.
    """
    match = re.search(r"^(\d+)(;\S+)?\s*\Z", printed, re.MULTILINE)
    if not match:
        logging.warning("sbatch did not name the job (%r); before it has ended, do not queue this sweep again", printed)
        return
    files.write_json(path.with_name(f"{match[1]}.json"), [run.name for run in runs])


def refuse_waiting(runs: Sequence[Run], root: pathlib.Path) -> None:
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
