"""Runs a sweep, on this machine or as an array of Slurm jobs."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Sequence

from absl import logging

from mpafer_jax.artifacts import run_dir
from mpafer_jax.jobs.sweeps import collect, plan, report, runner, search, slurm, sweep
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
      searches: those that chose what the points have.
      then: plans the next stage, if this is that of the trials of a search.
    """

    source: str
    root: pathlib.Path
    sweep: sweep.Sweep
    overrides: Sequence[str]
    left: Sequence[plan.Run]
    searches: Sequence[search.Searched] = ()
    then: Callable[[], Plan] | None = None

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
        trials: int | None = None,
    ) -> Plan:
        """Reads the sweep and finds its unfinished runs, or those of its trials as long as there are any.

        Args:
          source, root, overrides: see the attributes.
          seeds: of the runs; empty: the sweep's.
          folds: of the runs, in place of seeds: numbers for `data.clips.fold`.
          only: points or tables to run; empty: all.
          trials: of the search before the runs; 0 for none, None for the sweep's number.

        Raises:
          ConfigError: both are given, or see `sweep.load`, `plan.plan` and `plan.has_ended`.
          ReportError: see `search.read`.
        """
        found = sweep.load(source)
        if folds and seeds:
            raise ConfigError("--folds takes the place of --seeds: a run is one or the other; give one of them")
        found = dataclasses.replace(found, trials=found.trials if trials is None else trials)
        if folds:
            found = dataclasses.replace(found, over="folds", seeds=tuple(folds))
        found.check_seeds(seeds)
        runs = plan.plan(found, overrides, seeds or found.seeds, only)
        searches: list[search.Searched] = []
        if names := {point.name for point in found.searched} & {run.point.name for run in runs}:
            folder, made = root / search.FOLDER, search.trials(found, overrides)
            of_trials = search.of_trials(found, overrides)
            tried = plan.plan(made, of_trials, made.seeds, sorted(names))
            left = [
                run
                for run in tried
                if not plan.has_ended(run, folder / run.name) and not run_dir.has_diverged(folder / run.name)
            ]
            if left:
                logging.info("search: %d trials, %d of them have ended before", len(tried), len(tried) - len(left))

                def then() -> Plan:
                    return cls.make(source, root, overrides, seeds=seeds, folds=folds, only=only, trials=trials)

                return cls(source, folder, made, of_trials, left, then=then)
            searches = search.read(found, made, of_trials, folder)
            found = search.settled(found, searches, overrides)
            runs = plan.plan(found, overrides, seeds or found.seeds, only)
        left = [run for run in runs if not plan.has_ended(run, root / run.name)]
        logging.info("%d runs, %d of them have ended before", len(runs), len(runs) - len(left))
        return cls(source, root, found, overrides, left, searches)

    def commands(self) -> list[str]:
        """Commands of the unfinished runs, quoted for a shell."""
        return [shlex.join([*runner.MAIN, *run.command(self.root)]) for run in self.left]

    def run(
        self,
        *,
        jobs: int = 1,
        retries: int = 1,
        gpus: Sequence[str] = (),
        together: int = 1,
        others: Sequence[pathlib.Path] = (),
    ) -> tuple[report.Report, list[runner.Failure]]:
        """Runs the unfinished runs on this machine, and what is planned after them, and updates the tables after each.

        Args:
          jobs, retries, gpus, together: see `runner.run_all`.
          others: folders of sweeps from which equal finished runs are copied.

        Returns:
          The tables, and the failed runs.

        Raises:
          LockedError: another process holds the folder.
          ConfigError: the folder holds another sweep, or finished runs of other settings; before any run is started.
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
        if self.then is None:
            return whole, failures
        # A trial that diverged counts as made.
        failures = [failure for failure in failures if not run_dir.has_diverged(self.root / failure.run.name)]
        if failures:
            return whole, failures
        return self.then().run(jobs=jobs, retries=retries, gpus=gpus, together=together, others=others)

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
          ConfigError: as `run`; or sbatch is missing or fails, or a run is already queued.
          LockedError, ReportError: as `run`.
        """
        if dry_run:
            return slurm.queue(self.left, self.root, jobs, options, dry_run=True)
        with locks.hold(self.root / locks.RUN, self.root):
            return slurm.queue(self._begin(others), self.root, jobs, options, dry_run=False)

    def _begin(self, others: Sequence[pathlib.Path]) -> list[plan.Run]:
        """Writes the sweep's record and searches, copies equal runs of others, and returns the remaining ones."""
        record = sweep.Record(self.source, plan.recorded(self.overrides), self.sweep)
        record.check(self.root)
        self._check_finished()
        record.write(self.root)
        if self.searches:
            search.write(self.sweep, self.searches, self.root)
        left: list[plan.Run] = []
        for run in self.left:
            found = None if (self.root / run.name).exists() else plan.find_equal(run, others)
            if found is None:
                left.append(run)
            else:
                plan.take(found, self.root / run.name)
                logging.info("%s: taken from %s", run.name, found)
        return left

    def _check_finished(self) -> None:
        """Refuses finished runs that could not stand in one table, with each other or with those that are left.

        `make` has compared the planned runs. Others of their points, of other seeds, may have been made with other
        settings, which the table after the first run would refuse.
        """
        finished = collect.read_runs(self.root, self.sweep)
        collect.results(self.sweep, finished, self.root)
        left, names = {run.point.key for run in self.left}, {run.name for run in finished}
        for run in plan.plan(self.sweep, self.overrides, sorted({run.seed for run in finished})):
            if run.point.key in left and run.name in names:
                plan.has_ended(run, self.root / run.name)
