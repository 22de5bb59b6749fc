"""Heat maps of matrices over classes or datasets."""

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
    label: str,
    row_label: str = "",
    column_label: str = "",
    digits: int = 1,
) -> None:
    """Draws matrices side by side on one colour scale, each entry with its value, into a PNG file.

    Args:
      panels: title -> [rows, columns]; NaN entries stay blank.
      row_names, column_names: tick labels.
      label: of the colour bar.
      row_label, column_label: axis labels.
      digits: decimals of the values.
    """
    # Imported here: takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(panels), math.ceil(math.sqrt(1.5 * len(panels))))  # pages are wider than high
    down = math.ceil(len(panels) / across)
    width = 1.0 + 0.09 * max(map(len, row_names)) + 0.7 * len(column_names)  # inches of a panel, tick labels included
    height = 1.3 + 0.05 * max(map(len, column_names)) + 0.5 * len(row_names)
    figure: Any = Figure(figsize=(width * across + 0.9, height * down), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    values = np.concatenate([matrix[np.isfinite(matrix)] for matrix in panels.values()])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    image: Any = None
    for panel, (title, matrix) in zip(axes, panels.items(), strict=False):
        image = panel.imshow(matrix, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
        panel.set_title(title, fontsize=10)
        panel.set_xticks(range(len(column_names)), column_names, rotation=30, ha="right", fontsize=8)
        panel.set_yticks(range(len(row_names)), row_names, fontsize=8)
        panel.set_xlabel(column_label, fontsize=9)
        panel.set_ylabel(row_label, fontsize=9)
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            value = float(matrix[row, column])
            color = "white" if value < (low + high) / 2 else "black"
            panel.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=color)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=axes.tolist(), label=label, shrink=0.8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def save_matrices(
    path: Path, matrices: Mapping[str, npt.NDArray[np.floating]], class_names: Sequence[str], label: str
) -> None:
    """Draws symmetric matrices [C, C] of classes, by title, without the diagonals, which would dominate the scale."""
    panels = {title: np.where(np.eye(len(class_names), dtype=bool), np.nan, m) for title, m in matrices.items()}
    save_heat_map(path, panels, class_names, class_names, label=label, digits=2)
