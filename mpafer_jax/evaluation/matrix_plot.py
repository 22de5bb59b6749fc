"""Matrices over classes as images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.runtime import files


def save_heat_map(
    path: Path,
    panels: Mapping[str, npt.NDArray[np.floating]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    row_label: str,
    column_label: str,
    label: str,
) -> None:
    """Draws matrices of percentages side by side, every entry written out, on one scale of colours.

    Args:
      path: PNG file to write.
      panels: [rows, columns] each, by title; NaN where nothing was measured.
      row_names, column_names: of the entries.
      row_label, column_label: what rows and columns are.
      label: what the colours mean.
    """
    # Here: it takes a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 1.0 + 0.09 * max(map(len, row_names)) + 0.75 * len(column_names)
    height = 1.3 + 0.05 * max(map(len, column_names)) + 0.5 * len(row_names)
    figure: Any = Figure(figsize=(width * len(panels) + 0.9, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    values = np.concatenate([matrix[np.isfinite(matrix)] for matrix in panels.values()])
    low, high = float(values.min(initial=100)), float(values.max(initial=0))
    image: Any = None
    for panel, (title, matrix) in zip(axes, panels.items(), strict=True):
        image = panel.imshow(matrix, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
        panel.set_title(title, fontsize=10)
        panel.set_xticks(range(len(column_names)), column_names, rotation=30, ha="right", fontsize=8)
        panel.set_yticks(range(len(row_names)), row_names, fontsize=8)
        panel.set_xlabel(column_label, fontsize=9)
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            value = float(matrix[row, column])
            color = "white" if value < (low + high) / 2 else "black"
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
    axes[0].set_ylabel(row_label, fontsize=9)
    figure.colorbar(image, ax=axes.tolist(), label=label, shrink=0.8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def save_matrices(
    path: Path, matrices: Mapping[str, npt.NDArray[np.floating]], class_names: Sequence[str], label: str
) -> None:
    """Draws symmetric matrices side by side, on one scale of colours that leaves the diagonals out.

    Args:
      path: PNG file to write.
      matrices: [C, C] each, by title.
      class_names: C names of rows and columns.
      label: what the colours mean.
    """
    # Here: it takes a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(class_names)
    off_diagonal = ~np.eye(count, dtype=bool)
    values = np.concatenate([matrix[off_diagonal] for matrix in matrices.values()])
    low, high = float(values.min()), float(values.max())
    columns = min(len(matrices), math.ceil(math.sqrt(1.5 * len(matrices))))  # pages are wider than high
    rows = math.ceil(len(matrices) / columns)
    side = 1.6 + 0.45 * count  # inches of a panel, names included
    figure: Any = Figure(figsize=(columns * side + 0.8, rows * side), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    image: Any = None
    for panel, (title, matrix) in zip(panels, matrices.items(), strict=False):
        shown = np.where(off_diagonal, matrix, np.nan)  # a class with itself: always 1, would set the scale
        image = panel.imshow(shown, cmap="viridis", vmin=low, vmax=high)
        panel.set_title(title, fontsize=10)
        panel.set_xticks(range(count), class_names, rotation=45, ha="right", fontsize=8)
        panel.set_yticks(range(count), class_names, fontsize=8)
        for row, column in zip(*np.nonzero(off_diagonal), strict=True):
            value = float(matrix[row, column])
            dark = value < (low + high) / 2
            text = f"{value:.2f}".replace("0.", ".")
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    for panel in panels[len(matrices) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=panels.tolist(), label=label, shrink=0.6)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png")
