"""Faithfulness of heat maps: deletion and insertion curves (Petsiuk, Das and Saenko, RISE, 2018).

Deletion removes patches in the map's order, from the whole image; insertion adds them to a blurred one. Both follow the
probability of the class predicted for the whole image: a faithful map has a low deletion and a high insertion area.
Baselines are a random order and one from the centre outwards, which is strong because faces are in the middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from mpafer_jax.config.schema import DataSection
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.metrics import softmax
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.inference.attribution import Explainer, Explanation
from mpafer_jax.inference.predictor import Predictor, checked
from mpafer_jax.inference.results import Floats, Prediction
from mpafer_jax.runtime import progress
from mpafer_jax.runtime.errors import ConfigError

RIVALS = ("random", "centre")
_BLUR = 1 / 8  # radius as a fraction of the image's side; leaves no facial feature
_AT_ONCE = 8  # images predicted and explained together


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Curves of one map over n images.

    Attributes:
      deletion: float32[n, steps + 1], probability with 0, 1/steps, .. all of the patches removed.
      insertion: float32[n, steps + 1], with as many added.
    """

    deletion: Floats
    insertion: Floats

    def areas(self) -> dict[str, npt.NDArray[np.float64]]:
        """Area under each image's curves [n], by the trapezoid rule, as a mean height."""
        return {
            name: np.trapezoid(curve.astype(np.float64), axis=1) / (curve.shape[1] - 1)
            for name, curve in (("deletion", self.deletion), ("insertion", self.insertion))
        }


def maps_of(explanation: Explanation, rng: np.random.Generator) -> dict[str, Floats]:
    """The maps to compare, each float32[N]; class maps are those of the predicted class."""
    prediction = explanation.prediction
    rows, columns = prediction.grid
    y, x = np.mgrid[0:rows, 0:columns]
    maps = {
        "attention rollout": explanation.rollout.reshape(-1),
        "centre": -np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2).astype(np.float32).reshape(-1),
        "random": rng.random(rows * columns, np.float32),
    }
    scores, contrast = explanation.class_maps, explanation.contrast_maps
    if scores is not None and contrast is not None:
        top = prediction.top_index
        maps = {"patch scores": scores[top].reshape(-1), "patch contrast": contrast[top].reshape(-1), **maps}
    return maps


def masks(
    order: npt.NDArray[np.integer], grid: tuple[int, int], covered: int, size: int, steps: int
) -> npt.NDArray[np.bool_]:
    """Masks of the pixels in the first 0, 1/steps, .. all of the patches.

    Args:
      order: int[N], patches in order.
      grid: (rows, columns) of patches.
      covered: side in pixels of the square, from the top left, that the patches cover; the rest stays false.
      size: S, the image's side.
      steps: number of parts.

    Returns:
      bool[steps + 1, S, S].
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    counts = np.round(np.linspace(0, len(order), steps + 1))
    chosen = (rank[None] < counts[:, None]).reshape(-1, *grid)
    patch = covered // grid[0]
    pixels = np.zeros((steps + 1, size, size), bool)
    pixels[:, :covered, :covered] = chosen.repeat(patch, axis=1).repeat(patch, axis=2)
    return pixels


def curves(
    probability: Callable[[Pixels], Floats],
    pixels: Pixels,
    heat: Floats,
    grid: tuple[int, int],
    covered: int,
    fill: tuple[int, int, int],
    steps: int,
) -> tuple[Floats, Floats]:
    """Deletion and insertion curves of one image under one map, float32[steps + 1] each.

    Args:
      probability: of the predicted class, images uint8[n, S, S, 3] -> float32[n].
      pixels: uint8[S, S, 3].
      heat: float32[N]; ties in reading order.
      grid: (rows, columns) of patches.
      covered: as for `masks`.
      fill: RGB colour of deleted patches, CLIP's mean, which normalises to about zero.
      steps: of the curves.
    """
    size = pixels.shape[0]
    chosen = masks(np.argsort(-heat, kind="stable"), grid, covered, size, steps)[..., None]
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(size * _BLUR)))
    deleted = np.where(chosen, np.array(fill, np.uint8), pixels)
    inserted = np.where(chosen, pixels, blurred)
    both = probability(np.concatenate([deleted, inserted]))
    return both[: steps + 1], both[steps + 1 :]


def measure(
    predictor: Predictor, explainer: Explainer, images: Iterable[Any], *, steps: int = 16, seed: int = 0
) -> dict[str, Curves]:
    """Map name -> its curves over images, given as to `Predictor.stream`; `seed` is of the random maps.

    Raises:
      ImageError: an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    red, green, blue = (round(255 * value) for value in predictor.forward.mean)
    pairs_by_map: dict[str, list[tuple[Floats, Floats]]] = {}
    for predictions in _groups(predictor, images):
        for explanation in explainer.explain(predictions):
            prediction = explanation.prediction
            pixels, top = prediction.pixels, prediction.top_index
            assert pixels is not None  # `explain` checked it

            def probability(changed: Pixels, top: int = top) -> Floats:
                return softmax(predictor.logits(changed))[:, top]

            for name, heat in maps_of(explanation, rng).items():
                covered = prediction.covered or len(pixels)
                pair = curves(probability, pixels, heat, prediction.grid, covered, (red, green, blue), steps)
                pairs_by_map.setdefault(name, []).append(pair)
    return {
        name: Curves(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))
        for name, pairs in pairs_by_map.items()
    }


