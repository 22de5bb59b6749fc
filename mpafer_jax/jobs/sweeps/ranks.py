"""Ranks of methods over datasets: every table of some sweeps is a dataset, and rows of one name are a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.statistics import Ranking
from mpafer_jax.jobs.sweeps.report import Report
from mpafer_jax.jobs.sweeps.tables import Line
from mpafer_jax.runtime.errors import ReportError

_MEASURED = {"war": "accuracy", "uar": "UAR"}


def render(reports: Sequence[Report], metric: str) -> str:
    """Mean ranks with Friedman's test and Nemenyi's critical difference, as Markdown.

    Args:
      metric: war or uar; a dataset's score of a method is its mean over the seeds.

    Raises:
      ReportError: fewer than two datasets, or than three methods with results in all of them; two of one name.
    """
    datasets = _datasets(reports)
    first = next(iter(datasets.values()), dict[str, Line]())
    shared = [row for row in first if all(row in of for of in datasets.values())]
    if len(datasets) < 2 or len(shared) < 3:
        raise ReportError(
            f"ranks need two tables with three rows of the same names, found {', '.join(datasets) or 'no table'} with "
            f"the rows {', '.join(shared) or 'none'} in all of them; two rows are compared by the tables' own tests"
        )
    scores = [[of[row].scores[metric].mean for row in shared] for of in datasets.values()]
    ranking = Ranking.of(scores)
    groups = ranking.groups()
    letters = [
        "".join(chr(ord("a") + number) for number, group in enumerate(groups) if place in group)
        for place in range(len(shared))
    ]
    lines = [
        [
            first[shared[place]].title,
            f"{ranking.ranks[place]:.2f}",
            letters[place],
            *(f"{100 * of[place]:.2f}" for of in scores),
        ]
        for place in sorted(range(len(shared)), key=lambda place: ranking.ranks[place])
    ]
    header = ["", "mean rank", "group", *(f"{name}, %" for name in datasets)]
    measured = _MEASURED[metric]
    left_out = list(dict.fromkeys(row for of in datasets.values() for row in of if row not in shared))
    p = "< 0.001" if ranking.p_value < 0.001 else f"= {ranking.p_value:.3f}"
    notes = [
        f"Ranks of the mean {measured} over the seeds, 1 the best, of {len(shared)} methods on {len(datasets)} "
        f"datasets. Friedman's test: chi-square {ranking.statistic:.2f} with {len(shared) - 1} degrees of freedom, p "
        f"{p}. Nemenyi's critical difference at 0.05: {ranking.critical_difference:.2f}; methods that share a letter "
        "are not told apart.",
        *([f"Left out, as not in all of them: {', '.join(left_out)}."] if left_out else []),
        *(f"**{banner}**" for banner in dict.fromkeys(banner for report in reports for banner in report.banners)),
    ]
    return "\n\n".join([table_lib.markdown(header, lines).rstrip("\n"), *notes]) + "\n"


def _datasets(reports: Sequence[Report]) -> dict[str, Mapping[str, Line]]:
    """Name of each table with results -> its rows by name."""
    datasets: dict[str, Mapping[str, Line]] = {}
    for report in reports:
        sweep = report.record.sweep
        for table in sweep.table_names():
            parts = [
                report.root.resolve().name.removesuffix(".jsonl"),
                *([sweep.heading(table)] if len(sweep.table_names()) > 1 else []),
            ]
            name = ": ".join(parts if len(reports) > 1 else parts[-1:])
            if name in datasets:
                raise ReportError(f"two tables are called {name!r}; name each folder once, and give each another name")
            if rows := {line.row: line for line in report.lines if line.table == table and line.scores}:
                datasets[name] = rows
    return datasets
