"""Plots as inline SVG with CSS variables as colours, so that they follow the page's light or dark theme."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mpafer_jax.evaluation.calibration import Calibration

# Placeholder colours, replaced by the page's CSS variables.
_INK, _MUTED, _GRID = "#010101", "#010102", "#010103"
_NUM_SERIES = 10
SERIES = tuple(f"#0102{index:02x}" for index in range(_NUM_SERIES))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--line"} | {
    stand_in: f"--series-{index}" for index, stand_in in enumerate(SERIES)
}
MARKERS = "o^sDvPX*<>"
# Phone width: larger screens show several plots side by side.
_SIZE = (4.2, 2.7)
_SQUARE = (4.2, 3.9)
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.6,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure of a page: inline SVG, whose accessible name describes it in words and numbers."""

    title: str
    svg: Markup


def curves(
    title: str, lines: Mapping[str, Mapping[int, float]], *, mark: int | None = None, shares: bool = False
) -> Plot:
    """A metric over the steps.

    Args:
      title: the metric.
      lines: name -> step -> value; colours follow the position, empty lines included, which are not drawn.
      mark: step of the selected checkpoint, to be marked.
      shares: whether the values are fractions of 1, shown in percent.
    """
    values = [value for line in lines.values() for value in line.values() if np.isfinite(value)]
    logarithmic = bool(values) and min(values) > 0 and max(values) > 100 * min(values) and not shares

    def draw(axes: Axes) -> None:
        drawn: dict[str, Line2D] = {}
        for index, (name, line) in enumerate(lines.items()):
            if not line:
                continue
            marker = "o" if len(line) < 30 else ""
            steps = list(line)
            (drawn[name],) = axes.plot(
                steps,
                [line[step] for step in steps],
                color=SERIES[index % _NUM_SERIES],
                linestyle=("-", "--", ":", "-.")[index // _NUM_SERIES % 4],
                marker=marker,
                markersize=3,
            )
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        elif logarithmic:
            axes.set_yscale("log")
        if mark is not None:
            axes.axvline(mark, color=_MUTED, linewidth=1, linestyle=":")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(lines) > 1:
            axes.legend(list(drawn.values()), list(drawn), loc="best", fontsize=9)  # a label= may not begin with _

    ends = "; ".join(_extent(name, line) for name, line in lines.items() if line)
    scale = ", logarithmic scale" if logarithmic else ""
    marked = "" if mark is None else f" The chosen checkpoint, step {mark}, is marked."
    return _plot(title, f"{title} over the steps{scale}. {ends}.{marked}", draw, _SIZE, title)


def _extent(name: str, line: Mapping[int, float]) -> str:
    steps = list(line)
    return f"{name}: {line[steps[0]]:.4g} at step {steps[0]}, {line[steps[-1]]:.4g} at step {steps[-1]}"


def reliability(calibration: Calibration, place: str) -> Plot:
    """Reliability diagram: accuracy by confidence; `place` as for `feature_map`."""
    bins = [part for part in calibration.bins if part.count]

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle="--", label="perfectly calibrated")
        for index, part in enumerate(bins):
            accuracy, confidence = cast(float, part.accuracy), cast(float, part.confidence)
            left, width = part.low, part.high - part.low
            # A bar of height 0 is invisible; the line still shows that the bin has images.
            label = "accuracy" if index == 0 else None
            axes.bar(left, accuracy, width, align="edge", color=SERIES[0], alpha=0.45, linewidth=0, label=label)
            axes.plot([left, part.high], [accuracy, accuracy], color=SERIES[0])
            axes.plot(
                [left + width / 2] * 2,
                [accuracy, confidence],
                color=SERIES[1],
                linewidth=2,
                label="gap" if index == 0 else None,
            )
        _unit_axes(axes)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        _legend_above(axes)

    alt = (
        f"Accuracy by confidence in {len(calibration.bins)} bins. Mean confidence {calibration.confidence:.1%}, "
        f"accuracy {calibration.accuracy:.1%}, expected calibration error {calibration.ece:.1%}. The table below has "
        "every bin."
    )
    return _plot("Reliability", alt, draw, _SQUARE, place)


