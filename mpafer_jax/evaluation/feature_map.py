"""Image features as a 2-D map (t-SNE), and the agreement of neighbours in all dimensions."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Points = npt.NDArray[np.float32]

MIN_IMAGES = 12  # fewer have no meaningful neighbourhoods
_PERPLEXITY = 30.0  # scikit-learn's default
_ITERATIONS = 500  # half of its default, which is enough for a thousand points


def embed_pair(before: Features, after: Features, seed: int = 0) -> tuple[Points, Points]:
    """t-SNE, by cosine distance, of the same images' features before and after training.

    The second map starts from the first, so that points stay in place if their features barely change.

    Args:
      before: [n, D].
      after: [n, D'], the same images in the same order.

    Returns:
      Points [n, 2] of each.
    """
    if len(before) < MIN_IMAGES:
        raise ValueError(f"a map of features needs {MIN_IMAGES} images, found {len(before)}")
    # Imported here: takes a second.
    tsne: Any = importlib.import_module("sklearn.manifold").TSNE
    perplexity = min(_PERPLEXITY, (len(before) - 1) / 3)

    def embed(features: Features, start: Points) -> Points:
        fit = tsne(perplexity=perplexity, metric="cosine", init=start, max_iter=_ITERATIONS, random_state=seed)
        return np.asarray(fit.fit_transform(_normalized(features)), np.float32)

    first = embed(before, _start(_principal_components(_normalized(before))))
    return first, embed(after, _start(first))


def neighbour_agreement(features: Features, labels: npt.NDArray[np.integer], k: int = 10) -> float:
    """Mean share of an image's k nearest neighbours, by cosine, that have its class.

    A check on the map, since projections to two dimensions invent some clusters and hide others.

    Args:
      features: [n, D].
      labels: int[n].
      k: number of neighbours, at most n - 1.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} images have no neighbours")
    unit = _normalized(features)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    k = min(k, len(features) - 1)
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    agree = np.equal(labels[nearest], labels[:, None])  # [n, k]
    return float(agree.mean())


def _normalized(features: Features) -> npt.NDArray[np.float32]:
    values = np.asarray(features, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _principal_components(features: npt.NDArray[np.float32]) -> Points:
    centered = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    # The sign of a direction is arbitrary; fixed, so that no run draws a mirror image.
    signs = np.sign(directions[:2].sum(axis=1, keepdims=True) + 1e-12)
    return (centered @ (signs * directions[:2]).T).astype(np.float32)


def _start(points: Points) -> Points:
    """Scales points down for the initialisation of t-SNE."""
    return (points / max(float(points.std()), 1e-12) * 1e-4).astype(np.float32)
