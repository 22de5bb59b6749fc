"""Batches of images and captions; as in `data.pipeline`, a batch depends on (seed, step) only."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.config.data_section import AugmentSection
from mpafer_jax.data import pipeline, preprocess
from mpafer_jax.jobs.pretraining.sources import CaptionedImages
from mpafer_jax.runtime.errors import PromptError

# Stream keys besides those of `data.pipeline`, so that streams of one seed are independent.
_CAPTION, _PHRASING, _KEPT = 3, 4, 5

EncodeMany = Callable[[Sequence[str]], list[list[int]]]
Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """Texts as token ids: ids int32[n, L], ends int32[n] (positions of the end token), hashes uint32[n] of the ids."""

    ids: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint32]


def tokenize_all(texts: Sequence[str], encode: EncodeMany, max_positions: int) -> TokenTable:
    """Encodes texts, padded with 0 to the longest.

    Raises:
      PromptError: a text has more than `max_positions` tokens.
    """
    rows = encode(texts)
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if len(rows[longest]) > max_positions:
        raise PromptError(
            f"a caption of {len(rows[longest])} tokens does not fit the {max_positions} positions: {texts[longest]!r}; "
            "shorten it or raise model.max_position_embeddings"
        )
    ids = np.zeros((len(rows), len(rows[longest])), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    eos = np.array([len(tokens) - 1 for tokens in rows], np.int32)
    hashes = np.array([zlib.crc32(row.tobytes()) for row in ids], np.uint32)
    return TokenTable(ids, eos, hashes)


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionTable:
    """Captions of all images as token ids; those of image i are rows starts[i] to starts[i + 1] - 1."""

    tokens: TokenTable
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], encode: EncodeMany, max_positions: int) -> CaptionTable:
        """Encodes every caption."""
        counts = np.array([0, *(len(image_captions) for image_captions in captions)], np.int64)
        starts = np.cumsum(counts, dtype=np.int64)
        texts = [text for image_captions in captions for text in image_captions]
        return cls(tokenize_all(texts, encode, max_positions), starts)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatches:
    """Makes this process's part of the batch of any step.

    Attributes:
      order: position in the stream -> index of the image.
      augment: strengths of the augmentation.
      image_size: side in pixels.
      batch_size: of the global batch.
      local: this process's positions in the global batch.
      fill: colour of erased rectangles.
      token_noise: probability that a caption's token is replaced by a random one, for robustness to unknown words.
      vocab_size: range of the random tokens.
      num_patches: N, of an image.
      kept_patches: how many of them are encoded; N for all.
      kept_until: in so many first steps; later all are.
    """

    data: CaptionedImages
    captions: CaptionTable
    order: pipeline.Order
    augment: AugmentSection
    image_size: int
    batch_size: int
    seed: int
    local: npt.NDArray[np.int64]
    fill: tuple[int, int, int]
    token_noise: float
    vocab_size: int
    num_patches: int
    kept_patches: int
    kept_until: int

    def __call__(self, step: int) -> Arrays:
        """The arrays of `steps.make_train_step`, without a device axis."""
        positions = step * self.batch_size + self.local
        indices = self.order(positions)
        images: list[preprocess.Pixels] = []
        rows: list[int] = []
        ids: list[npt.NDArray[np.int32]] = []
        for position, index in zip(positions.tolist(), indices.tolist(), strict=True):
            image = Image.fromarray(self.data.images[index])
            rng = np.random.default_rng((pipeline.AUGMENT, self.seed, position))
            images.append(preprocess.augment(image, rng, self.augment, self.image_size, self.fill))
            rng = np.random.default_rng((_CAPTION, self.seed, position))
            rows.append(int(rng.integers(int(self.captions.starts[index]), int(self.captions.starts[index + 1]))))
            ids.append(self._with_noise(rows[-1], rng))
        tokens = self.captions.tokens
        batch: Arrays = {
            "image": np.stack(images),
            "ids": np.stack(ids),
            "ends": tokens.ends[rows],
            "caption_hash": tokens.hashes[rows],
            "truth": self.data.truth[indices],
        }
        if self.kept_patches < self.num_patches and step < self.kept_until:
            noise = [np.random.default_rng((_KEPT, self.seed, p)).random(self.num_patches) for p in positions.tolist()]
            batch["kept"] = np.sort(np.argsort(noise, axis=1)[:, : self.kept_patches]).astype(np.int32)
        return batch

    def _with_noise(self, row: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
        ids, end = self.captions.tokens.ids[row], int(self.captions.tokens.ends[row])
        place = np.arange(len(ids))
        replaced = (rng.random(len(ids)) < self.token_noise) & (place > 0) & (place < end)
        # Excludes the last two ids, the start and end tokens.
        return np.where(replaced, rng.integers(0, self.vocab_size - 2, len(ids)), ids).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class StatementTexts:
    """Phrasings of every statement as token ids."""

    phrasings: CaptionTable
    seed: int

    def draw(self, step: int) -> Arrays:
        """'ids' [A, L] and 'ends' [A] of one phrasing per statement, drawn by step; the same on every process."""
        rng = np.random.default_rng((_PHRASING, self.seed, step))
        starts, stops = self.phrasings.starts[:-1], self.phrasings.starts[1:]
        rows = rng.integers(starts, stops)
        return {"ids": self.phrasings.tokens.ids[rows], "ends": self.phrasings.tokens.ends[rows]}
