"""Matrices over classes as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax import files


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
