"""The results table of a run: its baselines and its checkpoints on the same images."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import BASELINES


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table; `war` and `uar` are fractions of 1, `own` marks the run itself (no baseline)."""

    title: str
    war: float
    uar: float
    own: bool = False


def rows(summary: Mapping[str, Any], split: str) -> list[Row]:
    """The table's rows from a run's `summary.json`, measured on "test" or "validation"."""
    chance = 1 / len(summary["class_names"])
    lines = [Row("chance", chance, chance)]
    for name, baseline in BASELINES.items():
        if name in summary["baselines"]:
            scores = summary["baselines"][name][split]
            lines.append(Row(baseline.title, scores["war"], scores["uar"]))
    selected = f"best on {protocol.selecting_split(summary)}"
    for name, title in (("last", "last step"), ("best", selected)):
        if name in summary:
            scores = summary[name][split]
            title = f"{summary['method']}, {title} ({summary[name]['step']})"
            lines.append(Row(title, scores["war"], scores["uar"], own=True))
    return lines


def render(summary: Mapping[str, Any]) -> str:
    """The table as Markdown, with a note on what it was measured on."""
    split = protocol.reported_split(summary["last"])
    if split is None:
        return "Nothing to compare: the run has no held-out split.\n"
    measured = f"Measured on {summary['last'][split]['count']} {split} {protocol.unit(summary)}"
    if split == "validation":
        measured += ", which also chose the checkpoint and the baselines' settings: no test split was measured"
    lines = [[row.title, f"{100 * row.war:.2f}", f"{100 * row.uar:.2f}"] for row in rows(summary, split)]
    banner = f"\n**{protocol.TEST_SELECTED}**\n" if protocol.selecting_split(summary) == "test" else ""
    return markdown(("", "accuracy (WAR), %", "UAR, %"), lines) + f"\n{measured}.\n{banner}"


def render_groups(summary: Mapping[str, Any]) -> str:
    """The reported checkpoint's metrics by group as Markdown, a table for each attribute; "" without attributes."""
    reported, split = protocol.reported(summary)
    unit = protocol.unit(summary)
    by_attribute: Mapping[str, Any] = reported[split].get("groups", {}) if split else {}

    def share(group: Mapping[str, Any], metric: str) -> str:
        return with_interval(group[metric], group[f"{metric}_interval"], 2)

    tables = [
        markdown(
            (attribute, unit, "accuracy (WAR), %", "UAR, %"),
            [[g["value"] or "not given", str(g["count"]), share(g, "war"), share(g, "uar")] for g in groups],
        )
        for attribute, groups in by_attribute.items()
    ]
    note = f"By what the dataset tells of its {unit}, with 95% confidence intervals:"
    return "\n".join([note, "", *tables, ""]) if tables else ""


def with_interval(share: float, interval: Sequence[float], decimals: int = 1) -> str:
    """A share and its interval, all fractions of 1, in percent: "60.9 (58.1 to 63.6)"."""
    low, high = interval
    return f"{100 * share:.{decimals}f} ({100 * low:.1f} to {100 * high:.1f})"


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None becomes an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return stream.getvalue()


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable as plain text: first column left-aligned, the others right-aligned."""
    header, *lines = ([cell.replace("|", r"\|") for cell in line] for line in (header, *lines))
    widths = [max(3, *(len(line[i]) for line in (header, *lines))) for i in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |\n"

    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:]) + "\n"
    return row(header) + rule + "".join(row(line) for line in lines)
