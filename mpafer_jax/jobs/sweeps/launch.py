"""Runs a sweep, on this machine or as an array of Slurm jobs."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import logging

from mpafer_jax.jobs.sweeps import plan, report, runner, slurm, sweep
from mpafer_jax.runtime import locks
from mpafer_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep and its unfinished runs.

    Attributes:
      source: the sweep's file and its argument.
      root: the sweep's folder.
      overrides: --config.field=value for all runs.
      left: the unfinished runs.
    """

    source: str
    root: pathlib.Path
    sweep: sweep.Sweep
    overrides: Sequence[str]
    left: Sequence[plan.Run]

    @classmethod
    def make(
        cls,
        source: str,
        root: pathlib.Path,
        overrides: Sequence[str] = (),
        *,
        seeds: Sequence[int] = (),
        folds: Sequence[int] = (),
        only: Sequence[str] = (),
    ) -> Plan:
        """Reads the sweep and finds its unfinished runs.

        Args:
          source, root, overrides: see the attributes.
          seeds: of the runs; empty: the sweep's.
          folds: of the runs, in place of seeds: numbers for `data.clips.fold`.
          only: points or tables to run; empty: all.

        Raises:
          ConfigError: both are given, or see `sweep.load`, `plan.plan` and `plan.has_ended`.
        """
        found = sweep.load(source)
        if folds and seeds:
            raise ConfigError("--folds takes the place of --seeds: a run is one or the other; give one of them")
        if folds:
            found = dataclasses.replace(found, over="folds", seeds=tuple(folds))
        runs = plan.plan(found, overrides, seeds or found.seeds, only)
        left = [run for run in runs if not plan.has_ended(run, root / run.name)]
        logging.info("%d runs, %d of them have ended before", len(runs), len(runs) - len(left))
        return cls(source, root, found, overrides, left)

    def commands(self) -> list[str]:
        """Commands of the unfinished runs, quoted for a shell."""
        return [shlex.join([sys.executable, "-m", "mpafer_jax.main", *run.command(self.root)]) for run in self.left]

    def run(
        self,
        *,
        jobs: int = 1,
        retries: int = 1,
        gpus: Sequence[str] = (),
        together: int = 1,
        others: Sequence[pathlib.Path] = (),
    ) -> tuple[report.Report, list[runner.Failure]]:
        """Runs the unfinished runs on this machine and updates the tables after each.

        Args:
          jobs, retries, gpus, together: see `runner.run_all`.
          others: folders of sweeps from which equal finished runs are copied.

        Returns:
          The tables, and the failed runs.

        Raises:
          LockedError: another process holds the folder.
          ReportError: the runs cannot be compared.
          Preempted: stopped on request.
        """
        with locks.hold(self.root / locks.RUN, self.root):
            left = self._begin(others)
            failures = runner.run_all(
                left,
                self.root,
                jobs=jobs,
                retries=retries,
                gpus=gpus,
                together=together,
                after_each=lambda _: report.read(self.root).write(),
            )
            whole = report.read(self.root)
            whole.write()
        return whole, failures

    def queue(
        self, jobs: int, options: Sequence[str], others: Sequence[pathlib.Path] = (), *, dry_run: bool = False
    ) -> str:
        """Queues the runs as an array of Slurm jobs.

        Args:
          jobs: maximum number of running jobs; 0: no limit.
          options: of sbatch.
          others: as in `run`.
          dry_run: neither queue nor write anything.

        Returns:
          The command with the output of sbatch, or, in a dry run, with the arguments of the runs.

        Raises:
          ConfigError: sbatch is missing or fails, or a run is already queued.
          LockedError: another process holds the folder.
        """
        if dry_run:
            return slurm.queue(self.left, self.root, jobs, options, dry_run=True)
        with locks.hold(self.root / locks.RUN, self.root):
            return slurm.queue(self._begin(others), self.root, jobs, options, dry_run=False)

    def _begin(self, others: Sequence[pathlib.Path]) -> list[plan.Run]:
        """Writes the sweep's record, copies equal runs of others, and returns the remaining ones."""
        sweep.Record(self.source, plan.recorded(self.overrides), self.sweep).write(self.root)
        left: list[plan.Run] = []
        for run in self.left:
            found = None if (self.root / run.name).exists() else plan.find_equal(run, others)
            if found is None:
                left.append(run)
            else:
                plan.take(found, self.root / run.name)
                logging.info("%s: taken from %s", run.name, found)
        return left
