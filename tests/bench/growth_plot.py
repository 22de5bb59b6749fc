"""Growth as a table and as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mpafer_jax.evaluation.table import markdown
from mpafer_jax.runtime import files
from tests.bench.growth import Measured, varied

_COLUMNS = 3  # of panels, so that they can be read on a page
_NAMES = {
    "batch_size": "images in a batch",
    "num_prompts": "visual prompts a layer",
    "top_k": "patches of the local score",
    "image_size": "side of the images, pixels",
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
    """A PNG with two panels for each size: seconds above, memory below."""
    fields = list(dict.fromkeys(varied(name) for name in found))
    columns = min(_COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(3.4 * columns, 4.8 * rows), layout="constrained")
    panels: Any = figure.subplots(2 * rows, columns, squeeze=False)
    for number, field in enumerate(fields):
        pair = panels[2 * (number // columns) : 2 * (number // columns) + 2, number % columns]
        for name, points in found.items():
            if varied(name) == field:
                _draw(pair, points, field, name.partition(", ")[2])
        pair[0].set_ylabel("seconds a step")
        pair[1].set_ylabel("temporaries, GB")
        pair[1].set_xlabel(_NAMES[field])
        for panel in pair:
            panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
            panel.grid(alpha=0.3)
    for panel in panels.flat:
        panel.set_visible(panel.has_data())
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw(pair: Any, points: Sequence[Measured], field: str, condition: str) -> None:
    x = [getattr(m.point, field) for m in points]
    style: dict[str, Any] = {"marker": "o", "label": condition or "all at once"}
    if condition:
        style["linestyle"] = "--"
    if isinstance(x[0], str):
        style["linestyle"] = "none"
        pair[0].margins(x=0.2)
        pair[1].margins(x=0.2)
    pair[0].plot(x, [m.seconds.median for m in points], **style)
    pair[1].plot(x, [m.temporaries / 1e9 for m in points], **style)
    if condition:
        pair[1].legend(fontsize="small")
