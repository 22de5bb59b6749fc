"""The HTML pages: a single run, and a comparison of several."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

import mpafer_jax
from mpafer_jax.artifacts import run_dir
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import feature_map, protocol, table
from mpafer_jax.evaluation.calibration import calibrate
from mpafer_jax.evaluation.confidence import COVERAGES
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.evaluation.report import contents, images, plots
from mpafer_jax.evaluation.report.contents import Contents, Measurement
from mpafer_jax.method.losses import TERMS
from mpafer_jax.runtime import files, templates
from mpafer_jax.runtime.console import duration
from mpafer_jax.runtime.errors import ReportError

# Titles of curves, in display order; other metrics follow by name.
_TITLES = {
    "loss": "Loss, all terms",
    **{term.name: term.title for term in TERMS},
    "accuracy": "Accuracy",
    "uar": "Mean recall (UAR)",
    "macro_f1": "Macro F1",
    "learning_rate": "Learning rate",
    "grad_norm": "Norm of the gradient",
}
_SHARES = ("accuracy", "uar", "macro_f1")
_SAME = {"war": "accuracy"}  # metric names of training -> evaluation


def write_report(workdir: pathlib.Path, *, with_images: bool = True) -> pathlib.Path:
    """Writes `report.html` of one run from the files in its workdir.

    Args:
      workdir: of a finished run or evaluation.
      with_images: whether to show the most confident errors, if their images were saved.

    Returns:
      The file.

    Raises:
      ReportError: the workdir has no results, or a file cannot be read.
    """
    found = contents.read(workdir)
    page = _render(
        "run.html",
        title=found.name,
        run=found,
        banner=_banner(found),
        measurements=[_measured(part, with_images) for part in found.measurements],
        baselines=_baselines(found),
        curves=_curves(found),
        config=_by_section(found.config),
    )
    files.write_text(workdir / run_dir.REPORT, page)
    return workdir / run_dir.REPORT


def write_comparison(workdirs: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Writes one page that compares runs: results, recall by class, curves, and differences in configuration.

    Raises:
      ReportError: a workdir has no results, or a file cannot be read.
    """
    runs = [contents.read(workdir) for workdir in workdirs]
    names = _distinct_names(workdirs, runs)
    lines = [_line(name, part) for name, run in zip(names, runs, strict=True) for part in run.measurements]
    if not lines:
        raise ReportError(f"none of {', '.join(map(str, workdirs))} was measured on a validation or test split")
    page = _render(
        "comparison.html",
        title=f"{len(runs)} runs",
        lines=lines,
        row_names=[_row_name(line, lines) for line in lines],
        classes=list(dict.fromkeys(name for line in lines for name in line["metrics"]["recall"])),
        differs=_differing_images(lines),
        unit=" or ".join(dict.fromkeys(line["unit"] for line in lines)),
        banner=_compared_banner(lines),
        fields=_differing_fields([run for run in runs if run.config]),
        configured=[name for name, run in zip(names, runs, strict=True) if run.config],
        unconfigured=[name for name, run in zip(names, runs, strict=True) if not run.config],
        curves=_compared_curves(names, runs),
    )
    files.write_text(out, page)


def _render(template: str, **values: Any) -> str:
    environment = templates.environment("mpafer_jax.evaluation.report")
    environment.filters |= {"percent": _percent, "value": _value, "duration": duration}
    return environment.get_template(template).render(
        **values, version=mpafer_jax.__version__, made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    )


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _measured(part: Measurement, with_images: bool) -> dict[str, Any]:
    """A measurement for the template, with its plots if its predictions are stored."""
    shown: dict[str, Any] = {
        "of": part,
        "classes": _class_rows(part.metrics),
        "groups": part.metrics.get("groups", {}),  # as in `ClassificationMetrics.groups`
        "calibration": None,
        "risk": None,
        "map": None,
        "mistakes": [],
    }
    if part.confidence is not None:
        risks = {name: split["risk"] for name, split in part.confidence["splits"].items()}
        shown["risk"] = plots.risk_coverage(risks, COVERAGES, part.title)
    if (stored := part.predictions) is not None:
        calibration = calibrate(stored.probabilities, stored.labels)
        shown |= {
            "calibration": calibration,
            "reliability": plots.reliability(calibration, part.title),
            "confidence": plots.confidences(calibration, part.title, part.unit),
            "map": _map(stored, part.title),
            "mistakes": _mistakes(stored) if with_images else [],
        }
    return shown


def _class_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    confusion = np.array(metrics["confusion"])
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(metrics["class_names"]):
        hits, count, said = int(confusion[index, index]), int(confusion[index].sum()), int(confusion[:, index].sum())
        recall, precision = hits / count if count else None, hits / said if said else None
        f1 = 2 * hits / (count + said) if count else None
        rows.append({"name": name, "count": count, "recall": recall, "precision": precision, "f1": f1})
    return rows


def _map(stored: Predictions, place: str) -> dict[str, Any] | None:
    if len(stored.mapped) < feature_map.MIN_IMAGES:
        return None
    labels = stored.labels[stored.mapped]
    before, after = feature_map.embed_pair(stored.features_before, stored.features_after)
    counts = np.bincount(labels).astype(np.float64)
    return {
        "before": plots.feature_map("Frozen CLIP", before, labels, stored.class_names, place),
        "after": plots.feature_map("With visual prompts", after, labels, stored.class_names, place),
        "agreement_before": feature_map.neighbour_agreement(stored.features_before, labels),
        "agreement_after": feature_map.neighbour_agreement(stored.features_after, labels),
        "agreement_chance": float(np.sum(counts * (counts - 1)) / (len(labels) * (len(labels) - 1))),
        "count": len(labels),
    }


