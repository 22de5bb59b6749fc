"""Batches of splits, with Grain or in worker processes; a pure function of (seed, step).

Position g = step * batch_size + i of the training stream is example `permutation(seed, g // n)[g % n]`, augmented with
a generator keyed by (seed, g). A run thus resumes from its step number alone, and global batches do not depend on the
number of processes and workers.

Of video clips an example is one segment of a clip, and its image a random frame of that segment, drawn by (seed, g): an
epoch of clips cut into N segments has N images of each clip (Wang et al., Temporal Segment Networks, ECCV 2016).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypedDict, TypeVar, cast

import grain
import numpy as np
import numpy.typing as npt

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import preprocess
from mpafer_jax.data.splits import EncodedImages, Split
from mpafer_jax.runtime import signals, workers

# First word of every key: independent streams of one seed.
_ORDER, _SAMPLE, AUGMENT, _FRAME = 0, 1, 2, 3
_MAX_THREADS = 16
# An evaluation pass of fewer batches is over in threads before a worker process, which takes seconds, has started.
_BATCHES_FOR_WORKERS = 64

Indices = npt.NDArray[np.int64]
T = TypeVar("T")


class Batch(TypedDict):
    """One process's share of a global batch: b = batch_size / process_count examples of C classes.

    image: uint8[b, S, S, 3], RGB. label: int32[b]. label_distribution: float32[b, C]. mask: float32[b], 1 for an
    example and 0 for padding. index: int32[b], position of the image or clip in the split.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int32]
    label_distribution: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]
    index: npt.NDArray[np.int32]


class Order(Protocol):
    """Maps positions of the training stream to examples; picklable."""

    def __call__(self, positions: Indices) -> Indices:
        """Examples int64[k] at stream positions int64[k]."""
        ...


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> Indices:
    return np.random.default_rng((_ORDER, seed, epoch)).permutation(size)


