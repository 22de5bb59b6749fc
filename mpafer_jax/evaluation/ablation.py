"""Statistics of repeated runs: mean and spread over seeds, and what a change costs against the full method.

Reads nothing but the `summary.json` of finished runs in `<root>/<images>/<variant>/seed_<n>`, so a table can be made of
runs that several machines, or several calls of `tools.ablate`, have left in one folder.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mpafer_jax.evaluation.table import BASELINE_TITLES, markdown

FULL = "full"
_HELD_OUT = ("validation", "test")
_METRICS = ("war", "uar")


class MixedRunsError(ValueError):
    """Runs that cannot be compared; the message names two of them and what differs."""


@dataclasses.dataclass(frozen=True)
class Basis:
    """What runs must share to be compared: the CLIP, by its content's hash, and each held-out split, by fingerprint."""

    clip: str
    held_out: Mapping[str, str]

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Basis:
        """That of a finished run."""
        prints: dict[str, str] = summary["fingerprints"]
        return cls(summary["clip"]["hash"], {name: prints[name] for name in _HELD_OUT if name in prints})

    def check(self, other: Basis, mine: str, others: str) -> None:
        """Refuses another basis.

        Raises:
          MixedRunsError: names the two and what differs.
        """
        if self == other:
            return
        what = "CLIP" if self.clip != other.clip else "validation or test images"
        raise MixedRunsError(
            f"{mine} and {others} do not have the same {what}, so they cannot stand in one table; give another "
            "--workdir, or remove the folders of the one that is out of date"
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """One run, or one baseline of a run.

    Attributes:
      images: the folder's name for how many training images there were.
      row: the variant's or the baseline's name.
      seed: of the run.
      scores: 'war' and 'uar', fractions of 1.
      split: what they were measured on, "test" or "validation".
      checkpoint: "best" (on validation), or "last" where there was no validation split to choose on.
      wall_seconds: of the run without its baselines; None for a baseline, and for a run that was interrupted, whose
        last process knows only its own share.
    """

    images: str
    row: str
    seed: int
    scores: Mapping[str, float]
    split: str
    checkpoint: str
    wall_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; None with fewer than two."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def percent(self, sign: str = "") -> str:
        """In percent, as "71.43 ± 0.52"; `sign` "+" writes the mean's sign always."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        mean = round(100 * self.mean, 2) + 0.0  # + 0.0: a difference that rounds to -0.00 is none
        return f"{mean:{sign}.2f}{spread}"


@dataclasses.dataclass(frozen=True)
class Line:
    """All seeds of one row.

    Attributes:
      images, row: see `Result`.
      seeds: ascending.
      scores: by metric.
      difference: by metric, this row minus the full method, paired by seed; None where no seed is shared, and for the
        full method itself.
      paired_seeds: how many seeds the difference is over.
      minutes: mean over the runs that know theirs.
    """

    images: str
    row: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Spread]
    difference: Mapping[str, Spread] | None
    paired_seeds: int
    minutes: float | None


def collect(root: pathlib.Path, variants: Sequence[str]) -> list[Result]:
    """Every finished run of the named variants under `root`, and the baselines of the full method's runs.

    Raises:
      MixedRunsError: they do not share one CLIP, or not their held-out images.
    """
    found: list[Result] = []
    first: tuple[Basis, str] | None = None
    for path in sorted(root.glob("*/*/seed_*/summary.json")):
        images, variant, folder = path.parts[-4:-1]
        if variant in variants:
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            first = first or (Basis.of(summary), str(path.parent))
            first[0].check(Basis.of(summary), first[1], str(path.parent))
            found += _results(summary, images, variant, int(folder.removeprefix("seed_")))
    return found


def _results(summary: Mapping[str, Any], images: str, variant: str, seed: int) -> list[Result]:
    checkpoint = "best" if "best" in summary else "last"
    split = "test" if "test" in summary[checkpoint] else "validation"
    process = summary["process"]
    seconds = None if process["resumed_after_step"] else process["wall_seconds"]
    rows: dict[str, tuple[Mapping[str, float], float | None]] = {variant: (summary[checkpoint][split], seconds)}
    if variant == FULL:
        rows |= {name: (scores[split], None) for name, scores in summary["baselines"].items()}
    return [
        Result(images, row, seed, {name: scores[name] for name in _METRICS}, split, checkpoint, seconds)
        for row, (scores, seconds) in rows.items()
    ]


def summarize(results: Iterable[Result], order: Sequence[str]) -> list[Line]:
    """One line for each number of images and row.

    Args:
      results: of `collect`.
      order: the rows' order, variants first.
    """
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        groups.setdefault((result.images, result.row), {})[result.seed] = result
    keys = sorted(groups, key=lambda key: (_images_order(key[0]), order.index(key[1])))
    return [_line(groups[key], groups.get((key[0], FULL), {})) for key in keys]


def _images_order(images: str) -> tuple[bool, int, str]:
    """All images first, then from many to few."""
    digits = images.split("_")[0]
    return digits.isdigit(), -int(digits) if digits.isdigit() else 0, images


def _line(by_seed: Mapping[int, Result], full: Mapping[int, Result]) -> Line:
    seeds = tuple(sorted(by_seed))
    first = by_seed[seeds[0]]
    paired = [seed for seed in seeds if seed in full and first.row != FULL]
    seconds = [found.wall_seconds for found in by_seed.values() if found.wall_seconds is not None]

    def difference(name: str) -> Spread:
        return Spread.of([by_seed[seed].scores[name] - full[seed].scores[name] for seed in paired])

    return Line(
        images=first.images,
        row=first.row,
        seeds=seeds,
        scores={name: Spread.of([by_seed[seed].scores[name] for seed in seeds]) for name in _METRICS},
        difference={name: difference(name) for name in _METRICS} if paired else None,
        paired_seeds=len(paired),
        minutes=sum(seconds) / len(seconds) / 60 if seconds else None,
    )


def render(lines: Sequence[Line], titles: Mapping[str, str], notes: Sequence[str]) -> str:
    """All lines as Markdown, one table for each number of training images.

    Args:
      lines: of `summarize`.
      titles: what the rows are called; baselines have their own titles.
      notes: paragraphs below the tables.
    """
    header = ("", "runs", "accuracy, %", "UAR, %", "accuracy - full", "UAR - full", "minutes a run")
    text: list[str] = []
    for images in dict.fromkeys(line.images for line in lines):
        cells = [_cells(line, {**BASELINE_TITLES, **titles}) for line in lines if line.images == images]
        text += [f"## Training images: {images.replace('_', ' ')}\n", markdown(header, cells)]
    return "\n".join([*text, *(f"{note}\n" for note in notes)])


def _cells(line: Line, titles: Mapping[str, str]) -> list[str]:
    war, uar = (line.scores[name].percent() for name in _METRICS)
    gaps = ["", ""] if line.difference is None else [line.difference[name].percent("+") for name in _METRICS]
    minutes = "" if line.minutes is None else f"{line.minutes:.1f}"
    return [titles[line.row], str(len(line.seeds)), war, uar, *gaps, minutes]