def confidences(calibration: Calibration, place: str, unit: str = "images") -> Plot:
    """Histogram of confidences; `place` as for `feature_map`, `unit` is what is counted, "images" or "clips"."""

    def draw(axes: Axes) -> None:
        for part in calibration.bins:
            width = part.high - part.low
            axes.bar(part.low, part.count, 0.9 * width, align="edge", color=SERIES[0], alpha=0.45, linewidth=0)
        axes.axvline(calibration.confidence, color=SERIES[1], label="mean confidence")
        axes.axvline(calibration.accuracy, color=_INK, linestyle="--", label="accuracy")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("confidence")
        axes.set_ylabel(unit)
        _legend_above(axes)

    total = sum(part.count for part in calibration.bins)
    above = sum(part.count for part in calibration.bins if part.low >= 0.8 - 1e-9)
    alt = f"Confidence of {total} predictions; {above} of them are above 80%. The table below has every bin."
    return _plot("Confidence", alt, draw, _SQUARE, place)


def risk_coverage(risks: Mapping[str, Sequence[float]], coverages: Sequence[float], place: str) -> Plot:
    """Share of errors among the answers by the share of images answered.

    Args:
      risks: name of a split -> the risk at each of `coverages`.
      place: as for `feature_map`.
    """

    def draw(axes: Axes) -> None:
        for index, (name, line) in enumerate(risks.items()):
            axes.plot(coverages, line, color=SERIES[index], marker="o", markersize=3, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("share answered")
        axes.set_ylabel("errors among the answers")
        _legend_above(axes)

    middle = len(coverages) // 2 - 1
    ends = "; ".join(
        f"{name}: {line[middle]:.1%} where {coverages[middle]:.0%} are answered, {line[-1]:.1%} where all are"
        for name, line in risks.items()
    )
    alt = f"Errors among the answers by the share of images answered, the most confident first. {ends}."
    return _plot("Risk and coverage", alt, draw, _SIZE, place)


def feature_map(
    title: str, points: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], names: Sequence[str], place: str
) -> Plot:
    """Scatter plot of images; each class has its own colour and marker.

    Args:
      points: [n, 2].
      labels: int[n].
      names: C class names.
      place: location on the page, which makes SVG ids unique even between equal plots.
    """

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names):
            members = points[labels == index]
            if not len(members):
                continue
            style: dict[str, Any] = {
                "color": SERIES[index % _NUM_SERIES],
                "marker": MARKERS[(index + index // _NUM_SERIES) % len(MARKERS)],
            }
            axes.scatter(members[:, 0], members[:, 1], s=7, alpha=0.7, linewidths=0, label=name, **style)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        # Below the points, so that it hides none.
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 4, "markerscale": 1.8}
        axes.legend(**below, fontsize=9, handletextpad=0.1, columnspacing=0.8)

    counts = ", ".join(f"{name} {int(np.sum(labels == index))}" for index, name in enumerate(names))
    alt = f"{title}: {len(points)} images placed so that similar features are near each other ({counts})."
    return _plot(title, alt, draw, _SQUARE, place)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, fontsize=9, handlelength=1.4, columnspacing=1.2)


def _unit_axes(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _plot(title: str, alt: str, draw: Callable[[Axes], None], size: tuple[float, float], place: str) -> Plot:
    stream = io.StringIO()
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # SVG ids are hashes of this salt and their content.
    style: Any = {**_STYLE, "svg.hashsalt": f"{place}: {title}"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return Plot(title, _inline(stream.getvalue(), alt))


def _inline(svg: str, alt: str) -> Markup:
    """Matplotlib's SVG without file declarations and with the page's colours."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, rest = body.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', opening)
    if view is None:
        raise ValueError("matplotlib wrote an SVG without viewBox")
    # Ids of groups repeat in every file and are never referenced.
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)
    for stand_in, variable in _VARIABLES.items():
        rest = rest.replace(stand_in, f"var({variable})")
    return Markup('<svg role="img" aria-label="{}" {}>').format(alt, Markup(view.group())) + Markup(rest)
