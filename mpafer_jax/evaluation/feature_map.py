"""Image features as a 2-D map (t-SNE), and the agreement of neighbours in all dimensions."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Points = npt.NDArray[np.float32]

MIN_IMAGES = 12  # fewer have no meaningful neighbourhoods
_PERPLEXITY = 30.0  # scikit-learn's default
_ITERATIONS = 500  # half of its default, which is enough for a thousand points


def embed_pair(before: Features, after: Features) -> tuple[Points, Points]:
    """t-SNE, by cosine distance, of the same images' features before and after training.

    The first map starts from the principal components, the second from the first map, so that points stay in place if
    their features barely change.

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

    def embed(features: Features, start: Points | Literal["pca"]) -> Points:
        fit = tsne(perplexity=perplexity, metric="cosine", init=start, max_iter=_ITERATIONS, random_state=0)
        return np.asarray(fit.fit_transform(np.asarray(features, np.float32)), np.float32)

    first = embed(before, "pca")
    # Scaled down as scikit-learn scales the principal components.
    return first, embed(after, (first / max(float(first.std()), 1e-12) * 1e-4).astype(np.float32))


def neighbour_agreement(features: Features, labels: npt.NDArray[np.integer], k: int = 10) -> float:
    """Mean share of an image's k nearest neighbours, by cosine, that have its class.

    A check on the map, since projections to two dimensions invent some clusters and hide others.

    Args:
      features: [n, D].
      labels: int[n].
      k: number of neighbours, at most n - 1.
    """
    neighbors: Any = importlib.import_module("sklearn.neighbors").NearestNeighbors(
        n_neighbors=min(k, len(features) - 1), metric="cosine"
    )
    nearest: npt.NDArray[np.int64] = neighbors.fit(np.asarray(features, np.float32)).kneighbors(return_distance=False)
    return float(np.equal(labels[nearest], labels[:, None]).mean())
