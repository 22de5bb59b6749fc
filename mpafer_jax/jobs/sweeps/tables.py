"""Tables of a sweep as Markdown, CSV and LaTeX: rows aggregated over seeds or folds and compared with the baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.statistics import Estimate, holm, p_value, percent
from mpafer_jax.jobs.sweeps.collect import METRICS, Result
from mpafer_jax.jobs.sweeps.sweep import Over, Point, Sweep
from mpafer_jax.runtime.errors import ConfigError

IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Line:
    """All seeds, or folds, of one row.

    Attributes:
      table: its table's name.
      row: name of the point or baseline.
      title: in the table.
      seeds: ascending; empty if no run has finished.
      scores: by metric, fractions of 1.
      difference: by metric, this row minus the baseline, paired by seed; empty without shared seeds, and for the
        baseline itself.
      by_image: difference of accuracy to the baseline with test images as samples, each averaged over the paired seeds
        (each is in one fold); None without stored predictions.
      adjusted: p-values of `difference` by metric, and of `by_image` as IMAGES, by Holm over the rows of the table;
        none where only one row has one.
      parameters: trained ones of a run; None for a baseline.
      gflop: 10^9 floating-point operations of an update; None for a baseline, or where it was not counted.
      minutes: mean wall time of runs with a known one.
      series, value: see `Point`.
      reported: see `Point`.
    """

    table: str
    row: str
    title: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]
    by_image: Estimate | None
    parameters: int | None
    gflop: float | None
    minutes: float | None
    series: str
    value: float | None
    reported: float | None
    adjusted: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])


def summarize(sweep: Sweep, results: Iterable[Result], baseline: str = "") -> list[Line]:
    """One line for each table and row: points in the sweep's order, then baselines.

    Args:
      results: from `collect`.
      baseline: row that the others are compared with; empty: the sweep's.
    """
    groups: dict[tuple[str, str], dict[int, Result]] = {(point.table, point.name): {} for point in sweep.points}
    for result in results:
        groups.setdefault((result.point.table, result.row), {})[result.run.seed] = result
    baseline = baseline or sweep.baseline
    rows = list(dict.fromkeys(row for _, row in groups))
    if baseline not in rows:
        raise ConfigError(f"the baseline {baseline!r} is no row here; the rows are {', '.join(rows)}")
    points = {(point.table, point.name): point for point in sweep.points}
    tables = (
        [
            _line(
                points.get((table, row)),
                by_seed,
                {} if row == baseline else groups.get((table, baseline), {}),
                over_folds=sweep.over == "folds",
            )
            for (of, row), by_seed in groups.items()
            if of == table
        ]
        for table in sweep.table_names()
    )
    return [line for lines in tables for line in _adjusted(lines)]


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    """The lines of a table with the corrected p-values."""
    rows = [
        {
            **{name: gap.p_value for name, gap in line.difference.items()},
            IMAGES: line.by_image and line.by_image.p_value,
        }
        for line in lines
    ]
    columns = {name: holm([row.get(name) for row in rows]) for name in (*METRICS, IMAGES)}
    several = {name: column for name, column in columns.items() if sum(p is not None for p in column) > 1}
    return [
        dataclasses.replace(
            line, adjusted={name: p for name, column in several.items() if (p := column[i]) is not None}
        )
        for i, line in enumerate(lines)
    ]


def _line(
    point: Point | None, by_seed: Mapping[int, Result], against: Mapping[int, Result], *, over_folds: bool
) -> Line:
    """The line of a point, or, if that is None, of a baseline with results."""
    seeds = tuple(sorted(by_seed))
    paired = [seed for seed in seeds if seed in against]
    seconds = [result.seconds for result in by_seed.values() if result.seconds is not None]
    summaries = [result.run.summary for result in by_seed.values() if not result.baseline]

    def difference(metric: str) -> Estimate:
        return Estimate.of([by_seed[seed].scores[metric] - against[seed].scores[metric] for seed in paired])

    if point is None:
        first = by_seed[seeds[0]]
        at, row, title, series, reported = first.point, first.row, first.title, first.title, None
    else:
        at, row, title, series, reported = point, point.name, point.title, point.series, point.reported
    return Line(
        table=at.table,
        row=row,
        title=title,
        seeds=seeds,
        scores={name: Estimate.of([by_seed[seed].scores[name] for seed in seeds]) for name in METRICS if seeds},
        difference={name: difference(name) for name in METRICS if paired},
        by_image=_by_image([(by_seed[seed].correct, against[seed].correct) for seed in paired], over_folds=over_folds),
        parameters=sum(summaries[0]["trained_parameters"].values()) if summaries else None,
        gflop=summaries[0].get("gflop_per_update") if summaries else None,
        minutes=sum(seconds) / len(seconds) / 60 if seconds else None,
        series=series,
        value=at.value,
        reported=reported,
    )


def _by_image(
    pairs: Sequence[tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None]], *, over_folds: bool
) -> Estimate | None:
    differences = [
        correct.astype(np.float64) - baseline
        for correct, baseline in pairs
        if correct is not None and baseline is not None
    ]
    if not differences or len(differences) < len(pairs):
        return None
    return Estimate.of(np.concatenate(differences) if over_folds else np.mean(differences, axis=0))


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return ""
    return "{:.2f} to {:.2f}".format(*(round(100 * end, 2) + 0.0 for end in estimate.interval))  # + 0.0: no -0.00


def _cells(line: Line, over: str) -> dict[str, str]:
    """Column -> text, in the table's order."""
    gap = line.difference.get("war")
    return {
        "": line.title,
        "runs": str(len(line.seeds)),
        "accuracy, %": percent(line.scores.get("war")),
        "95% interval": _interval(line.scores.get("war")),
        "UAR, %": percent(line.scores.get("uar")),
        "accuracy, difference": percent(gap, "+"),
        f"p, {over}": p_value(gap and gap.p_value),
        f"p, {over}, Holm": p_value(line.adjusted.get("war")),
        "p, images": p_value(line.by_image and line.by_image.p_value),
        "p, images, Holm": p_value(line.adjusted.get(IMAGES)),
        "trained parameters": "" if line.parameters is None else f"{line.parameters:,}",
        "GFLOP an update": "" if line.gflop is None else f"{line.gflop:.3g}",
        "the paper, %": "" if line.reported is None else f"{line.reported:.2f}",
    }