def _mistakes(stored: Predictions) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    probabilities = stored.probabilities
    for row, position in enumerate(stored.mistakes[: len(stored.mistake_pixels)].tolist()):
        true, said = int(stored.labels[position]), int(probabilities[position].argmax())
        name, pixels = str(stored.names[position]), stored.mistake_pixels[row]
        views = [(f"{name}, as the model saw it", images.data_uri(Image.fromarray(pixels)))]  # alternative text, URI
        if row < len(stored.mistake_patch_scores):
            maps = images.heat_maps(pixels, stored.mistake_patch_scores[row], (said, true))
            for word, index, drawn in zip(("said", "true"), (said, true), maps, strict=True):
                alt = f"where its patches speak for {stored.class_names[index]} ({word})"
                views.append((alt, images.data_uri(drawn)))
        shown.append(
            {
                "name": name,
                "true": stored.class_names[true],
                "said": stored.class_names[said],
                "confidence": float(probabilities[position, said]),
                "probability_of_true": float(probabilities[position, true]),
                "views": views,
            }
        )
    return shown


def _banner(found: Contents) -> str:
    return protocol.TEST_SELECTED if any(part.chosen_on_test for part in found.measurements) else ""


def _baselines(found: Contents) -> list[table.Row]:
    summary = found.summary
    split = None if summary is None else protocol.reported_split(summary["last"])
    return [] if summary is None or split is None else table.rows(summary, split)


def _curves(found: Contents) -> list[plots.Plot]:
    lines: dict[str, dict[str, contents.Scalars]] = {}
    for kind, metrics in found.curves.items():
        for name, values in metrics.items():
            lines.setdefault(_SAME.get(name, name), {other: {} for other in found.curves})[kind] = values
    mark = found.summary["best"]["step"] if found.summary is not None and "best" in found.summary else None
    return [plots.curves(_title(name), lines[name], mark=mark, shares=name in _SHARES) for name in _ordered(lines)]


def _ordered(names: Mapping[str, Any]) -> list[str]:
    return [name for name in _TITLES if name in names] + sorted(set(names) - set(_TITLES))


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _by_section(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted names -> section -> field -> value; fields outside any section come first."""
    sections: dict[str, dict[str, Any]] = {"": {}}
    for name, value in config.items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section, {})[field] = value
    return {name: fields for name, fields in sections.items() if fields}


def _line(name: str, part: Measurement) -> dict[str, Any]:
    """A row of the comparison."""
    stored = part.predictions
    return {
        "run": name,
        "title": part.title,
        "fingerprint": part.fingerprint,
        "chosen_on_test": part.chosen_on_test,
        "metrics": part.metrics,
        "unit": part.unit,
        "ece": None if stored is None else calibrate(stored.probabilities, stored.labels).ece,
        "wall_seconds": part.wall_seconds,
    }


def _distinct_names(workdirs: Sequence[pathlib.Path], runs: Sequence[Contents]) -> list[str]:
    """The folders' names, with as many parents as needed to be distinct."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    if len(set(parts)) != len(parts):
        raise ReportError(f"a workdir is named twice: {', '.join(map(str, workdirs))}")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [run.name for run in runs]


def _differing_images(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows measured on other images than the first, by their run and, of one with several, what was measured."""
    return [_row_name(line, lines) for line in lines if line["fingerprint"] != lines[0]["fingerprint"]]


def _compared_banner(lines: Sequence[Mapping[str, Any]]) -> str:
    on_test = [_row_name(line, lines) for line in lines if line["chosen_on_test"]]
    return f"{', '.join(on_test)}: {protocol.TEST_SELECTED}" if on_test else ""


def _row_name(line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    several = [other["run"] for other in lines].count(line["run"]) > 1
    return f"{line['run']} ({line['title']})" if several else line["run"]


def _differing_fields(runs: Sequence[Contents]) -> dict[str, list[str]]:
    """Field -> its value in every run, for fields that differ."""
    configs = [run_dir.by_field(Config, run.config) for run in runs]
    fields = dict.fromkeys(field for config in configs for field in config)
    values = {field: [config.get(field, run_dir.ABSENT) for config in configs] for field in fields}
    return {
        field: [_value(value) for value in found]
        for field, found in values.items()
        if any(value != found[0] for value in found)
    }


def _compared_curves(names: Sequence[str], runs: Sequence[Contents]) -> dict[str, list[plots.Plot]]:
    drawn: dict[str, list[plots.Plot]] = {}
    for kind in dict.fromkeys(kind for run in runs for kind in run.curves):
        lines: dict[str, dict[str, contents.Scalars]] = {}
        for name, run in zip(names, runs, strict=True):
            for metric, values in run.curves.get(kind, {}).items():
                lines.setdefault(_SAME.get(metric, metric), {})[name] = values
        drawn[kind] = [
            plots.curves(f"{_title(name)}, {kind}", lines[name], shares=name in _SHARES) for name in _ordered(lines)
        ]
    return drawn
