"""Facial-motion prior: patches where a class differs from neutral get more weight in its local score.

After Chen et al., "Facial Motion Prior Networks for Facial Expression Recognition", 2019, which learns masks from
expressive and neutral faces of the same person. Here class means of training images are compared, and nothing is
learned. Weights are computed once before training and are part of the model.

The motion m_{d,i} of class d at patch i is the distance between the class's and neutral's mean descriptor of the patch:
the frozen CLIP's normalised patch feature, or the pixels. The variance of the means, expected also without motion, is
subtracted:

    m_{d,i}^2 = |mu_{d,i} - mu_{0,i}|^2 - v_{d,i} - v_{0,i},   v_{c,i} = (mean |x|^2 - |mu_{c,i}|^2) / (n_c - 1)

Maps of m^2 are averaged with their mirror images, as training mirrors images, then clipped at 0. Neutral gets the mean
of the other classes' maps.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.config.schema import Config
from mpafer_jax.data.pipeline import Batch
from mpafer_jax.data.splits import Split
from mpafer_jax.method import prototypes, steps
from mpafer_jax.method.batches import eval_batches
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime import devices, distributed, files
from mpafer_jax.runtime.errors import ConfigError, DataError, NonFiniteError
from mpafer_jax.runtime.finite import not_finite

NEUTRAL = "neutral"

Floats = npt.NDArray[np.float64]
Source = Literal["features", "images"]


def is_read(config: Config) -> bool:
    """Whether the configuration uses the motion prior."""
    return config.head.motion_prior != "none" and config.head.local_weight > 0


def check(config: Config, class_names: Sequence[str]) -> None:
    """Raises ConfigError if the prior is used and no class is neutral."""
    if is_read(config):
        neutral_class(class_names)


def neutral_class(class_names: Sequence[str]) -> int:
    """Index of the neutral class, by its canonical name."""
    names = [canonical_name(name) for name in class_names]
    if NEUTRAL not in names:
        raise ConfigError(
            f"motion is how a class differs from neutral, and none of the classes {', '.join(class_names)} is neutral; "
            "set config.head.motion_prior to none, or take neutral into data.class_names (a class of another name: "
            "'neutral=<its name>')"
        )
    return names.index(NEUTRAL)


@dataclasses.dataclass(frozen=True, eq=False)
class PatchMeans:
    """Moments of patch descriptors of size K, by class.

    Attributes:
      mean: [C, N, K].
      squares: [C, N], mean squared length.
      count: [C], number of images.
    """

    mean: Floats
    squares: Floats
    count: Floats

    def variance_of_mean(self) -> Floats:
        """Unbiased variance of `mean`, [C, N]: its expected squared distance from the true mean."""
        spread = self.squares - np.sum(np.square(self.mean), axis=-1)
        return np.maximum(spread, 0) / (self.count - 1)[:, None]


def patch_means(
    batches: Iterable[Batch],
    backbone: dict[str, Any],
    step: Callable[..., dict[str, jax.Array]],
    class_names: Sequence[str],
) -> PatchMeans:
    """Means over all batches of the sums of `steps.make_patch_sum_step`."""
    totals: dict[str, Any] = {"sum": 0.0, "squares": 0.0, "count": 0.0}
    parts = ({name: batch[name] for name in ("image", "label", "mask")} for batch in batches)
    for sums in devices.results(functools.partial(step, backbone), parts):
        # float64 on the host: float32 sums over thousands of batches would lose digits.
        totals = {name: total + np.asarray(sums[name], np.float64) for name, total in totals.items()}
    count: Floats = totals["count"]
    few = [f"{name} ({n:.0f})" for name, n in zip(class_names, count, strict=True) if n < 2]
    if few:
        raise ConfigError(
            f"config.head.motion_prior needs two images or more of each class, found fewer of {', '.join(few)}; raise "
            "data.train_per_class or prototypes.images_per_class, or set head.motion_prior to none"
        )
    return PatchMeans(totals["sum"] / count[:, None, None], totals["squares"] / count[:, None], count)


def motion(means: PatchMeans, neutral: int) -> Floats:
    """Motion m [C, N] of each class relative to class `neutral`, whose own is 0.

    Args:
      means: of N patches in a square grid, in row-major order.
      neutral: index of the class.
    """
    variance = means.variance_of_mean()
    squared = np.sum(np.square(means.mean - means.mean[neutral]), axis=-1) - variance - variance[neutral]  # [C, N]
    side = round(squared.shape[1] ** 0.5)
    grid = squared.reshape(-1, side, side)
    # Averaged before clipping, so that noise cancels.
    symmetric = np.sqrt(np.maximum((grid + grid[:, :, ::-1]) / 2, 0)).reshape(squared.shape)
    symmetric[neutral] = 0
    return symmetric


def to_weights(maps: Floats, neutral: int, strength: float) -> Floats:
    """Weights w_{d,i} = (1 - a) + a m_{d,i} / mean_j m_{d,j} [C, N]: positive, with mean 1 for every class.

    A class without motion has equal weights.

    Args:
      maps: m [C, N].
      neutral: index of the class that gets the mean of the others' normalised maps.
      strength: a, at least 0 and below 1.
    """
    mean = maps.mean(axis=1, keepdims=True)
    relative = np.where(mean > 0, maps / np.where(mean > 0, mean, 1), 1.0)
    relative[neutral] = np.delete(relative, neutral, axis=0).mean(axis=0)
    return (1 - strength) + strength * relative


def measure(config: Config, experiment: Experiment, split: Split, source: Source) -> PatchMeans:
    """Passes once over a split's prototype images (`prototypes.images_per_class`); all processes call it."""
    if not len(split):
        raise ConfigError("config.data.train_splits is empty, so there are no faces to compare with neutral ones")
    chosen = prototypes.choose_images(split.labels, config.prototypes.images_per_class, config.seed)
    logging.debug("motion prior: computing from %d of %d training images", len(chosen), len(split))
    forward = Forward.configured(experiment.model, config.data)
    step = devices.data_parallel(steps.make_patch_sum_step(forward, len(experiment.class_names), source))
    batches = eval_batches(config, experiment, split.take(chosen).frames()[0], "motion prior of")
    return patch_means(batches, experiment.frozen.backbone, step, experiment.class_names)


