"""Captioned images made of a labelled dataset: its labels, or votes, and a description bank say what is seen.

A caption describes the whole face, or up to three parts of it, in the bank's wordings, and never names a class. For
each part a class is drawn by the votes, and the share of its votes says how plainly the part is described. The
statements are the bank's texts, of which, for the whole face and for each part, exactly one class's is true: its truth
is the share of the class's votes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Granularity
from mpafer_jax.data.preprocess import Pixels, to_pixels
from mpafer_jax.data.splits import EncodedImages, Split, load_dataset
from mpafer_jax.jobs.pretraining.config import LabelledSection
from mpafer_jax.jobs.pretraining.sources import CaptionedImages, Statement
from mpafer_jax.method.hard_prompts.bank import GRANULARITIES, Bank, load_bank
from mpafer_jax.runtime.errors import ConfigError, DataError, PromptError

CAPTIONS_PER_IMAGE = 4
_OPENINGS = ("a photo of a face", "a photo of a person", "a grey photo of a face", "a portrait of a person", "a face")
# Least share of the votes, and how a description is then said.
_DEGREES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.65, ("{}",)),
    (0.35, ("{} to some degree", "more or less {}")),
    (0.0, ("a hint of {}", "a trace of {}")),
)
_WHOLE: Granularity = "holistic"
_WHOLE_FACES = 0.3  # share of the captions that describe the whole face
_MOST_PARTS = 3

Wordings = Mapping[Granularity, Sequence[Sequence[str]]]
"""Texts by part of the face, then by class."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Decoded:
    source: EncodedImages

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Pixels:
        return to_pixels(self.source.image(index))


def read_labelled(section: LabelledSection, seed: int) -> tuple[CaptionedImages, CaptionedImages]:
    """Opens a labelled dataset: a training part, and a part for evaluation that is split off train.

    Args:
      seed: of the captions.

    Raises:
      ConfigError: a field does not go with the dataset.
      DataError: see `splits.load_dataset`.
      PromptError: the bank is missing, or lacks a class.
    """
    try:
        bank = load_bank(section.bank)
    except PromptError as error:
        raise PromptError(str(error).replace("hard_prompts.bank", "config.data.labelled.bank")) from error
    data = {
        "dataset": section.dataset,
        "dir": section.dir,
        "label_rule": section.label_rule,
        "validation_fraction": section.held_out_fraction,
        "near_duplicates_together": True,
        "split_seed": section.split_seed,
        "test_split": "",
        "cache_decoded": True,
    }
    try:
        dataset = load_dataset(DataSection.from_config_dict(data))
    except (ConfigError, DataError) as error:
        message = re.sub(r"config\.data\.(?=dataset|dir|label_rule)", "config.data.labelled.", str(error))
        raise type(error)(message) from error
    if dataset.validation is None:
        raise DataError("config.data.labelled.held_out_fraction is 0; nothing would be left to evaluate on")
    return _captioned(dataset.train, bank, seed), _captioned(dataset.validation, bank, seed)


def _captioned(split: Split, bank: Bank, seed: int) -> CaptionedImages:
    votes, parts = split.label_distributions, wordings(split.class_names, bank)
    captions = [caption_all(row, parts, (seed, i)) for i, row in enumerate(votes)]
    statements = tuple(
        Statement(tuple(texts), tuple(texts), group=part) for part, by_class in parts.items() for texts in by_class
    )
    digest = hashlib.sha256(repr((split.fingerprint, captions, statements)).encode() + votes.tobytes())
    return CaptionedImages(
        images=_Decoded(split.source),
        captions=captions,
        statements=statements,
        truth=np.tile(votes, (1, len(parts))).astype(np.float32),
        fingerprint=digest.hexdigest(),
    )


def wordings(class_names: Sequence[str], bank: Bank) -> Wordings:
    """The bank's texts of the whole face, and of each region that it describes for every class."""
    entries = bank.entries(class_names)
    texts: dict[Granularity, list[list[str]]] = {
        part: [[text.text for text in entry.of(part)] for entry in entries] for part in GRANULARITIES
    }
    found: Wordings = {part: by_class for part, by_class in texts.items() if all(by_class)}
    if not found:
        raise PromptError(
            "config.data.labelled.bank: there is no part of the face that it describes for all of "
            f"{', '.join(class_names)}, nor the whole face; give it texts of one"
        )
    return found


def caption_all(votes: npt.NDArray[np.floating], parts: Wordings, seed: tuple[int, int]) -> tuple[str, ...]:
    """`CAPTIONS_PER_IMAGE` random captions of an image with shares of votes [C]."""
    rng = np.random.default_rng(seed)
    return tuple(_caption(votes, parts, rng) for _ in range(CAPTIONS_PER_IMAGE))


def _caption(votes: npt.NDArray[np.floating], parts: Wordings, rng: np.random.Generator) -> str:
    chosen: list[Granularity] = [_WHOLE]
    regions: list[Granularity] = [part for part in parts if part != _WHOLE]
    if regions and not (_WHOLE in parts and rng.random() < _WHOLE_FACES):
        number = int(rng.integers(1, 1 + min(_MOST_PARTS, len(regions))))
        chosen = [regions[int(position)] for position in rng.permutation(len(regions))[:number]]
    phrases: list[str] = []
    for part in chosen:
        label = int(rng.choice(len(votes), p=votes / votes.sum()))
        forms = next(forms for least, forms in _DEGREES if votes[label] >= least)
        phrases.append(_pick(forms, rng).format(_pick(parts[part][label], rng)))
    listed = ", ".join(phrases[:-1]) + ", and " + phrases[-1] if phrases[1:] else phrases[0]
    return f"{_pick(_OPENINGS, rng)} with {listed}"


def _pick(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