def measure_split(
    predictor: Predictor, data: DataSection, number: int, *, steps: int = 16, seed: int = 0
) -> tuple[int, dict[str, Any]]:
    """Number of images and `summarize` of every map, over `number` images (0: all) of a dataset's test split.

    `seed` is of the choice of images and of the random maps.

    Raises:
      ConfigError: the dataset has no test split.
      DataError: the dataset cannot be read.
    """
    test = load_dataset(data, without="validation").test
    if test is None:
        raise ConfigError("config.data names no test split; set data.test_split or data.test_fraction")
    chosen = np.random.default_rng(seed).permutation(len(test))[: number or None]
    frames, grouping = test.frames()
    images = (frames.source[int(grouping.middle()[index])] for index in sorted(chosen))  # of clips, middle frames
    tracked = progress.track(images, "deletion and insertion", len(chosen))
    return len(chosen), summarize(measure(predictor, Explainer(predictor), tracked, steps=steps, seed=seed))


def _groups(predictor: Predictor, images: Iterable[Any]) -> Iterable[list[Prediction]]:
    group: list[Prediction] = []
    for result in predictor.stream(images, keep_pixels=True):
        group.append(checked(result))
        if len(group) == _AT_ONCE:
            yield group
            group = []
    yield group


def summarize(measured: Mapping[str, Curves]) -> dict[str, Any]:
    """Summary ready for JSON: for each map and curve the mean area, its standard error, the mean curve, and the mean
    paired difference from each baseline with its standard error.
    """
    areas = {name: curves.areas() for name, curves in measured.items()}
    summary: dict[str, Any] = {}
    for name, kinds in areas.items():
        summary[name] = {}
        for kind, values in kinds.items():
            curve: Floats = getattr(measured[name], kind)
            against = {rival: _mean_and_error(values - areas[rival][kind]) for rival in RIVALS if rival != name}
            summary[name][kind] = {
                **_mean_and_error(values),
                "minus": against,
                "curve": curve.mean(axis=0).round(5).tolist(),
            }
    return summary


def _mean_and_error(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Mean and standard error; of one value that is None."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error}


def table(summary: Mapping[str, Any]) -> str:
    """The summary as a Markdown table."""

    def shown(numbers: Mapping[str, float | None], sign: str = "") -> str:
        error = numbers["standard_error"]
        return f"{numbers['mean']:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")

    header = ["map"]
    for kind, good in (("deletion", "low"), ("insertion", "high")):
        header += [f"{kind} ({good} is good)", *(f"- {rival}" for rival in RIVALS)]
    lines: list[list[str]] = []
    for name, kinds in summary.items():
        line = [name]
        for kind in ("deletion", "insertion"):
            minus = kinds[kind]["minus"]
            line += [shown(kinds[kind]), *(shown(minus[rival], "+") if rival in minus else "" for rival in RIVALS)]
        lines.append(line)
    return markdown(header, lines)
