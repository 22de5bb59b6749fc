"""Expands a sweep into runs: arguments of `python -m mpafer_jax.main` and the resulting configuration."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from mpafer_jax.artifacts import run_dir
from mpafer_jax.config.flags import config_file, read_config
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import CONTENT_FIELDS, unrecorded_fields
from mpafer_jax.jobs import group
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.jobs.train import check_names
from mpafer_jax.method import optim
from mpafer_jax.runtime import files, metric_writer
from mpafer_jax.runtime.errors import ConfigError

_PREFIX = "--config."
# HTML reports are off by default in sweeps; tables only need the predictions.
_REPORT = "eval.report"
_BASELINES = "eval.baselines"
# Files of a finished run that are copied; checkpoints are not.
_COPIED = (run_dir.CONFIG, "results.md", metric_writer.LINES, run_dir.TRAINING_PREDICTIONS)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      seed: its number, of a seed or a fold.
      arguments: of the main command, without --workdir.
      config: the resulting configuration.
      kind: "seed" or "fold".
    """

    point: Point
    seed: int
    arguments: tuple[str, ...]
    config: Config
    kind: str = "seed"

    @property
    def name(self) -> str:
        """Its folder, relative to the sweep's."""
        return f"{self.point.key}/{self.kind}_{self.seed}"

    def command(self, root: pathlib.Path) -> list[str]:
        """All arguments of the main command."""
        return [*self.arguments[:1], f"--workdir={root / self.name}", *self.arguments[1:]]


def parse(base: str, changes: Sequence[str]) -> Config:
    """The configuration that the main command would make of its arguments.

    Args:
      base: config file with its arguments, as for --config.
      changes: --config.field=value.
    """
    words = (change.removeprefix(_PREFIX) for change in changes)
    config = Config.from_config_dict(read_config([base, *words]))
    check_names(config)
    return config


def plan(sweep: Sweep, overrides: Sequence[str], seeds: Sequence[int], only: Sequence[str] = ()) -> list[Run]:
    """All runs, seed by seed, so that complete tables come early.

    A seed changes the initial prompts, order and augmentation of the images, prototype images, permutation of
    descriptions, few-shot subset and label noise. It does not change validation and test images (`data.split_seed`).
    A fold changes these, and nothing else.

    Args:
      overrides: --config.field=value for all runs.
      only: names of points or tables; empty: all.

    Raises:
      ConfigError: an argument or a run's configuration is wrong, or a run is shorter than its warm-up.
    """
    known = list(dict.fromkeys(name for point in sweep.points for name in (point.name, point.table)))
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"--only names {', '.join(unknown)}; the sweep has {', '.join(known)}")
    for flag, values in (("only", only), (sweep.over, seeds)):
        if len(set(values)) != len(values):
            raise ConfigError(f"--{flag} holds a value twice: {', '.join(map(str, values))}")
    if wrong := config_file(sweep.base):
        at_root = "" if pathlib.Path("configs").is_dir() else "; run this from the root of the checkout"
        raise ConfigError(f"the sweep's base, {wrong}{at_root}")
    overridden = _overridden(sweep, overrides)
    points = [point for point in sweep.points if not only or {point.name, point.table} & set(only)]
    return [_run(sweep, point, seed, overrides, overridden) for seed in seeds for point in points]


def groups(runs: Sequence[Run], root: pathlib.Path, most: int) -> list[list[Run]]:
    """Runs that can be trained together (`jobs.group`), up to `most` in a group, in the order of their first.

    They stand at the same step: others would be trained apart, and a group that was stopped goes on as it was, also
    where a run of an earlier group is left beside it.

    Args:
      root: the sweep's folder.
    """
    groups: list[list[Run]] = []
    unfilled: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        key = files.json_digest(group.shape(run.config)), _newest_step(root / run.name)
        members = unfilled.get(key, [])
        if not members or len(members) == most:
            members = unfilled[key] = []
            groups.append(members)
        members.append(run)
    return groups


def _newest_step(folder: pathlib.Path) -> int:
    """Of a run's checkpoints; 0 without any."""
    return max((run_dir.step_of(path) or 0 for path in (folder / run_dir.CHECKPOINTS).glob("*")), default=0)


def _overridden(sweep: Sweep, overrides: Sequence[str]) -> set[str]:
    for argument in overrides:
        if not argument.startswith(_PREFIX) or "=" not in argument:
            raise ConfigError(f"{argument} is no flag of this command, and no --config.field=value for all runs")
    names = {_field(argument) for argument in overrides}
    for name in sorted(names & set(sweep.run_fields)):
        raise ConfigError(f"{_PREFIX}{name} is what --{sweep.over} sets")
    for point in sweep.points:
        for name in sorted(names & point.changes.keys()):
            raise ConfigError(f"{_PREFIX}{name} is what this sweep varies (point {point.key})")
    return names


def _run(sweep: Sweep, point: Point, seed: int, overrides: Sequence[str], overridden: set[str]) -> Run:
    defaults: dict[str, Any] = {} if _REPORT in overridden else {_REPORT: "predictions"}
    if point.name != sweep.baseline or _BASELINES not in overridden:
        defaults[_BASELINES] = sweep.baselines if point.name == sweep.baseline else ()
    changes = {**defaults, **point.changes, **dict.fromkeys(sweep.run_fields, seed)}
    others = [argument for argument in overrides if _field(argument) not in changes]
    words = [*others, *arguments(changes)]
    run = Run(point, seed, (f"--config={sweep.base}", *words), parse(sweep.base, words), sweep.kind)
    _check_length(run)
    return run


def _check_length(run: Run) -> None:
    """Refuses a run shorter than its warm-up, before any is started; one counted in epochs has no length yet.

    Raises:
      ConfigError: with a note that names the point.
    """
    if num_steps := run.config.train.num_steps:
        try:
            optim.check_length(warmup_steps=run.config.optimizer.warmup_steps, num_steps=num_steps)
        except ConfigError as error:
            error.add_note(f"This is of the sweep's point {run.point.key}.")
            raise


def arguments(changes: Mapping[str, Any]) -> list[str]:
    """Changes by dotted name as --config.field=value."""
    return [f"{_PREFIX}{name}={_text(value)}" for name, value in changes.items()]


def _field(argument: str) -> str:
    return argument.removeprefix(_PREFIX).partition("=")[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def recorded(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that can change a result, sorted."""
    return tuple(sorted(argument for argument in overrides if _field(argument) not in unrecorded_fields(Config)))


def has_ended(run: Run, folder: pathlib.Path, but: Sequence[str] = ()) -> bool:
    """Whether a folder holds the result of a run, with the configured baselines.

    Args:
      but: free fields that nevertheless have to be equal.
    """
    run_dir.check(folder, run.config, but=[*run.point.changes, *but])
    path = folder / run_dir.SUMMARY
    if not path.is_file():
        return False
    run_dir.check_clip(folder, run.config.clip)
    baselines = run_dir.read_json(path)["baselines"]
    return baselines.keys() >= set(run.config.eval.baselines)


def find_equal(run: Run, others: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """The folder, in those of other sweeps, of a finished run with the same configuration."""
    for sweep_folder in others:
        for summary in sorted(sweep_folder.glob(f"*/*/{run.kind}_{run.seed}/summary.json")):
            try:
                if has_ended(run, summary.parent, but=CONTENT_FIELDS):
                    return summary.parent
            except ConfigError:
                continue
    return None


def take(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies a finished run; its summary last, since that marks the run as finished."""
    for name in (*_COPIED, run_dir.SUMMARY):
        if (source / name).is_file():
            with files.replacing(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
