"""Finds near-duplicates: images that differ by mirroring, encoding, size, brightness or contrast alone.

Both steps work on small grey images. A perceptual hash of 64 bits proposes pairs: the signs of low DCT coefficients,
relative to their means over the dataset, since aligned faces have most signs in common. Then the details of the two
images have to correlate. docs/datasets.md has the precision and recall of this on photographs of faces.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from concurrent import futures
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, sparse
from scipy.sparse import csgraph

from mpafer_jax.data.inspection import Thumbnails
from mpafer_jax.runtime import progress, workers

_Hashes = npt.NDArray[np.uint64]
_RADIUS = 12  # of 64 bits that may differ
_SIMILARITY = 0.8  # least correlation of details
_BLUR = 2.0  # standard deviation in pixels; details are what this blur removes
_PRIOR = 100  # images with coefficients 0 that join the mean
ROWS = 512  # images compared with all others, or thumbnails transformed, at once
_COLUMNS = 16384  # of these others at once, which takes 72 MiB
# (vertical, horizontal) frequencies of the hash, the lowest 64 without the mean.
_FREQUENCIES = sorted(((u, v) for u in range(11) for v in range(11) if u + v), key=lambda f: (f[0] + f[1], f))[:64]
_VERTICAL, _HORIZONTAL = np.array(_FREQUENCIES).T
_MIRROR = np.where(_HORIZONTAL % 2, -1, 1).astype(np.float32)  # odd coefficients change sign in a mirror image


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two near-duplicates.

    Attributes:
      first, second: positions, first < second.
      mirrored: whether one is the mirror image of the other.
      similarity: correlation of their details, at most 1.
    """

    first: int
    second: int
    mirrored: bool
    similarity: float


def find(thumbnails: Thumbnails) -> Iterator[list[Pair]]:
    """Near-duplicates among thumbnails [n, S, S]; yields those of `ROWS` images with all later ones at a time.

    All hashes are compared: at this radius buckets of equal bits would hold most of the images.
    """
    coefficients = np.concatenate([_coefficients(part) for part in _parts(thumbnails)])
    # Of the images and their mirror images; close to 0 for few, whose own mean would set near-duplicates apart.
    means = coefficients.sum(axis=0) * (_MIRROR > 0) / (len(thumbnails) + _PRIOR)
    hashes, mirrored = (_hash(signed > means) for signed in (coefficients, coefficients * _MIRROR))
    search = functools.partial(_pairs, thumbnails, hashes, mirrored)
    with futures.ThreadPoolExecutor(cores := workers.usable_cores()) as pool:
        yield from workers.map_in_order(pool, search, range(0, len(thumbnails), ROWS), 2 * cores)


def groups(thumbnails: Thumbnails) -> npt.NDArray[np.int32]:
    """int32[n]: a number for each thumbnail, equal for near-duplicates, and for those joined by a chain of them."""
    found = progress.track(find(thumbnails), "comparing", len(thumbnails), size=lambda _: ROWS)
    pairs = [pair for some in found for pair in some]
    rows, columns = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = sparse.coo_array((np.ones(len(pairs), bool), (rows, columns)), shape=(len(thumbnails),) * 2)
    return cast(npt.NDArray[np.int32], csgraph.connected_components(graph, directed=False)[1])


def _pairs(thumbnails: Thumbnails, hashes: _Hashes, mirrored: _Hashes, start: int) -> list[Pair]:
    """Pairs of the images from `start` to `start + ROWS` with later ones."""
    pairs: dict[tuple[int, int], Pair] = {}
    for is_mirrored, queries in ((False, hashes), (True, mirrored)):
        first, second = _close(queries, hashes, start)
        similarities = _similarities(thumbnails, first, second, is_mirrored)
        for k in np.flatnonzero(similarities >= _SIMILARITY).tolist():
            pair = Pair(int(first[k]), int(second[k]), is_mirrored, float(similarities[k]))
            other = pairs.get((pair.first, pair.second))
            if other is None or pair.similarity > other.similarity:  # symmetric images are similar either way
                pairs[pair.first, pair.second] = pair
    return sorted(pairs.values(), key=lambda pair: (pair.first, pair.second))


def _close(queries: _Hashes, hashes: _Hashes, start: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of queries from `start` to `start + ROWS` and of later hashes within the radius, in ascending order."""
    found = [np.zeros((2, 0), np.int64)]
    for column in range(start, len(hashes), _COLUMNS):
        distances = np.bitwise_count(queries[start : start + ROWS, None] ^ hashes[None, column : column + _COLUMNS])
        rows, columns = np.nonzero(distances <= _RADIUS)
        found.append(np.stack([rows + start, columns + column])[:, rows + start < columns + column])
    first, second = np.concatenate(found, axis=1)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _parts(thumbnails: Thumbnails) -> Iterator[Thumbnails]:
    return (thumbnails[start : start + ROWS] for start in range(0, len(thumbnails), ROWS))


def _coefficients(thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
    """float32[n, 64]: low DCT coefficients, independent of brightness and contrast."""
    pixels = _standardized(thumbnails.astype(np.float32))
    transformed = cast(npt.NDArray[np.float32], fft.dctn(pixels, axes=(1, 2), norm="ortho"))
    return transformed[:, _VERTICAL, _HORIZONTAL]


def _hash(bits: npt.NDArray[np.bool_]) -> _Hashes:
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]


def _similarities(
    thumbnails: Thumbnails, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], mirrored: bool
) -> npt.NDArray[np.float32]:
    """float32[pairs]: correlation of the details of each pair; 0 for an image without any."""
    parts = [np.zeros(0, np.float32)]
    for start in range(0, len(first), ROWS):
        one = _details(thumbnails[first[start : start + ROWS]])
        other = _details(thumbnails[second[start : start + ROWS]])
        parts.append(np.einsum("nij,nij->n", one[:, :, ::-1] if mirrored else one, other))
    return np.concatenate(parts)


def _details(thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
    pixels = thumbnails.astype(np.float32)
    return _standardized(pixels - ndimage.gaussian_filter(pixels, _BLUR, axes=(1, 2)))


def _standardized(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Images [n, S, S] with mean 0 and norm 1; 0 where all pixels are equal."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    norms = np.linalg.norm(centred, axis=(1, 2), keepdims=True)
    return centred / np.maximum(norms, 1e-3)
