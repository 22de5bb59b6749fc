"""A sweep as an array of Slurm jobs: one task for each run, each started by `launch/slurm.sbatch`."""

from __future__ import annotations

import hashlib
import pathlib
import shlex
from collections.abc import Sequence

from mpafer_jax.sweeps.plan import Run


def arguments(runs: Sequence[Run], root: pathlib.Path) -> tuple[pathlib.Path, str]:
    """The main command's arguments for every run, a line each, quoted for a shell, and the file that is to hold them.

    It is named by its content: tasks of an earlier array, which are still waiting, find theirs as it was.
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
      number: how many runs it holds.
      jobs: how many of them may run at once; 0: no limit.
      options: of sbatch: resources, partition.
    """
    limit = f"%{jobs}" if jobs else ""
    logs = path.parent / "%x-%A_%a.log"
    return [
        "sbatch",
        f"--array=0-{number - 1}{limit}",
        f"--output={logs}",
        *options,
        str(script),
        f"--arguments-from={path}",
    ]
