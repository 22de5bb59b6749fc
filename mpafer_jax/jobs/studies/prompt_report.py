"""Statistics of hard prompts under a CLIP: token lengths, class separation, zero-shot accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Config, PromptGranularity
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.baselines import zero_shot
from mpafer_jax.evaluation.metrics import ClassificationMetrics, from_logits
from mpafer_jax.method import build as build_lib
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.features import encode_splits
from mpafer_jax.method.hard_prompts.bank import GRANULARITIES, Bank, load_banks, permuted
from mpafer_jax.method.hard_prompts.templates import (
    HardPrompts,
    build_hard_prompts,
    configured_hard_prompts,
    described,
    prompt_names,
)
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError, PromptError

CONFIGURED = "as configured"
EVERY = "every granularity"


def all_texts(what: str) -> str:
    """Name in the table of the mean of all descriptions of a granularity, or of EVERY."""
    return f"type 3, {what}, all texts"


@dataclasses.dataclass(frozen=True)
class Length:
    """Number of tokens of a templated text, start and end included."""

    class_name: str
    granularity: PromptGranularity
    tokens: int
    text: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classes.

    Attributes:
      cosine: of their features.
      taken_for: share of the first class's images classified as the second, and vice versa; None for a class without
        images.
    """

    classes: tuple[str, str]
    cosine: float
    taken_for: tuple[float | None, float | None]


@dataclasses.dataclass(frozen=True, eq=False)
class PromptSet:
    """Measurements of one choice of hard prompts.

    Attributes:
      texts: number for each class.
      similarity: float64[C, C], cosines of class features.
      metrics: of zero-shot classification.
    """

    texts: tuple[int, ...]
    similarity: npt.NDArray[np.float64]
    metrics: ClassificationMetrics

    def pairs(self) -> list[Pair]:
        """All pairs of classes, most similar first."""
        names, confusion = self.metrics.class_names, np.array(self.metrics.confusion)

        def share(true: int, taken: int) -> float | None:
            images = int(confusion[true].sum())
            return float(confusion[true, taken] / images) if images else None

        pairs = [
            Pair((names[i], names[j]), float(self.similarity[i, j]), (share(i, j), share(j, i)))
            for i in range(len(names))
            for j in range(i + 1, len(names))
        ]
        return sorted(pairs, key=lambda pair: -pair.cosine)

    def mean_cosine(self) -> float:
        """Mean over pairs of classes; lower means better separated."""
        return float(np.mean([pair.cosine for pair in self.pairs()]))


@dataclasses.dataclass(frozen=True, eq=False)
class PromptReport:
    """All measurements.

    Attributes:
      class_names: C names.
      lengths: of every text of the banks, and of the template.
      budget: positions of the text tower.
      sets: by name, in the table's order.
      absent: granularity -> classes without descriptions.
      split: its name and number of images.
      notes: settings, one per line.
      dataset: description of the data, several lines.
    """

    class_names: tuple[str, ...]
    lengths: tuple[Length, ...]
    budget: int
    sets: Mapping[str, PromptSet]
    absent: Mapping[str, tuple[str, ...]]
    split: tuple[str, int]
    notes: tuple[str, ...]
    dataset: str


def prompt_sets(config: Config, class_names: Sequence[str]) -> dict[str, HardPrompts]:
    """Every choice of hard prompts that the configured banks allow, by its name in the table."""
    class_names = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    sets = {
        CONFIGURED: configured_hard_prompts(config.hard_prompts, class_names),
        "type 1": build_hard_prompts(class_names, 1, None),
        "type 2": build_hard_prompts(class_names, 2, None),
    }

    bank = configured_bank(config, class_names)
    if bank is None:
        return sets
    full = complete_granularities(bank, class_names)
    if not full:
        logging.warning("no descriptions are measured: there is no granularity at which every class has a text")
        return sets

    def build(granularities: Sequence[PromptGranularity], of: Bank) -> HardPrompts:
        return build_hard_prompts(class_names, 3, of, granularities=granularities)

    for granularity in full:
        sets[f"type 3, {granularity}, first text"] = build([granularity], bank.first(1))
        sets[all_texts(granularity)] = build([granularity], bank)
    sets[f"type 3, {EVERY}, first text"] = build(full, bank.first(1))
    sets[all_texts(EVERY)] = build(full, bank)
    shuffled = permuted(bank, class_names, config.seed)
    sets[f"permuted, {EVERY}, first text"] = build(full, shuffled.first(1))
    sets[f"permuted, {EVERY}, all texts"] = build(full, shuffled)
    if "holistic" in full:
        sets["permuted, holistic, first text"] = build(["holistic"], shuffled.first(1))
        sets["permuted, holistic, all texts"] = build(["holistic"], shuffled)
    return sets


