"""Base-to-new generalisation (Zhou et al., CoCoOp, CVPR 2022): trained on half of the classes, tested on either half.

The first half of the classes, rounded up, is the base. Prompts are trained on its images alone; then base and new
classes are each tested among themselves, and the harmonic mean of the two accuracies says how good both are at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpafer_jax.evaluation.protocol import TEST_SELECTED
from mpafer_jax.evaluation.statistics import Estimate, percent
from mpafer_jax.evaluation.table import markdown

HALVES = ("base", "new")
# Method -> one entry a seed: half -> its 'war' and 'uar', fractions of 1.
Scores = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]


def halve(class_names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base classes, the first half rounded up, and new classes.

    Raises:
      ValueError: one of the halves would have fewer than two classes.
    """
    middle = (len(class_names) + 1) // 2
    base, new = tuple(class_names[:middle]), tuple(class_names[middle:])
    if len(new) < 2:
        raise ValueError(
            f"{len(class_names)} classes ({', '.join(class_names)}) do not make two halves of two or more; base-to-new "
            "needs at least four"
        )
    return base, new


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1 / base + 1 / new), and 0 where one of them is."""
    return 2 * base * new / (base + new) if base and new else 0.0


def render(
    scores: Scores, class_names: Sequence[str], counts: Mapping[str, int], split: str, *, chosen_on_test: bool
) -> str:
    """The table as Markdown: for accuracy and mean recall the base, the new classes and their harmonic mean H.

    Args:
      scores: of every method.
      class_names: all classes, in the order that was halved.
      counts: half -> its number of test images.
      split: what was measured on, "test" or "validation".
      chosen_on_test: whether the test split of the base classes chose the checkpoint.
    """
    lines: list[list[str]] = []
    for method, seeds in scores.items():
        cells: list[str] = []
        for metric in ("war", "uar"):
            both = [(one["base"][metric], one["new"][metric]) for one in seeds]
            columns = (*zip(*both, strict=True), [harmonic_mean(base, new) for base, new in both])
            cells += [percent(Estimate.of(column)) for column in columns]
        lines.append([method, *cells])
    header = ("", *(f"{name} {column}" for name in ("WAR", "UAR") for column in ("base", "new", "H")))
    runs = max(len(seeds) for seeds in scores.values())
    halves = zip(HALVES, halve(class_names), strict=True)
    named = "".join(f"- {half}: {', '.join(names)} ({counts[half]} {split} images)\n" for half, names in halves)
    over = f"; mean ± sample standard deviation over {runs} seeds" if runs > 1 else ""
    banner = f"\n**{TEST_SELECTED}**\n" if chosen_on_test else ""
    return f"{markdown(header, lines)}\nPercent{over}. H: harmonic mean of base and new.\n{banner}\n{named}"
