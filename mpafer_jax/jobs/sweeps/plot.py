"""A sweep's accuracy over its axis, as an image for documents."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mpafer_jax.jobs.sweeps.collect import Result
from mpafer_jax.jobs.sweeps.sweep import Sweep
from mpafer_jax.jobs.sweeps.tables import Line
from mpafer_jax.runtime import files

_SIZE = (6.4, 3.8)  # inches
_DPI = 110
_MARKERS = "o^sDvPX*<>"
_LOGARITHMIC = 8.0  # the axis is logarithmic if its largest value is at least so many times its smallest


def curves(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of the plot by name: those with results at two values of the axis or more, ascending."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line.value is not None and line.scores:
            found.setdefault(line.series, []).append(line)
    return {
        name: sorted(points, key=lambda line: line.value or 0.0)
        for name, points in found.items()
        if len({line.value for line in points}) > 1
    }


def write(path: pathlib.Path, sweep: Sweep, lines: Sequence[Line], results: Sequence[Result]) -> bool:
    """Draws accuracy over the axis: a dot for each run, lines through the means.

    Returns:
      Whether there was anything to draw.
    """
    drawn = curves(lines)
    if not sweep.axis or not drawn:
        return False
    runs: dict[tuple[str, str], list[float]] = {}
    for result in results:
        runs.setdefault((result.point.table, result.row), []).append(100 * result.scores["war"])
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(drawn.items()):
        color, marker = f"C{index % 10}", _MARKERS[index % len(_MARKERS)]
        values = [line.value or 0.0 for line in points]
        means = [100 * line.scores["war"].mean for line in points]
        axes.plot(values, means, color=color, label=name or "mean over seeds")
        for value, line in zip(values, points, strict=True):
            own = runs[line.table, line.row]
            axes.plot([value] * len(own), own, color=color, marker=marker, markersize=4, linestyle="", alpha=0.6)
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