def patch_weights(
    config: Config, workdir: pathlib.Path, split: Split, experiment: Experiment
) -> npt.NDArray[np.float32]:
    """Weights w [C, N] of the training split; motion maps are cached in the workdir."""
    source = cast(Source, config.head.motion_prior)
    neutral = neutral_class(experiment.class_names)
    images_per_class = config.prototypes.images_per_class
    about = {
        "clip": experiment.clip_hash,
        "dtype": config.clip.dtype,
        "residual_dtype": config.clip.residual_dtype,
        "data": split.fingerprint,
        "images_per_class": images_per_class,
        "seed": config.seed if images_per_class else None,
        "source": source,
        "mean": config.data.mean,
        "std": config.data.std,
        **({"grayscale": True} if config.data.grayscale else {}),
    }

    def compute() -> npt.NDArray[np.float32]:
        return motion(measure(config, experiment, split, source), neutral).astype(np.float32)

    shape = (len(experiment.class_names), experiment.model.backbone.spec.num_patches)
    maps = load_or_compute(workdir / f"motion-{files.json_digest(about)[:16]}.npy", compute, shape)
    for index, name in enumerate(experiment.class_names):
        if index != neutral and not maps[index].any():
            logging.warning("motion prior: %s differs from neutral no more than images do anyway: equal weights", name)
    return to_weights(maps.astype(np.float64), neutral, config.head.motion_strength).astype(np.float32)


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    try:
        with path.open("rb") as stream:
            stored = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    if stored.shape != shape or stored.dtype != np.float32 or not np.isfinite(stored).all():
        raise DataError(
            f"{path} holds {stored.dtype} {list(stored.shape)}, expected float32 {list(shape)}, all of it finite; "
            "delete it, and it is computed again"
        )
    return stored


def load_or_compute(
    path: pathlib.Path, compute: Callable[[], npt.NDArray[np.float32]], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Reads a float32 array of this shape from an .npy file, or computes and stores it.

    Only process 0 reads and writes the file, so that all processes compute together or not at all.

    Raises:
      DataError: the file is damaged.
      NonFiniteError: the computed array is not finite.
    """
    stored = np.zeros(shape, np.float32)
    is_stored = distributed.is_first() and path.is_file()
    if is_stored:
        logging.debug("read from %s", path)
        stored = _read(path, shape)
    is_stored, stored = distributed.broadcast((np.asarray(is_stored), stored))
    if is_stored:
        return stored
    computed = compute()
    if broken := not_finite({path.name: computed}):
        raise NonFiniteError(f"NaN or infinite numbers were computed for {path.parent}: {', '.join(broken)}")
    if distributed.is_first():
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, computed, allow_pickle=False)
        logging.debug("stored in %s", path)
    return computed
