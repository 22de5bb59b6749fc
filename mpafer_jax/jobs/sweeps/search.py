"""Hyper-parameter search before a sweep's runs: the same number of trials for each method, chosen on validation.

A sweep whose points have a `space` is run in two stages. First their trials, which are a sweep of their own in the
folder `trials`: a table for each point, a row for each trial, one seed. The first trial has the point's own values, the
others are drawn at random (`config.search_space`); all can be shorter than the runs (`Sweep.trial_length`). No trial
reads a test image (`eval.measure_test`). Then the sweep itself: each point with the values of its best trial on
validation (`eval.select_by`), over seeds that no trial had.

Random search, by NumPy: with a few trials, optimizers that learn from earlier ones gain little and have to wait for
them, whereas these can all run at once. It needs no package and no state besides the runs: trials are drawn again, each
by itself, whenever the sweep is resumed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mpafer_jax.artifacts import run_dir
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config.search_space import draw
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.jobs.sweeps import collect, plan
from mpafer_jax.jobs.sweeps.collect import FinishedRun
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime import files, metric_writer
from mpafer_jax.runtime.errors import ReportError

FOLDER = "trials"  # in the sweep's
MARKDOWN, JSON = "search.md", "search.json"
_LENGTH = ("train.num_steps", "train.num_epochs")  # one of them is 0
_ON_VALIDATION = {"eval.measure_test": False}


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A trial.

    Attributes:
      values: of the searched fields, by dotted name.
      run: None if its numbers became infinite or NaN.
      score: `eval.select_by` on validation at its best checkpoint, a fraction of 1; without a run below all others.
    """

    number: int
    values: Mapping[str, Any]
    run: FinishedRun | None
    score: float


@dataclasses.dataclass(frozen=True, eq=False)
class Searched:
    """The search for one point of a sweep.

    Attributes:
      point: of the sweep.
      trials: by number.
      best: the one with the highest score, of ties the first.
      command: makes the best one again.
    """

    point: Point
    trials: Sequence[Trial]
    best: Trial
    command: str


