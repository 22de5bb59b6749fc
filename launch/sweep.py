"""Runs all configurations of a sweep over several seeds, and makes their table.

    python launch/sweep.py --sweep=configs/sweeps/components.py:quickstart --workdir=runs/components
    python launch/sweep.py --sweep=configs/sweeps/top_k.py:rafdb --workdir=runs/top_k --config.data.dir=/data/RAF-DB

From the root of the checkout. Every run is an ordinary one of `python -m mpafer_jax.main`, in
`<workdir>/<table>/<point>/seed_<n>`: what has ended is not made again, what was stopped goes on, what failed is tried
again, so the same command goes on wherever it stopped. `--config.field=value` changes the base of all runs. After every
run results.md, results.csv, results.tex and results.png are written anew (docs/experiments.md says how to read them).

Exit codes: 0 all runs have ended; 75 stopped in good order (SIGTERM, Ctrl-C), run again to go on; 130 ended by Ctrl-C
where no run had to save; 1 runs failed, the others have ended; 2 a mistake, which the message explains.
"""

# argparse, and not absl's flags: --config.field flags are passed on as they are.

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import argparse
import shlex
import subprocess
from collections.abc import Sequence

from absl import logging

from mpafer_jax.cli import options, usage
from mpafer_jax.jobs.sweeps import plan, report, reuse, runner, slurm, sweep
from mpafer_jax.runtime import console, files, locks, preemption
from mpafer_jax.runtime.errors import ConfigError, ReportError

_SLURM_SCRIPT = pathlib.Path("launch") / "slurm.sbatch"


def _parser() -> usage.Parser:
    parser = usage.Parser(prog="python launch/sweep.py", description=__doc__ or "")
    parser.add_argument("--sweep", required=True, help="sweep file and its argument, as above")
    parser.add_argument("--workdir", required=True, type=files.path_argument("--workdir"), help="folder of the sweep")
    parser.add_argument("--seeds", type=_integers, help="with commas between them (default: the sweep's, 0,1,2)")
    parser.add_argument("--only", type=_names, default=[], help="points or tables to run, with commas between them")
    parser.add_argument("--jobs", type=int, default=None, help="runs at once (default: 1; with --gpus one for each)")
    parser.add_argument("--gpus", type=_names, default=[], help="numbers of GPUs; a job runs on one of them")
    parser.add_argument("--retries", type=int, default=1, help="how often what failed is started again (default: 1)")
    parser.add_argument("--reuse", type=_paths, default=[], help="folders of sweeps whose equal runs to take")
    parser.add_argument("--dry_run", action="store_true", help="print the commands that are left to run, and run none")
    parser.add_argument("--slurm", action="store_true", help="queue the runs as an array of Slurm jobs")
    parser.add_argument("--sbatch", type=shlex.split, default=[], help="with --slurm: options of sbatch, as one word")
    return parser


def _integers(text: str) -> list[int]:
    return [int(value) for value in text.split(",")]


def _paths(text: str) -> list[pathlib.Path]:
    return [files.path_argument("--reuse")(name) for name in text.split(",")]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = _parser()
    arguments, overrides = parser.parse_known_args(argv)
    here = "runs on this machine, and --slurm queues them"
    options.refuse_idle(
        parser, argv, dict.fromkeys(("--gpus", "--retries"), here) if arguments.slurm else {"--sbatch": "--slurm"}
    )
    jobs = len(arguments.gpus) if arguments.gpus and arguments.jobs is None else arguments.jobs
    if jobs is not None and jobs < 1:
        parser.error(f"--jobs is {jobs}, expected 1 or more")
    with parser.console(arguments):
        return _ended(arguments, overrides, jobs)


def _ended(arguments: argparse.Namespace, overrides: list[str], jobs: int | None) -> int:
    try:
        return _run(arguments, overrides, jobs)
    except (ConfigError, ReportError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 2
    except runner.Stopped as stopped:
        logging.warning("%s (exit code %d)", stopped, preemption.EXIT_CODE)
        return preemption.EXIT_CODE


def _run(arguments: argparse.Namespace, overrides: list[str], jobs: int | None) -> int:
    root: pathlib.Path = arguments.workdir
    found = sweep.load(arguments.sweep)
    runs = plan.plan(found, overrides, arguments.seeds or found.seeds, arguments.only)
    left = [run for run in runs if not plan.has_ended(run, root / run.name)]
    logging.info("%d runs, %d of them have ended before", len(runs), len(runs) - len(left))
    if arguments.dry_run and not arguments.slurm:
        for run in left:
            print(shlex.join([sys.executable, "-m", "mpafer_jax.main", *run.command(root)]))
        return 0
    if arguments.dry_run:
        return _queue(left, root, jobs or 0, arguments.sbatch, dry_run=True)
    with locks.hold(root / locks.RUN, root):
        sweep.Record(arguments.sweep, plan.recorded(overrides), found).write(root)
        left = _reuse(left, root, arguments.reuse)
        if arguments.slurm:
            return _queue(left, root, jobs or 0, arguments.sbatch, dry_run=False)
        failures = runner.run_all(
            left,
            root,
            jobs=jobs or 1,
            retries=arguments.retries,
            gpus=arguments.gpus,
            after_each=lambda _: report.read(root).write(),
        )
        whole = report.read(root)
        whole.write()
    console.markdown(whole.text("markdown"))
    logging.info("the same as files: %s", ", ".join(str(root / name) for name in report.FORMATS.values()))
    for failure in failures:
        logging.error("failed: %s: %s", failure.run.name, failure.reason)
    return 1 if failures else 0


def _reuse(runs: list[plan.Run], root: pathlib.Path, others: list[pathlib.Path]) -> list[plan.Run]:
    left: list[plan.Run] = []
    for run in runs:
        found = None if (root / run.name).exists() else reuse.find(run, others)
        if found is None:
            left.append(run)
        else:
            reuse.take(found, root / run.name)
            logging.info("%s: taken from %s", run.name, found)
    return left


def _queue(runs: list[plan.Run], root: pathlib.Path, jobs: int, options: list[str], *, dry_run: bool) -> int:
    if not runs:
        print("nothing is left to run")
        return 0
    path, lines = slurm.arguments(runs, root)
    command = slurm.sbatch_command(_SLURM_SCRIPT, path, len(runs), jobs, options)
    if dry_run:
        print(f"{shlex.join(command)}\nwith {path}:\n{lines}", end="")
        return 0
    slurm.refuse_waiting(runs, root)
    files.write_text(path, lines)
    print(shlex.join(command))
    try:
        queued = subprocess.run(
            command, env=runner.shared_environment(root), stdout=subprocess.PIPE, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError("there is no sbatch on this machine; --dry_run prints what would be queued") from error
    print(queued.stdout, end="")
    if queued.returncode == 0:
        slurm.remember(queued.stdout, runs, path)
    return queued.returncode


if __name__ == "__main__":
    with preemption.ending():
        sys.exit(main())
