"""What a sweep's folder says of its results: results.md, results.csv, results.tex and results.png."""

from __future__ import annotations

import dataclasses
import pathlib

from mpafer_jax.evaluation import protocol
from mpafer_jax.jobs.sweeps import collect, plot, tables
from mpafer_jax.jobs.sweeps.collect import FinishedRun, Result
from mpafer_jax.jobs.sweeps.sweep import Record
from mpafer_jax.jobs.sweeps.tables import Line
from mpafer_jax.runtime import files

FORMATS = {"markdown": "results.md", "csv": "results.csv", "latex": "results.tex"}
PLOT = "results.png"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """All that is known of a sweep.

    Attributes:
      root: its folder.
      record: what it is.
      runs: those that have ended.
      results: of these runs and their baselines.
      lines: of its tables.
      baseline: name of the row that the others are compared with; empty: the sweep's.
    """

    root: pathlib.Path
    record: Record
    runs: list[FinishedRun]
    results: list[Result]
    lines: list[Line]
    baseline: str

    @property
    def protocol(self) -> dict[str, str]:
        """Of all runs."""
        runs = [found for found in self.results if not found.baseline]
        merged = protocol.merge(protocol.items(found.summary, found.config) for found in runs)
        if self.record.overrides:
            merged["changed for all runs"] = " ".join(self.record.overrides)
        return merged

    @property
    def banners(self) -> list[str]:
        """What must not be overlooked."""
        on_test = any(protocol.selecting_split(found.summary) == "test" for found in self.results)
        return [protocol.TEST_SELECTED] if on_test else []

    @property
    def minutes(self) -> float | None:
        """Wall time of all runs together; None if one was interrupted and does not know its own."""
        seconds = [found.seconds for found in self.results if not found.baseline]
        known = [value for value in seconds if value is not None]
        return sum(known) / 60 if known and len(known) == len(seconds) else None

    @property
    def compared(self) -> str:
        """Title of the row that the others are compared with."""
        return next(line.title for line in self.lines if line.row == (self.baseline or self.record.sweep.baseline))

    def to_markdown(self, level: int) -> str:
        """Banners, tables under headings of a level, and the sweep's own notes."""
        sweep = self.record.sweep
        parts = [f"**{banner}**\n" for banner in self.banners]
        return "\n".join([*parts, tables.to_markdown(sweep, self.lines, level), *(f"{note}\n" for note in sweep.notes)])

    def _whole(self) -> str:
        parts = [f"# {self.record.sweep.title}\n", self.to_markdown(2), f"{tables.explanation(repr(self.compared))}\n"]
        return "\n".join([*parts, protocol.to_markdown(self.protocol)] if self.results else parts)

    def text(self, form: str) -> str:
        """In one of `FORMATS`."""
        if form == "markdown":
            return self._whole()
        if form == "csv":
            return tables.to_csv(self.lines)
        return tables.to_latex(self.record.sweep, self.lines, self.banners)

    def write(self) -> None:
        """Writes it in all forms into the sweep's folder."""
        for form, name in FORMATS.items():
            files.write_text(self.root / name, self.text(form))
        plot.write(self.root / PLOT, self.record.sweep, self.lines, self.results)


def read(root: pathlib.Path, baseline: str = "") -> Report:
    """Reads the runs of a sweep that have ended.

    Args:
      root: its folder.
      baseline: see `Report`.
    """
    record = Record.read(root)
    return make(root, record, collect.read_runs(root, record.sweep), baseline)


def make(root: pathlib.Path, record: Record, runs: list[FinishedRun], baseline: str = "") -> Report:
    """The report of runs that have been read; arguments and errors as for `read`."""
    results = collect.results(record.sweep, runs, root)
    return Report(root, record, runs, results, tables.summarize(record.sweep, results, baseline), baseline)
