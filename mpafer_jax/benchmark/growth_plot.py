"""Growth as a table and as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mpafer_jax import files
from mpafer_jax.benchmark.growth import Measured, varied
from mpafer_jax.evaluation.table import markdown

_NAMES = {
    "batch_size": "images in a batch",
    "num_prompts": "visual prompts a layer",
    "top_k": "patches of the local score",
    "image_size": "side of the pictures, pixels",
    "classes": "classes",
    "remat": "clip.remat",
}


def table(found: Mapping[str, Sequence[Measured]]) -> str:
    """A Markdown table of each series."""
    parts: list[str] = []
    for name, points in found.items():
        field, _, condition = name.partition(", ")
        header = [
            _NAMES[field] + (f" ({condition})" if condition else ""),
            "seconds a step (least to greatest)",
            "temporaries, MB",
            "peak memory of the process, MB",
            "compilation, s",
        ]
        rows = [
            [
                str(getattr(m.point, field)),
                f"{m.seconds.median:.3g} ({m.seconds.low:.3g} to {m.seconds.high:.3g})",
                f"{m.temporaries / 1e6:.0f}",
                f"{m.peak_memory / 1e6:.0f}",
                f"{m.compile_seconds:.1f}",
            ]
            for m in points
        ]
        parts.append(markdown(header, rows))
    return "\n".join(parts)


def plot(found: Mapping[str, Sequence[Measured]], path: Path) -> None:
    """A PNG with a column for each size: seconds above, memory below."""
    fields = list(dict.fromkeys(varied(name) for name in found))
    figure = Figure(figsize=(3.2 * len(fields), 5.2), layout="constrained")
    axes: Any = figure.subplots(2, len(fields), squeeze=False, sharex="col")
    for column, field in enumerate(fields):
        for name, points in found.items():
            if varied(name) == field:
                _draw(axes[:, column], points, field, name.partition(", ")[2])
        axes[1, column].set_xlabel(_NAMES[field])
        for axis in axes[:, column]:
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("temporaries, GB")
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw(axes: Any, points: Sequence[Measured], field: str, condition: str) -> None:
    x = [getattr(m.point, field) for m in points]
    style: dict[str, Any] = {"marker": "o", "label": condition or "all at once"}
    if condition:
        style["linestyle"] = "--"
    if isinstance(x[0], str):
        style["linestyle"] = "none"
        axes[0].margins(x=0.2)
    axes[0].plot(x, [m.seconds.median for m in points], **style)
    axes[1].plot(x, [m.temporaries / 1e9 for m in points], **style)
    if condition:
        axes[1].legend(fontsize="small")