_ALWAYS = ("", "runs", "accuracy, %", "UAR, %")
_IF_DIFFERENT = ("trained parameters", "GFLOP an update")


def header_and_cells(sweep: Sweep, table: str, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """The header and rows of one of the tables as text, without columns that are empty in all rows.

    Nor is there a column of parameters or operations that are the same for all runs.
    """
    rows = [_cells(line, sweep.over) for line in lines if line.table == table]
    least = {name: 2 if name in _IF_DIFFERENT else 1 for name in rows[0]}
    header = [
        name for name in rows[0] if name in _ALWAYS or len({row[name] for row in rows if row[name]}) >= least[name]
    ]
    return header, [[row[name] for name in header] for row in rows]


def explanation(compared: str, over: Over = "seeds") -> str:
    """Explanation of the columns.

    Args:
      compared: title of the baseline's row.
      over: see `Sweep`.
    """
    images = (
        "each with its mean difference over the seeds" if over == "seeds" else "each in the fold that it is tested in"
    )
    return (
        f"Mean ± sample standard deviation over {over}, and Student's 95% interval of the mean. Differences are to "
        f"{compared}, on the same {over}. *p, {over}*: paired t-test over {over}: would the difference hold for other "
        f"{over}? *p, images*: t-test over the test images, {images}: would it hold "
        "for other images? It is empty where a row's predictions are not kept, as of baselines. *Holm*: the p-values "
        "of the column before it corrected for their number in the table."
    )


def to_markdown(sweep: Sweep, lines: Sequence[Line], level: int = 2) -> str:
    """The tables as Markdown with headings of the given level; a single unnamed table has none."""
    text: list[str] = []
    tables = sweep.table_names()
    for table in tables:
        heading = [f"{'#' * level} {sweep.heading(table)}\n"] if len(tables) > 1 or table in sweep.tables else []
        header, cells = header_and_cells(sweep, table, lines)
        text += [*heading, table_lib.markdown(header, cells)]
    return "\n".join(text)


def to_csv(lines: Sequence[Line]) -> str:
    """CSV with a line for each row: fractions of 1 with all digits."""
    per_metric = ("mean", "deviation", "interval_low", "interval_high")
    compared = ("difference", "difference_deviation", "p_seeds", "p_seeds_holm")
    columns = [f"{metric}_{name}" for metric in METRICS for name in (*per_metric, *compared)]
    last = (
        "war_difference_images",
        "p_images",
        "p_images_holm",
        "trained_parameters",
        "gflop_per_update",
        "minutes",
        "reported_percent",
    )
    rows: list[list[str | float | None]] = []
    for line in lines:
        numbers: list[float | None] = []
        for metric in METRICS:
            score, gap = line.scores.get(metric), line.difference.get(metric)
            low, high = (None, None) if score is None or score.interval is None else score.interval
            numbers += [score and score.mean, score and score.deviation, low, high]
            numbers += [gap and gap.mean, gap and gap.deviation, gap and gap.p_value]
            numbers.append(line.adjusted.get(metric))
        images = line.by_image
        numbers += [images and images.mean, images and images.p_value, line.adjusted.get(IMAGES)]
        numbers += [line.parameters, line.gflop, line.minutes, line.reported]
        first = [line.table, line.row, line.title, line.value, " ".join(map(str, line.seeds))]
        rows.append([*first, *numbers])
    return table_lib.csv_text(["table", "row", "title", "value", "seeds", *columns, *last], rows)


_LATEX = {character: rf"\{character}" for character in "%&_#{}$"} | {
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "^": r"\^{}",
    "~": r"\textasciitilde{}",
    "\\": r"\textbackslash{}",
}


def to_latex(sweep: Sweep, lines: Sequence[Line], banners: Sequence[str]) -> str:
    """A tabular environment (booktabs) for each table.

    Args:
      lines: from `summarize`.
      banners: warnings, typeset below each table, since comments get lost when a table is copied.
    """

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    text: list[str] = []
    for table in sweep.table_names():
        header, cells = header_and_cells(sweep, table, lines)
        text += [
            f"% {sweep.title}: {sweep.heading(table)}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            row(header),
            r"\midrule",
            *map(row, cells),
            r"\bottomrule",
            *(
                rf"\multicolumn{{{len(header)}}}{{p{{0.9\linewidth}}}}{{\textbf{{{escaped(banner)}}}}} \\"
                for banner in banners
            ),
            r"\end{tabular}",
            "",
        ]
    return "\n".join(text)
