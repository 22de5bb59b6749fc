"""The report on hard prompts as Markdown, CSV and heat maps."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from mpafer_jax.evaluation.matrix_plot import save_matrices
from mpafer_jax.evaluation.table import csv_text, markdown
from mpafer_jax.jobs.studies.prompt_report import CONFIGURED, EVERY, Length, PromptReport, all_texts
from mpafer_jax.method.hard_prompts.bank import GRANULARITIES
from mpafer_jax.runtime import files

_PAIRS = 5


def accuracy_table(report: PromptReport) -> str:
    """A row for each choice of hard prompts: zero-shot accuracy and class separation."""
    lines: list[list[str]] = []
    for name, prompt_set in report.sets.items():
        few, many = min(prompt_set.texts), max(prompt_set.texts)
        closest = prompt_set.pairs()[0]
        lines.append(
            [
                name,
                f"{few}" if few == many else f"{few}-{many}",
                f"{100 * prompt_set.metrics.war:.2f}",
                f"{100 * prompt_set.metrics.uar:.2f}",
                f"{prompt_set.mean_cosine():.3f}",
                f"{closest.cosine:.3f} {' / '.join(closest.classes)}",
            ]
        )
    header = ("hard prompts", "texts a class", "accuracy (WAR), %", "UAR, %", "mean cosine", "closest classes")
    return markdown(header, lines)


def render(report: PromptReport, plots: Sequence[str] = ()) -> str:
    """The whole report as Markdown.

    Args:
      plots: file names of heat maps, relative to the page.
    """
    split, images = report.split
    absent = [
        f"Of the {granularity} the banks say nothing for {', '.join(names)}: left out."
        for granularity, names in report.absent.items()
    ]
    parts = [
        "# Hard prompts",
        "\n".join(f"- {note}" for note in (*report.notes, *absent)),
        f"```\n{report.dataset.strip()}\n```",
        "## Zero-shot",
        f"Measured on the {images} images of the {split} split, CLIP as it came. The features of a class's texts are "
        "averaged. Permuted: each class has another's descriptions, a control.",
        accuracy_table(report),
        f"## Classes that are hard to tell apart ({CONFIGURED})",
        _pairs_table(report),
        *(f"![cosines of the classes' features]({name})" for name in plots),
        "## Cosines of the classes' features",
        _similarity_table(report),
        f"## Lengths in tokens, of at most {report.budget}",
        _length_table(report),
        "Each class: least / median / most.",
        _class_length_table(report),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _pairs_table(report: PromptReport) -> str:
    def percent(share: float | None) -> str:
        return "no images" if share is None else f"{100 * share:.1f}"

    lines = [
        [" / ".join(pair.classes), f"{pair.cosine:.3f}", *map(percent, pair.taken_for)]
        for pair in report.sets[CONFIGURED].pairs()[:_PAIRS]
    ]
    return markdown(("classes", "cosine", "first taken for second, %", "second taken for first, %"), lines)


def _similarity_table(report: PromptReport) -> str:
    matrix = report.sets[CONFIGURED].similarity
    lines = [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(report.class_names, matrix, strict=True)]
    return markdown(("", *report.class_names), lines)


def _length_table(report: PromptReport) -> str:
    lines: list[list[str]] = []
    for granularity, lengths in _by_granularity(report.lengths):
        longest = max(lengths, key=lambda length: length.tokens)
        lines.append([granularity, str(len(lengths)), *_spread(lengths), longest.class_name])
    return markdown(("granularity", "texts", "least", "median", "most", "class of the longest"), lines)


def _class_length_table(report: PromptReport) -> str:
    columns = _by_granularity(report.lengths)
    lines: list[list[str]] = []
    for name in report.class_names:
        class_lengths = [[length for length in lengths if length.class_name == name] for _, lengths in columns]
        lines.append([name, *(" / ".join(_spread(lengths)) if lengths else "-" for lengths in class_lengths)])
    return markdown(("", *(granularity for granularity, _ in columns)), lines)


def _by_granularity(lengths: Iterable[Length]) -> list[tuple[str, list[Length]]]:
    groups: dict[str, list[Length]] = {}
    for length in lengths:
        groups.setdefault(length.granularity, []).append(length)
    return list(groups.items())


def _spread(lengths: Sequence[Length]) -> list[str]:
    tokens = [length.tokens for length in lengths]
    return [str(min(tokens)), f"{np.median(tokens):g}", str(max(tokens))]


def lengths_csv(report: PromptReport) -> str:
    """Every text with its number of tokens."""
    rows = [(length.class_name, length.granularity, length.tokens, length.text) for length in report.lengths]
    return csv_text(("class", "granularity", "tokens", "text"), rows)


def similarity_csv(report: PromptReport) -> str:
    """Cosines of all pairs of classes, for every choice of hard prompts, most similar first."""
    rows = [
        (name, *pair.classes, f"{pair.cosine:.6f}")
        for name, prompt_set in report.sets.items()
        for pair in prompt_set.pairs()
    ]
    return csv_text(("hard_prompts", "class_a", "class_b", "cosine"), rows)


def write(report: PromptReport, out: pathlib.Path) -> None:
    """Writes the report, its tables and its heat maps into a folder."""
    alone = {
        what: report.sets[all_texts(what)].similarity
        for what in (*GRANULARITIES, EVERY)
        if all_texts(what) in report.sets
    }
    images = {"similarity.png": {CONFIGURED: report.sets[CONFIGURED].similarity}}
    if alone:
        images["similarity_by_granularity.png"] = alone
    for name, matrices in images.items():
        save_matrices(out / name, matrices, report.class_names, "cosine of text features")
    files.write_text(out / "token_lengths.csv", lengths_csv(report))
    files.write_text(out / "similarity.csv", similarity_csv(report))
    files.write_text(out / "report.md", render(report, list(images)))