def configured_bank(config: Config, class_names: Sequence[str]) -> Bank | None:
    """All descriptions of the configured banks. None, with a warning, if they are unusable and `hard_prompts.type` does
    not need them."""
    try:
        bank = load_banks(config.hard_prompts.bank, 0)
        complete_granularities(bank, class_names)
    except PromptError as error:
        if config.hard_prompts.type == 3:
            raise
        logging.warning("no descriptions are measured: %s", error)
        return None
    return bank


def complete_granularities(bank: Bank, class_names: Sequence[str]) -> list[PromptGranularity]:
    """The granularities with descriptions of every class. Raises PromptError if the bank lacks classes."""
    entries = bank.entries(class_names)
    return [granularity for granularity in GRANULARITIES if all(entry.of(granularity) for entry in entries)]


def count_tokens(config: Config, built: Experiment) -> tuple[Length, ...]:
    """Lengths of every text of the configured banks for the classes, and of the template."""
    bank = configured_bank(config, built.class_names)

    def texts() -> Iterator[tuple[str, PromptGranularity, str]]:
        read = prompt_names(built.class_names, as_spelled=bool(config.data.class_names))
        names = list(zip(built.class_names, read, strict=True))
        for (name, _), text in zip(names, build_hard_prompts(read, 2, None).every_text(), strict=True):
            yield name, "template", text
        for granularity in GRANULARITIES if bank else ():
            for name, as_read in names:
                for description in bank.entry(name).of(granularity) if bank else ():
                    yield name, granularity, described(as_read, description.text)

    return tuple(Length(name, part, len(built.tokenizer.encode(text)), text) for name, part, text in texts())


def make_report(config: Config, split_name: str) -> PromptReport:
    """Measures every choice of hard prompts on the "validation" or "test" split of the configured dataset."""
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    clip = build_lib.load_before_data(config)
    dataset = load_dataset(config.data, without="test" if split_name == "validation" else "validation")
    split = dataset.validation if split_name == "validation" else dataset.test
    if split is None:
        raise ConfigError(
            f"there is no {split_name} split to measure on; set data.{split_name}_split or "
            f"data.{split_name}_fraction, or name the other with --split"
        )
    prompts = prompt_sets(config, dataset.class_names)  # fails on an incomplete bank before anything is computed
    built = build_lib.build_experiment(config, dataset.class_names, clip)
    features = encode_splits(config, built, [split])[split.name]
    names = built.class_names
    bank = configured_bank(config, names)
    lacking = {
        granularity: tuple(name for name in names if bank and not bank.entry(name).of(granularity))
        for granularity in GRANULARITIES
    }
    sets: dict[str, PromptSet] = {}
    for name, encoded in zero_shot.encode(built, prompts).items():
        logits = zero_shot.frozen_logits(built, features.image_features, encoded.features)
        sets[name] = PromptSet(
            texts=tuple(len(encoded.prompts.of_class(index)) for index in range(len(names))),
            similarity=cosines(np.asarray(encoded.features)),
            metrics=from_logits(*features.of_examples(logits), names),
        )
    return PromptReport(
        class_names=names,
        lengths=count_tokens(config, built),
        budget=built.model.backbone.spec.tokens.max_positions,
        sets=sets,
        absent={granularity: classes for granularity, classes in lacking.items() if classes},
        split=(split_name, len(split)),
        notes=_notes(config, built),
        dataset=dataset.description,
    )


def _notes(config: Config, built: Experiment) -> tuple[str, ...]:
    section = config.hard_prompts
    return (
        f"CLIP: {built.clip_name}, content {built.clip_hash[:16]}",
        f"banks: {', '.join(section.bank)}",
        f"{CONFIGURED}: type {section.type}, granularity {'+'.join(section.granularity)}, paraphrases "
        f"{section.paraphrases or 'all'}, combine {section.combine}",
    )


def cosines(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Pairwise cosines [C, C] of features [C, D]."""
    wide = features.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit @ unit.T
