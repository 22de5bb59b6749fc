"""Definition of a sweep: configurations that differ in a few fields, and their seeds.

A sweep file is a Python file with a function `get_sweep(argument)` that returns a `Sweep`; those of the paper's
experiments are in `configs/sweeps/`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Literal, Self

import pydantic

from mpafer_jax.config.flags import make_configs_importable, own_files
from mpafer_jax.config.search_space import Space
from mpafer_jax.config.semantics import SEED_FIELDS, TRAINING_ONLY
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, first_problem

RECORD = "sweep.json"
FOLD = "data.clips.fold"
FOLDER = "data.dir"
Over = Literal["seeds", "folds"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Point:
    """One configuration: a row of a table.

    Attributes:
      name: of its folder.
      title: of its row.
      changes: to the sweep's base, by dotted name, as in {"loss.beta": 0.0}.
      table: name of its table and that table's folder; rows of one table share their held-out images.
      series, value: curve and position on the axis in the plot; `value` None: not plotted.
      reported: the paper's accuracy in %.
      space: what a search draws for it before its runs (`jobs.sweeps.search`).
    """

    name: str
    title: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    table: str = "all"
    series: str = ""
    value: float | None = None
    reported: float | None = None
    space: Space = dataclasses.field(default_factory=dict[str, Any])

    @property
    def key(self) -> str:
        """Its folder, relative to the sweep's."""
        return f"{self.table}/{self.name}"

    def changes_of(self, section: str) -> dict[str, Any]:
        """Its changes to a section of the configuration, by field."""
        start = f"{section}."
        return {name.removeprefix(start): value for name, value in self.changes.items() if name.startswith(start)}

    @property
    def held_out_changes(self) -> dict[str, Any]:
        """Its changes to the data section that may change which images are held out.

        Another folder may hold the same images in another crop; `collect.results` compares their names and labels.
        """
        changes = self.changes_of("data")
        return {name: value for name, value in changes.items() if f"data.{name}" not in (*TRAINING_ONLY, FOLDER)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All configurations of an experiment.

    Attributes:
      title: what is compared.
      base: the points' config file with its arguments, as for --config.
      points: in the order of the tables' rows.
      baseline: name of the point that the others of its table are compared with.
      baselines: `eval.baselines` of that point's runs; other points measure none, since their changes do not affect
        baselines.
      tables: table name -> heading; the default is the name.
      axis: label of `Point.value`; empty: no plot.
      notes: paragraphs below the tables.
      seeds: default of the command; numbers of folds if `over` is "folds".
      over: what the runs of a point differ in, the numbers of which are in `seeds`: "seeds", or "folds" of video clips,
        each with other held-out clips.
      trials: of each point with a space, in the search before the runs; 0 for no search.
      trial_length: updates of a trial, as a share of those of a run.
      search_seed: of what is drawn, and of the trials' runs; none of `seeds`.
    """

    title: str
    base: str
    points: tuple[Point, ...]
    baseline: str = "full"
    baselines: tuple[str, ...] = ()
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    axis: str = ""
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    over: Over = "seeds"
    trials: int = 0
    trial_length: float = 1.0
    search_seed: int = 100

    def __post_init__(self) -> None:
        """Raises ConfigError for a sweep that cannot be tabulated."""
        seen: set[str] = set()
        held_out: dict[str, tuple[str, dict[str, Any]]] = {}
        for point in self.points:
            for field, name in (("name", point.name), ("table", point.table)):
                if not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"the sweep's point {point.key!r} cannot be a folder: its {field} is {name!r}, expected "
                        "letters, digits, '_', '-' and '.'"
                    )
            if point.key in seen:
                raise ConfigError(f"the sweep has two points {point.key}; give each a name of its own")
            seen.add(point.key)
            taken = [name for name in self.run_fields if name in point.changes]
            if taken:
                raise ConfigError(
                    f"the sweep's point {point.key} changes {taken[0]}, which a run's {self.kind} decides"
                )
            first, changes = held_out.setdefault(point.table, (point.key, point.held_out_changes))
            if changes != point.held_out_changes:
                raise ConfigError(
                    f"the sweep's points {first} and {point.key} stand in one table but change differently what is "
                    f"held out (config.data: {changes} and {point.held_out_changes}); give them tables of their own"
                )
        if not self.points:
            raise ConfigError("the sweep has no points")
        names = [point.name for point in self.searched]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"the sweep has two points {twice[0]} with a space; give one of them the space, and what is chosen "
                "holds for both"
            )
        if self.searched and self.over == "folds":
            raise ConfigError("a search is made over seeds, as its trials are of one seed; give --trials=0 for folds")
        self.check_seeds(self.seeds)
        if self.baseline not in (rows := list(dict.fromkeys(point.name for point in self.points))):
            raise ConfigError(
                f"the sweep's baseline, with which the other points of a table are compared, is {self.baseline!r}, but "
                f"its points are {', '.join(rows)}; give Sweep another baseline"
            )

    def check_seeds(self, seeds: Iterable[int]) -> None:
        """Raises ConfigError if one of these seeds of runs is that of the search before them."""
        if self.searched and self.search_seed in seeds:
            raise ConfigError(
                f"seed {self.search_seed} is the search's; what was chosen with a seed has to be measured with others"
            )

    @property
    def searched(self) -> tuple[Point, ...]:
        """The points that a search is made for."""
        return tuple(point for point in self.points if point.space) if self.trials else ()

    @property
    def kind(self) -> str:
        """What a run of a point is: "seed" or "fold"."""
        return self.over.removesuffix("s")

    @property
    def run_fields(self) -> tuple[str, ...]:
        """Fields that get the number of a run."""
        return (FOLD,) if self.over == "folds" else SEED_FIELDS

    def rows(self, table: str) -> list[Point]:
        """The points of a table."""
        return [point for point in self.points if point.table == table]

    def table_names(self) -> list[str]:
        """Names of the tables, in the order of the points."""
        return list(dict.fromkeys(point.table for point in self.points))

    def heading(self, table: str) -> str:
        """Heading of a table."""
        return self.tables.get(table, table)


@dataclasses.dataclass(frozen=True)
class Record:
    """Content of `sweep.json` in a sweep's folder, from which tables are made without the sweep file.

    Attributes:
      source: the sweep file and its argument, as for --sweep.
      overrides: --config flags of all runs, without those that change no result (such as folders).
    """

    source: str
    overrides: tuple[str, ...]
    sweep: Sweep

    def check(self, root: pathlib.Path) -> None:
        """Raises ConfigError if the folder holds another sweep."""
        if not (root / RECORD).is_file():
            return
        before = Record.read(root)
        for what, stored, given in (
            ("", before.source, self.source),
            (" with other settings", list(before.overrides), list(self.overrides)),
            (" over other runs", before.sweep.over, self.sweep.over),
        ):
            if stored != given:
                raise ConfigError(
                    f"{root} holds a sweep{what}: there {stored}, here {given}; give another --workdir, or the same "
                    "command to resume that sweep"
                )

    def write(self, root: pathlib.Path) -> None:
        """Writes `sweep.json`. Raises ConfigError if the folder holds another sweep."""
        self.check(root)
        files.write_json(root / RECORD, dataclasses.asdict(self))

    @classmethod
    def read(cls, root: pathlib.Path) -> Self:
        """Reads `sweep.json`. Raises ConfigError if it is missing or invalid."""
        path = root / RECORD
        try:
            text = files.read_text(path)
        except OSError as error:
            raise ConfigError(
                f"{root} is no sweep's folder: {path} cannot be read ({error.strerror}); `mpafer-jax study sweep` "
                "writes it"
            ) from error
        try:
            return pydantic.TypeAdapter(cls).validate_json(text)
        except pydantic.ValidationError as error:
            raise ConfigError(
                f"{path} cannot be read ({first_problem(error)}); remove it and give the command of the sweep again, "
                "which writes it anew and keeps the runs"
            ) from error

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From the JSON form, `dataclasses.asdict`."""
        return pydantic.TypeAdapter(cls).validate_python(values)


def split_source(source: str) -> tuple[pathlib.Path, str]:
    """'configs/sweeps/top_k.py:quickstart' -> its path and its argument."""
    path, _, argument = source.partition(":")
    return files.home_expanded(path), argument


def name_of(source: str) -> str:
    """A name for files from the sweep file and its argument, as in components, components_quickstart."""
    path, argument = split_source(source)
    return "_".join([path.stem, *re.findall(r"[A-Za-z0-9]+", argument)])


def load(source: str) -> Sweep:
    """Runs a sweep file; `source` is its path and, after a colon, its argument."""
    path, argument = split_source(source)
    if not path.is_file():
        raise ConfigError(f"--sweep={source}: there is no file {path}; the project's own are {_names_of_own(path)}")
    get_sweep = getattr(load_module(path), "get_sweep", None)
    if not callable(get_sweep):
        raise ConfigError(f"--sweep={source}: {path} has no function get_sweep(argument)")
    try:
        sweep = get_sweep(argument)
    except ConfigError as error:
        raise ConfigError(f"--sweep={source}: {error}") from error
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"--sweep={source}: get_sweep returned {type(sweep).__name__}, expected a Sweep")
    return sweep


def load_module(path: pathlib.Path) -> ModuleType:
    """Imports a Python file by its path; it may import from `configs`, and from the package that it is in."""
    make_configs_importable(path)
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _names_of_own(path: pathlib.Path) -> str:
    names = [str(file) for file in own_files(path.parent)]
    return ", ".join(names) if names else "in configs/sweeps, named from the root of the checkout"
