"""Evaluation of a CLIP in pre-training on held-out images and phrasings: retrieval and statement AUC."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.tokenizer import Tokenizer
from mpafer_jax.data import preprocess
from mpafer_jax.jobs.pretraining import batches, steps
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.jobs.pretraining.sources import CaptionedImages
from mpafer_jax.runtime.errors import NonFiniteError
from mpafer_jax.runtime.finite import not_finite
from mpafer_jax.runtime.texts import clean_text

RETRIEVAL_POOL = 256  # captions among which an image retrieves its own
_CHUNK = 128  # images encoded at once


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates a CLIP's parameters on held-out images.

    Attributes:
      captions: token arrays of one caption for each image.
      phrasings: token arrays of one held-out phrasing of each statement; None without statements.
      image_size: in pixels.
      image_step: see `steps.make_image_step`.
      text_step: see `steps.make_text_step`.
    """

    data: CaptionedImages
    captions: batches.Arrays
    phrasings: batches.Arrays | None
    image_size: int
    image_step: Callable[..., dict[str, jax.Array]]
    text_step: Callable[..., jax.Array]

    def __call__(self, params: dict[str, Any]) -> dict[str, float]:
        """Metrics of CLIP parameters.

        Returns:
          'retrieval': share of images whose nearest of 256 captions is one of their own. With statements also the mean
            areas under the ROC curve 'statement_auc' (whole image) and 'local_statement_auc' (best patches). With
            groups 'war' and 'uar', see `recalls`.
        """
        texts = np.asarray(self.text_step(params, self.captions))
        width = texts.shape[-1]
        statements = np.zeros((1, width), np.float32)
        if self.phrasings is not None:
            statements = np.asarray(self.text_step(params, self.phrasings))
        encoded = [self.image_step(params, statements, chunk) for chunk in chunks(self.data, self.image_size)]
        images, local = (
            np.concatenate([np.asarray(part[name]) for part in encoded])[: len(self.data)]
            for name in ("image_features", "local")
        )
        together = {"images": images, "patches with statements": local, "captions": texts, "statements": statements}
        if broken := not_finite(together):
            raise NonFiniteError(f"features of held-out images or texts are NaN or infinite: {', '.join(broken)}")
        result = {"retrieval": retrieval(images, texts, self.data.captions, RETRIEVAL_POOL)}
        if self.phrasings is not None:
            areas = {"statement_auc": mean_auc(images @ statements.T, self.data.truth)}
            areas["local_statement_auc"] = mean_auc(local, self.data.truth)
            result |= {name: area for name, area in areas.items() if area is not None}
        if groups := self.data.groups():
            result |= recalls(images @ statements.T + local, self.data.truth, groups)
        return result


def chunks(data: CaptionedImages, size: int) -> list[npt.NDArray[np.uint8]]:
    """All images, uint8[k, size, size, 3] each; the last one is padded, so that only one size is compiled."""
    total, result = len(data), list[npt.NDArray[np.uint8]]()
    for start in range(0, total, _CHUNK):
        result.append(resized(data, [min(i, total - 1) for i in range(start, start + _CHUNK)], size))
    return result


def resized(data: CaptionedImages, indices: Iterable[int], size: int) -> npt.NDArray[np.uint8]:
    """uint8[k, size, size, 3]: the images at `indices`, without augmentation."""
    images = [preprocess.resize(Image.fromarray(data.images[i]), size) for i in indices]
    return np.stack([np.asarray(image) for image in images])


def make_evaluator(config: PretrainConfig, model: CLIP, data: CaptionedImages, tokenizer: Tokenizer) -> Evaluator:
    """Compiles the evaluation, on the first caption of each image and the first held-out phrasing of each statement."""
    positions = config.model.max_position_embeddings
    captions = batches.tokenize_all(
        [image_captions[0] for image_captions in data.captions], tokenizer.encode_many, positions
    )
    phrasings = None
    if data.statements:
        wordings = [statement.held_out[0] for statement in data.statements]
        table = batches.tokenize_all(wordings, tokenizer.encode_many, positions)
        phrasings = {"ids": table.ids, "ends": table.ends}
    return Evaluator(
        data=dataclasses.replace(
            data, captions=[[clean_text(text).lower() for text in image_captions] for image_captions in data.captions]
        ),
        captions={"ids": captions.ids, "ends": captions.ends},
        phrasings=phrasings,
        image_size=config.model.image_size,
        image_step=steps.make_image_step(
            model=model, top_k=config.loss.top_k, mean=config.data.mean, std=config.data.std
        ),
        text_step=steps.make_text_step(model=model),
    )


def retrieval(
    images: npt.NDArray[np.floating],
    texts: npt.NDArray[np.floating],
    captions: Sequence[Sequence[str]],
    pool: int,
) -> float:
    """Share of images whose nearest caption in a pool equals one of their own captions.

    Compared as text, since images may share a caption.

    Args:
      images: [n, D], normalised.
      texts: [n, D], normalised, of the first caption of each image.
      captions: of each image.
      pool: number of images and captions compared at once; n is cut to full pools.
    """
    hits: list[bool] = []
    size = min(pool, len(images))
    for start in range(0, len(images) // size * size, size):
        similarity = images[start : start + size] @ texts[start : start + size].T
        nearest: list[int] = (start + np.argmax(similarity, axis=1)).tolist()
        hits.extend(captions[near][0] in captions[start + i] for i, near in enumerate(nearest))
    return float(np.mean(hits))


def mean_auc(scores: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> float | None:
    """Mean over statements of the area under the ROC curve, true (> 0.7) against false (< 0.3) images.

    Ties count half.

    Args:
      scores: [n, A].
      truth: [n, A] in 0..1, NaN where unknown.

    Returns:
      The mean over statements with both kinds of images; None without any.
    """
    areas: list[float] = []
    for score, known in zip(scores.T, truth.T, strict=True):
        positive, negative = score[known > 0.7], score[known < 0.3]
        if len(positive) and len(negative):
            # [positives, negatives]: 1 if the true image scores higher, 1/2 if equal.
            wins: npt.NDArray[np.float64] = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
            areas.append(float(np.mean(wins)))
    return float(np.mean(areas)) if areas else None


def recalls(
    scores: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], groups: Sequence[Sequence[int]]
) -> dict[str, float]:
    """How often the truest of a group's statements is recognised, by the mean score over the groups.

    Args:
      scores: [n, A].
      truth: [n, A], NaN where unknown.
      groups: positions of statements; the groups are about the same C classes, in one order.

    Returns:
      'war', the share of the images of which the first group is known, and 'uar', the mean of the shares by class.
    """
    known = ~np.isnan(truth[:, groups[0][0]])
    classes = truth[known][:, np.array(groups[0])].argmax(axis=1)
    answers = np.mean([scores[known][:, np.array(group)] for group in groups], axis=0).argmax(axis=1)
    right = answers == classes
    shares = [float(right[classes == label].mean()) for label in np.unique(classes)]
    return {"war": float(right.mean()), "uar": float(np.mean(shares))}
