"""The cross-dataset matrix as Markdown, JSON and a heat map."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpafer_jax.config.schema import ClassChoice
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.matrix_plot import save_heat_map
from mpafer_jax.evaluation.statistics import Estimate, p_value, percent
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.runtime import files

MATRIX = "matrix.json"

Cell = dict[str, Any]  # content of a cell's file, see `cross_dataset.Matrix`

_CHOSEN_AMONG: dict[ClassChoice, str] = {
    "common": "Chosen among the classes that checkpoint and dataset share.",
    "checkpoint": "Chosen among all of the checkpoint's classes.",
    "dataset": "Chosen among all of the dataset's classes, trained on or not.",
}

# Accuracies that others report, by `data.dataset` of training and of test.
_REPORTED = {
    ("ferplus", "rafdb"): "72.91% (CAFE, Zhang et al., ECCV 2024: ViT-B/32, seven classes, chosen on the test set)",
}


def render(cells: Sequence[Cell], classes: ClassChoice, level: int = 2) -> str:
    """The matrix as Markdown: WAR and UAR in percent, differences to the first row, then what was measured.

    Where others report the accuracy of a pair of datasets, the number to beat stands below.
    Entries with several runs are mean and sample standard deviation. Rows with a checkpoint selected on its test split
    are named at the top.

    Args:
      cells: rows and columns follow the order of their first cells.
      classes: the candidate classes.
      level: of the headings.
    """
    heading = "#" * level
    rows, columns, by_place = _places(cells)
    # Absent in published cells, which were measured before the field joined them.
    on_test = [row for row in rows if any(cell["row"] == row and cell.get("chosen_on_test") for cell in cells)]
    text = [f"**Trained on {', '.join(on_test)}: {protocol.TEST_SELECTED}**\n"] if on_test else []
    for metric, title in (("war", "Accuracy (WAR), %"), ("uar", "Mean recall (UAR), %")):
        lines = [
            [row, *(percent(_estimate(by_place.get((row, column)), metric)) for column in columns)] for row in rows
        ]
        text += [f"{heading} {title}\n", markdown(("trained on \\ tested on", *columns), lines)]
    if differences := _differences(rows, columns, by_place):
        text += [
            f"{heading} Accuracy, difference to {rows[0]}\n",
            "Paired by run. In brackets: p of a paired t-test over the runs, not corrected for the number of cells.\n",
            markdown(("trained on \\ tested on", *columns), differences),
        ]
    # Absent in published cells, as above.
    pairs = {tuple(cell.get("between", ())): None for cell in cells}
    text += [
        f"The number to beat, trained on {trained} and tested on {tested}: {number}.\n"
        for (trained, tested), number in _REPORTED.items()
        if (trained, tested) in pairs
    ]
    return "\n".join([*text, *_measured(heading, rows, columns, by_place), f"{_CHOSEN_AMONG[classes]}\n"])


def _differences(
    rows: Sequence[str], columns: Sequence[str], by_place: Mapping[tuple[str, str], Sequence[Cell]]
) -> list[list[str]]:
    """Rows after the first: of each column the difference to the first row, over runs that both have by name.

    Nothing, unless some cell has two such runs.
    """

    def paired(row: str, column: str) -> Estimate | None:
        own, first = (
            {str(cell["checkpoint"]).removeprefix(name): cell["war"] for cell in by_place.get((name, column), ())}
            for name in (row, rows[0])
        )
        gaps = [war - first[run] for run, war in own.items() if run in first]
        return Estimate.of(gaps) if len(gaps) > 1 else None

    def shown(estimate: Estimate | None) -> str:
        p = "" if estimate is None or estimate.p_value is None else f" ({p_value(estimate.p_value)})"
        return percent(estimate, "+") + p

    found = [(row, [paired(row, column) for column in columns]) for row in rows[1:]]
    return [[row, *map(shown, estimates)] for row, estimates in found if any(estimates)]


def _measured(
    heading: str, rows: Sequence[str], columns: Sequence[str], by_place: Mapping[tuple[str, str], Sequence[Cell]]
) -> list[str]:
    """Of each row the updates of its checkpoints; of each column its images and classes, apart where rows differ."""
    of_row: list[list[str]] = []
    for row in rows:
        cells = [cell for column in columns for cell in by_place.get((row, column), ())]
        names = {cell["checkpoint"] for cell in cells}
        of_row.append([row, str(len(names)), ", ".join(map(str, sorted({cell["step"] for cell in cells})))])
    of_column: list[list[str]] = []
    for column in columns:
        facts: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            for cell in by_place.get((row, column), ())[:1]:  # runs of a row differ in their prompts only
                fact = str(cell["count"]), str(len(cell["class_names"])), _listed(cell["dropped"])
                facts.setdefault((*fact, ", ".join(cell["unknown"]) or "-"), []).append(row)
        of_column += [
            [column if len(facts) == 1 else f"{column}, by {', '.join(names)}", *fact] for fact, names in facts.items()
        ]
    return [
        f"{heading} What was measured\n",
        markdown(("trained on", "runs", "after updates"), of_row),
        markdown(
            ("tested on", "images", "classes", "images left out, by class", "classes that the dataset has not"),
            of_column,
        ),
    ]


def arrays(cells: Sequence[Cell], metric: str) -> tuple[list[str], list[str], np.ndarray[Any, Any]]:
    """Rows, columns, and a metric's mean over runs in percent [rows, columns], NaN without a cell."""
    rows, columns, by_place = _places(cells)
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), found in by_place.items():
        values[rows.index(row), columns.index(column)] = 100 * float(np.mean([cell[metric] for cell in found]))
    return rows, columns, values


def _places(cells: Sequence[Cell]) -> tuple[list[str], list[str], Mapping[tuple[str, str], list[Cell]]]:
    rows = list(dict.fromkeys(str(cell["row"]) for cell in cells))
    columns = list(dict.fromkeys(str(cell["dataset"]) for cell in cells))
    by_place: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault((str(cell["row"]), str(cell["dataset"])), []).append(cell)
    return rows, columns, by_place


def _estimate(cells: Sequence[Cell] | None, metric: str) -> Estimate | None:
    return None if cells is None else Estimate.of([cell[metric] for cell in cells])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def write(cells: Sequence[Cell], workdir: pathlib.Path, classes: ClassChoice, flags: Sequence[str]) -> str:
    """Writes `matrix.md`, `matrix.json` and `matrix.png`; returns the Markdown."""
    text = render(cells, classes)
    files.write_text(workdir / "matrix.md", text)
    files.write_json(workdir / MATRIX, {"flags": list(flags), "classes": classes, "cells": list(cells)})
    rows, columns, war = arrays(cells, "war")
    save_heat_map(
        workdir / "matrix.png",
        {"accuracy (WAR)": war, "mean recall (UAR)": arrays(cells, "uar")[2]},
        rows,
        columns,
        row_label="trained on",
        column_label="tested on",
        label="%",
    )
    return text