@dataclasses.dataclass(frozen=True)
class ShuffledOrder:
    """Sampling without replacement; every epoch is a new permutation."""

    seed: int
    size: int

    def __call__(self, positions: Indices) -> Indices:
        """Examples int64[k] at stream positions int64[k]."""
        examples = [_permutation(self.seed, int(g) // self.size, self.size)[int(g) % self.size] for g in positions]
        return np.array(examples, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassBalancedOrder:
    """Sampling with replacement: a class uniformly, then an example of it."""

    seed: int
    members: tuple[Indices, ...]  # examples by class, without empty classes

    def __call__(self, positions: Indices) -> Indices:
        """Examples int64[k] at stream positions int64[k]."""
        examples: list[int] = []
        for position in positions:
            rng = np.random.default_rng((_SAMPLE, self.seed, int(position)))
            members = self.members[rng.integers(len(self.members))]
            examples.append(int(members[rng.integers(len(members))]))
        return np.array(examples, np.int64)


def train_order(labels: npt.NDArray[np.int32], sampler: str, seed: int) -> Order:
    """The order of the training stream: "shuffle" or "class_balanced" (`config.data.sampler`)."""
    if sampler == "shuffle":
        return ShuffledOrder(seed, len(labels))
    if sampler == "class_balanced":
        return ClassBalancedOrder(seed, tuple(np.flatnonzero(labels == label) for label in np.unique(labels)))
    raise ValueError(f"config.data.sampler: expected 'shuffle' or 'class_balanced', found {sampler!r}")


def train_batches(
    split: Split,
    *,
    section: DataSection,
    image_size: int,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Augmented batches of steps `start_step` to `num_steps` - 1.

    Args:
      section: sampler, augmentation, num_workers, and mean, the colour of erased rectangles.
      image_size: side of the images in pixels.
      batch_size: of the global batch.
      seed: of order and augmentation.
      process_index, process_count: this process gets the process_index-th of process_count equal, contiguous parts of
        every global batch.

    Yields:
      Batches with a mask of ones. Closing or exhausting the iterator ends its threads and worker processes.
    """
    local = local_positions(batch_size, process_index, process_count)
    make = _TrainBatches(
        split=_Examples.of(split),
        order=train_order(np.repeat(split.labels, max(1, split.segments)), section.sampler, seed),
        section=section,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        local=local,
    )
    return iterate(make, start_step, num_steps, section.num_workers)


def eval_batches(
    split: Split,
    *,
    section: DataSection,
    image_size: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every image of a split once, in order, resized without augmentation; arguments as in `train_batches`.

    The last batch is padded with image 0 under mask 0: all processes get the same number of equal batches.

    Args:
      split: of images; for clips see `Split.frames`.
    """
    if split.segments:
        raise ValueError(f"{split} is evaluated by its frames, `Split.frames`")
    local = local_positions(batch_size, process_index, process_count)
    make = _EvalBatches(split=_Examples.of(split), image_size=image_size, batch_size=batch_size, local=local)
    number = num_eval_batches(len(split), batch_size)
    return iterate(make, 0, number, section.num_workers if number >= _BATCHES_FOR_WORKERS else 0)


def num_eval_batches(num_examples: int, batch_size: int) -> int:
    """Number of batches of `eval_batches`."""
    return -(-num_examples // batch_size)


def local_positions(batch_size: int, process_index: int, process_count: int) -> Indices:
    """Positions of a global batch for this process; ValueError if it does not divide evenly."""
    if batch_size % process_count:
        raise ValueError(f"the global batch of {batch_size} cannot be cut into {process_count} equal parts")
    part = batch_size // process_count
    return np.arange(process_index * part, (process_index + 1) * part)


@dataclasses.dataclass(frozen=True, eq=False)
class _Examples:
    """The parts of a Split that are sent to worker processes."""

    source: EncodedImages
    labels: npt.NDArray[np.int32]
    label_distributions: npt.NDArray[np.float32]
    segments: int

    @classmethod
    def of(cls, split: Split) -> _Examples:
        return cls(split.source, split.labels, split.label_distributions, max(1, split.segments))

    def random_frame(self, clip: int, segment: int, seed: int, position: int) -> int:
        """A frame of a segment of a clip; of a clip with fewer frames than segments some frames stand for several."""
        frames = int(self.source.num_frames[clip])
        low, high = segment * frames // self.segments, (segment + 1) * frames // self.segments
        return int(np.random.default_rng((_FRAME, seed, position)).integers(low, high)) if high - low > 1 else low

    def batch(self, indices: Indices, images: list[preprocess.Pixels], mask: npt.NDArray[np.bool_]) -> Batch:
        return Batch(
            image=np.stack(images),
            label=self.labels[indices],
            label_distribution=self.label_distributions[indices],
            mask=mask.astype(np.float32),
            index=indices.astype(np.int32),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _TrainBatches:
    split: _Examples
    order: Order
    section: DataSection
    image_size: int
    batch_size: int
    seed: int
    local: Indices

    def __call__(self, step: int) -> Batch:
        positions = step * self.batch_size + self.local
        indices, segments = np.divmod(self.order(positions), self.split.segments)
        red, green, blue = (round(255 * value) for value in self.section.mean)
        images: list[preprocess.Pixels] = []
        for position, index, segment in zip(positions.tolist(), indices.tolist(), segments.tolist(), strict=True):
            image = self.split.source.image(index, self.split.random_frame(index, segment, self.seed, position))
            rng = np.random.default_rng((AUGMENT, self.seed, position))
            images.append(preprocess.augment(image, rng, self.section.augment, self.image_size, (red, green, blue)))
        return self.split.batch(indices, images, np.ones(len(indices), np.bool_))


@dataclasses.dataclass(frozen=True, eq=False)
class _EvalBatches:
    split: _Examples
    image_size: int
    batch_size: int
    local: Indices

    def __call__(self, step: int) -> Batch:
        positions = step * self.batch_size + self.local
        mask = positions < len(self.split.labels)
        indices = np.where(mask, positions, 0)
        images: dict[int, preprocess.Pixels] = {}
        for index in indices.tolist():
            if index not in images:
                images[index] = preprocess.to_pixels(preprocess.resize(self.split.source.image(index), self.image_size))
        return self.split.batch(indices, [images[index] for index in indices.tolist()], mask)


def iterate(make: Callable[[int], T], start: int, stop: int, num_workers: int) -> Iterator[T]:
    """Prefetches make(start) to make(stop - 1), in order, in threads or in worker processes."""
    # A whole batch is one element, so its content does not depend on the number of threads or workers.
    if num_workers := min(num_workers, max(0, stop - start)):
        yield from workers.made_in_processes(make, range(start, stop), num_workers, "config.data.num_workers")
        return
    threads = min(_MAX_THREADS, workers.usable_cores())
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    iterator: Iterator[T] = iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(reading))
    try:
        yield from iterator
    finally:
        # On SIGTERM threads end with the process; Grain would wait for them.
        if not signals.is_requested():
            cast(Any, iterator).close()
