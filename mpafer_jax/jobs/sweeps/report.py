"""Results of a sweep: results.md, results.csv, results.tex and results.png in its folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.report.plots import MARKERS
from mpafer_jax.jobs.sweeps import collect, tables
from mpafer_jax.jobs.sweeps.collect import FinishedRun, Result
from mpafer_jax.jobs.sweeps.sweep import Record, Sweep
from mpafer_jax.jobs.sweeps.tables import Line
from mpafer_jax.runtime import files

FORMATS = {"markdown": "results.md", "csv": "results.csv", "latex": "results.tex"}
PLOT = "results.png"
_SIZE = (6.4, 3.8)  # inches
_DPI = 110
_BASELINES = 5  # colours of points come before: a baseline has one colour, however many points a sweep has
_LOGARITHMIC = 8.0  # ratio of the largest to the smallest value from which the axis is logarithmic


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """A sweep's results.

    Attributes:
      root: the sweep's folder.
      record: of the sweep.
      runs: the finished ones.
      results: of these runs and their baselines.
      lines: of the tables.
      baseline: row that the others are compared with; empty: the sweep's.
    """

    root: pathlib.Path
    record: Record
    runs: list[FinishedRun]
    results: list[Result]
    lines: list[Line]
    baseline: str

    @property
    def protocol(self) -> dict[str, str]:
        """The merged protocol of all runs."""
        merged = protocol.merge(protocol.items(run.summary, flatten(run.config)) for run in self.runs)
        if self.record.overrides:
            merged["changed for all runs"] = " ".join(self.record.overrides)
        return merged

    @property
    def banners(self) -> list[str]:
        """Warnings."""
        on_test = any(protocol.selecting_split(run.summary) == "test" for run in self.runs)
        return [protocol.TEST_SELECTED] if on_test else []

    @property
    def minutes(self) -> float | None:
        """Total wall time of all runs; None if one was resumed, since its time is unknown."""
        seconds = [result.seconds for result in self.results if not result.baseline]
        known = [value for value in seconds if value is not None]
        return sum(known) / 60 if known and len(known) == len(seconds) else None

    @property
    def compared(self) -> str:
        """Title of the row that the others are compared with."""
        return next(line.title for line in self.lines if line.row == (self.baseline or self.record.sweep.baseline))

    def to_markdown(self, level: int) -> str:
        """Warnings, tables with headings of the given level, and the sweep's notes."""
        sweep = self.record.sweep
        parts = [f"**{banner}**\n" for banner in self.banners]
        return "\n".join([*parts, tables.to_markdown(sweep, self.lines, level), *(f"{note}\n" for note in sweep.notes)])

    def _whole(self) -> str:
        explanation = tables.explanation(repr(self.compared), self.record.sweep.over)
        parts = [f"# {self.record.sweep.title}\n", self.to_markdown(2), f"{explanation}\n"]
        return "\n".join([*parts, protocol.to_markdown(self.protocol)] if self.results else parts)

    def text(self, form: str) -> str:
        """The report in one of `FORMATS`."""
        if form == "markdown":
            return self._whole()
        if form == "csv":
            return tables.to_csv(self.lines)
        return tables.to_latex(self.record.sweep, self.lines, self.banners)

    def write(self) -> None:
        """Writes the report in all formats, and the plot, into the sweep's folder."""
        for form, name in FORMATS.items():
            files.write_text(self.root / name, self.text(form))
        write_plot(self.root / PLOT, self.record.sweep, self.lines, self.results)


def read(root: pathlib.Path, baseline: str = "") -> Report:
    """Reads the finished runs of a sweep; `baseline` as in `Report`."""
    record = Record.read(root)
    return make(root, record, collect.read_runs(root, record.sweep), baseline)


def make(root: pathlib.Path, record: Record, runs: list[FinishedRun], baseline: str = "") -> Report:
    """The report of runs that have been read; arguments and errors as for `read`."""
    results = collect.results(record.sweep, runs, root)
    return Report(root, record, runs, results, tables.summarize(record.sweep, results, baseline), baseline)


def curves(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Curves of the plot by name: lines with results at two or more values of the axis, ascending."""
    by_name: dict[str, list[Line]] = {}
    for line in lines:
        if line.value is not None and line.scores:
            by_name.setdefault(line.series, []).append(line)
    return {
        name: sorted(points, key=lambda line: line.value or 0.0)
        for name, points in by_name.items()
        if len({line.value for line in points}) > 1
    }


def write_plot(path: pathlib.Path, sweep: Sweep, lines: Sequence[Line], results: Sequence[Result]) -> bool:
    """Plots accuracy over the axis: a dot for each run, curves through the means.

    A point of the sweep without a place on the axis is a dashed line, at its mean.

    Returns:
      Whether there was anything to plot.
    """
    drawn = curves(lines)
    if not sweep.axis or not drawn:
        return False
    runs: dict[tuple[str, str], list[float]] = {}
    for result in results:
        runs.setdefault((result.point.table, result.row), []).append(100 * result.scores["war"])
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    own = {point.series for point in sweep.points}
    order = [name for name in drawn if name in own]
    others = [name for name in drawn if name not in own]
    for name, points in drawn.items():
        index = order.index(name) if name in own else max(_BASELINES, len(order)) + others.index(name)
        color, marker = f"C{index % 10}", MARKERS[index % len(MARKERS)]
        values = [line.value or 0.0 for line in points]
        means = [100 * line.scores["war"].mean for line in points]
        axes.plot(values, means, color=color, label=name or f"mean over {sweep.over}")
        for value, line in zip(values, points, strict=True):
            accuracies = runs[line.table, line.row]
            axes.plot(
                [value] * len(accuracies), accuracies, color=color, marker=marker, markersize=4, linestyle="", alpha=0.6
            )
    named = {point.name for point in sweep.points if point.value is None}
    for line in lines:
        if line.row in named and line.scores:
            index = len(order)
            order.append(line.title)
            axes.axhline(100 * line.scores["war"].mean, color=f"C{index % 10}", linestyle="--", label=line.title)
    ticks = sorted({line.value or 0.0 for points in drawn.values() for line in points})
    if ticks[0] > 0 and ticks[-1] >= _LOGARITHMIC * ticks[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_xlabel(sweep.axis)
    axes.set_ylabel("accuracy, %")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return True


def _plain(value: float, _: int | None) -> str:
    return f"{value:g}"
