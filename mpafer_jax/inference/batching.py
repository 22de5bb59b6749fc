"""Batched inference: a function of images, compiled once for each of a few batch sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np

from mpafer_jax.backbones.base import Outputs
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.runtime import devices

BATCH_SIZES = (1, 8, 32)


class PaddedFunction:
    """Pads each batch to the next of a few sizes, so that at most these are compiled. Thread-safe.

    Attributes:
      sizes: the batch sizes, ascending.
    """

    def __init__(
        self, function: Callable[..., Outputs], arguments: Sequence[Any], image_size: int, sizes: Sequence[int]
    ) -> None:
        """Compiles nothing yet.

        Args:
          function: function(*arguments, pixels uint8[B, S, S, 3]) -> arrays with B rows; traced by JAX.
          arguments: the same for every batch, on the devices.
          image_size: S.
          sizes: batch sizes to pad to, ascending.
        """
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes must be positive and ascend, found {list(sizes)}")
        self.sizes = tuple(sizes)
        self._function, self._arguments, self._image_size = function, tuple(arguments), image_size
        self._compiled: dict[int, Callable[..., Outputs]] = {}
        self._lock = threading.Lock()

    def start(self, pixels: Sequence[Pixels] | Pixels) -> Outputs:
        """Starts computing a batch of at most the largest size; returns before it is done (asynchronous dispatch).

        Returns:
          Arrays on the devices, with the padding's rows at the end.
        """
        size = next(size for size in self.sizes if size >= len(pixels))
        batch = np.zeros((size, self._image_size, self._image_size, 3), np.uint8)
        batch[: len(pixels)] = pixels
        return self._executable(size)(*self._arguments, devices.spread(batch))

    def __call__(self, pixels: Pixels) -> dict[str, np.ndarray[Any, Any]]:
        """The function of any number n > 0 of images uint8[n, S, S, 3]: NumPy arrays with n rows."""
        largest, parts = self.sizes[-1], list[dict[str, np.ndarray[Any, Any]]]()
        for first in range(0, len(pixels), largest):
            part = pixels[first : first + largest]
            parts.append({name: np.asarray(value)[: len(part)] for name, value in self.start(part).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def warm_up(self) -> None:
        """Compiles all sizes now."""
        for size in self.sizes:
            self._executable(size)

    def _executable(self, size: int) -> Callable[..., Outputs]:
        with self._lock:  # compile a size only once
            if size not in self._compiled:
                zeros = np.zeros((size, self._image_size, self._image_size, 3), np.uint8)
                jitted = cast(Any, jax.jit(self._function))
                self._compiled[size] = jitted.lower(*self._arguments, devices.spread(zeros)).compile()
            return self._compiled[size]