def trials(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    """The trials of a sweep, as a sweep.

    Args:
      overrides: --config.field=value for all runs.
    """
    points = [
        Point(
            f"trial_{number:02}",
            _title(point, values if number else {}),
            {**point.changes, **values, **_length(sweep, own), **_ON_VALIDATION},
            point.name,
        )
        for point in sweep.searched
        for own in [_configured(sweep, point, overrides)]
        for number in range(sweep.trials)
        for values in [_values(sweep, point, number, own)]
    ]
    headings = {point.name: point.title for point in sweep.searched}
    seeds = (sweep.search_seed,)
    return Sweep(f"{sweep.title}: trials", sweep.base, tuple(points), "trial_00", tables=headings, seeds=seeds)


def of_trials(sweep: Sweep, overrides: Sequence[str]) -> list[str]:
    """The overrides that are left for the trials: their points have the length of a run already."""
    given = tuple(f"--config.{name}=" for name in _LENGTH)
    return [override for override in overrides if sweep.trial_length == 1 or not override.startswith(given)]


def _configured(sweep: Sweep, point: Point, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a point, by dotted name."""
    return flatten(plan.parse(sweep.base, [*overrides, *plan.arguments(point.changes)]).model_dump())


def _length(sweep: Sweep, own: Mapping[str, Any]) -> dict[str, float]:
    """The length of a point's trials, if it is not that of its runs; `own` is the point's configuration."""
    if sweep.trial_length == 1:
        return {}
    steps, epochs = (sweep.trial_length * own[name] for name in _LENGTH)
    return dict(zip(_LENGTH, (max(1, round(steps)) if steps else 0, epochs), strict=True))


def _values(sweep: Sweep, point: Point, number: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """The searched fields of a trial of a point: its own values in the first trial, drawn ones in the others."""
    defaults = {name: own[name] for name in point.space}
    return {**defaults, **draw(point.space, defaults, seed=sweep.search_seed, method=point.name, trial=number)}


def _title(point: Point, drawn: Mapping[str, Any]) -> str:
    values = ", ".join(f"{_short(name)} {value}" for name, value in drawn.items())
    return f"{point.title}, {values or 'defaults'}"


def _short(field: str) -> str:
    return field.rpartition(".")[2]


def read(sweep: Sweep, made: Sweep, overrides: Sequence[str], folder: pathlib.Path) -> list[Searched]:
    """The searches that have ended.

    Args:
      made: the sweep's trials, as `trials` gives them.
      overrides: as `of_trials` gives them.
      folder: of the trials.

    Raises:
      ReportError: trials cannot be compared (`collect.results`), or those of a point have all diverged.
    """
    finished = [run for run in collect.read_runs(folder, made) if run.seed == sweep.search_seed]
    collect.results(made, finished, folder)
    by_key = {run.key: run for run in finished}
    of_seed = f"{made.kind}_{sweep.search_seed}"
    ended = {*by_key, *(row.key for row in made.points if run_dir.has_diverged(folder / row.key / of_seed))}
    found: list[Searched] = []
    for point in sweep.searched:
        rows = made.rows(point.name)
        if not ended.issuperset(row.key for row in rows):
            continue
        tried = [_trial(number, row, point, by_key.get(row.key)) for number, row in enumerate(rows)]
        best = max(tried, key=lambda trial: (trial.score, -trial.number))
        if best.run is None:
            raise ReportError(
                f"all trials of {point.key} diverged; {folder / point.name} has their logs. Give the point a space of "
                "smaller learning rates, and the sweep another --workdir"
            )
        row = rows[best.number]
        [run] = plan.plan(dataclasses.replace(made, points=(row,), baseline=row.name), overrides, made.seeds)
        words = ["python", "-m", "mpafer_jax.main", run.arguments[0], "--workdir=runs/again", *run.arguments[1:]]
        found.append(Searched(point, tried, best, shlex.join(words)))
    return found


def _trial(number: int, row: Point, point: Point, run: FinishedRun | None) -> Trial:
    values = {name: row.changes[name] for name in point.space}
    if run is None:
        return Trial(number, values, None, -1.0)
    score = run.summary["best"]["validation"][run.config["eval"]["select_by"]]
    return Trial(number, values, run, float(score))


def settled(sweep: Sweep, searches: Sequence[Searched], overrides: Sequence[str]) -> Sweep:
    """The sweep with what was chosen: in the changes of the searched points and of all others of their names.

    What was chosen is a draw, thus factors of a point's own values: another point of the name may have others, as a
    weight that depends on the number of images.

    Args:
      overrides: as for `trials`.
    """
    by_name = {search.point.name: search for search in searches}

    def chosen(point: Point) -> dict[str, Any]:
        if (search := by_name.get(point.name)) is None:
            return {}
        searched = dataclasses.replace(point, space=search.point.space)
        return _values(sweep, searched, search.best.number, _configured(sweep, point, overrides))

    points = tuple(dataclasses.replace(point, changes={**point.changes, **chosen(point)}) for point in sweep.points)
    notes = (*sweep.notes, _summary(sweep, searches)) if searches else sweep.notes
    return dataclasses.replace(sweep, points=points, notes=notes)


def write(sweep: Sweep, searches: Sequence[Searched], root: pathlib.Path) -> None:
    """Writes ranges, trials and what was chosen as Markdown and JSON into the sweep's folder."""
    parts = [f"# {sweep.title}: search\n", _summary(sweep, searches)]
    for search in searches:
        fields = list(search.point.space)
        header = ["trial", *map(_short, fields), "validation, %", "step", "minutes"]
        rows = [
            [
                f"{trial.number}{' (chosen)' if trial is search.best else ''}",
                *(str(trial.values[field]) for field in fields),
                *_result(trial),
            ]
            for trial in search.trials
        ]
        again = f"The chosen one again:\n\n```bash\n{search.command}\n```\n"
        parts += [f"## {search.point.title}\n", table_lib.markdown(header, rows), again]
    files.write_text(root / MARKDOWN, "\n".join(parts))
    about = {"trials": sweep.trials, "search_seed": sweep.search_seed, "select_by": _select_by(searches)}
    methods = {search.point.name: _as_json(search, root / FOLDER) for search in searches}
    files.write_json(root / JSON, {**about, "methods": methods})


def _summary(sweep: Sweep, searches: Sequence[Searched]) -> str:
    """What was searched and chosen."""
    results: list[list[str]] = []
    chosen: list[list[str]] = []
    for search in searches:
        title, best, own = search.point.title, search.best, search.trials[0]
        lost = sum(trial.run is None for trial in search.trials)
        tried = f"{len(search.trials)}{f', {lost} of them diverged' if lost else ''}"
        results.append([title, _trained(search), tried, _percent(own), _percent(best), str(best.number)])
        chosen += [
            [title, f"`{field}`", dimension.text(own.values[field]), str(own.values[field]), str(best.values[field])]
            for field, dimension in search.point.space.items()
        ]
    shorter = "" if sweep.trial_length == 1 else f", each with {sweep.trial_length:.0%} of a run's updates"
    return "\n".join(
        (
            f"Search: {sweep.trials} trials for each method, of seed {sweep.search_seed}{shorter}; the first has the "
            "defaults, the others are drawn at random. None was measured on the test split. Chosen by "
            f"{_select_by(searches)} on validation, which is therefore better than on new images:\n",
            table_lib.markdown(
                ("", "trained parameters", "trials", "defaults, validation %", "chosen, validation %", "trial"), results
            ),
            table_lib.markdown(("", "field", "range", "default", "chosen"), chosen),
            _time(searches),
        )
    )


def _time(searches: Sequence[Searched]) -> str:
    """How long the trials took, and where."""
    made = [trial.run for search in searches for trial in search.trials if trial.run]
    whole = [run.seconds for run in made if run.seconds is not None]
    devices = ", ".join({f"{number} x {kind}": None for kind, number in (run.summary["devices"] for run in made)})
    resumed = len(made) - len(whole)
    others = f"; of {resumed} that were resumed the times are not known" if resumed else ""
    return f"{len(whole)} trials took {sum(whole) / 3600:.1f} hours of wall time together, on {devices}{others}.\n"


def _select_by(searches: Sequence[Searched]) -> str:
    return ", ".join({s.best.run.config["eval"]["select_by"]: None for s in searches if s.best.run})


def _trained(search: Searched) -> str:
    return f"{sum(search.best.run.summary['trained_parameters'].values()):,}" if search.best.run else ""


def _percent(trial: Trial) -> str:
    return f"{100 * trial.score:.2f}" if trial.run else "diverged"


def _result(trial: Trial) -> list[str]:
    """Score, step and minutes of a trial, as text."""
    if trial.run is None:
        return ["diverged", "", ""]
    minutes = "" if trial.run.seconds is None else f"{trial.run.seconds / 60:.1f}"
    return [_percent(trial), str(trial.run.summary["best"]["step"]), minutes]


def _as_json(search: Searched, folder: pathlib.Path) -> dict[str, Any]:
    """A search with the curve of each trial on validation, a pair (update, value) for each evaluation.

    Args:
      folder: of the trials.
    """
    own = search.trials[0].values
    return {
        "title": search.point.title,
        "space": {
            field: {**dataclasses.asdict(dimension), "default": own[field], "text": dimension.text(own[field])}
            for field, dimension in search.point.space.items()
        },
        "trials": [
            {
                "trial": trial.number,
                "values": dict(trial.values),
                "validation": None if trial.run is None else trial.score,
                "step": None if trial.run is None else trial.run.summary["best"]["step"],
                "curve": None if trial.run is None else _curve(trial.run, folder),
                "seconds": None if trial.run is None else trial.run.seconds,
                "folder": None if trial.run is None else f"{FOLDER}/{trial.run.name}",
            }
            for trial in search.trials
        ],
        "chosen": search.best.number,
        "values": dict(search.best.values),
        "command": search.command,
    }


def _curve(run: FinishedRun, folder: pathlib.Path) -> list[tuple[int, float]]:
    validation = metric_writer.read(folder / run.name).get("validation", {})  # nothing, if the log was removed
    return sorted(validation.get(run.config["eval"]["select_by"], {}).items())
