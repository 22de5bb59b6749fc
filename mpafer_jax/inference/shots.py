"""Shots of a film: each ends at a hard cut, where the picture and its colours change at once."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import Pixels

_SIZE = (64, 48)  # to which frames are reduced
_BINS = 8  # of each colour
# A cut changes both: of two frames the histograms of colours have less than half in common, and the grey pictures
# hardly correlate. A flash or a dimmed light changes the colours alone, people who move fast the picture alone. Of 60
# cuts between drawn backgrounds with other faces, the first is at most 0.17, the second below 0.35 in more than 90%;
# two people who cross, at 1 to 15 frames a second, have 0.80 at least of the first.
_SAME_COLOURS, _SAME_PICTURE = 0.5, 0.35
_FLAT = 2.0  # standard deviation in grey levels; below it (a black frame, a white flash) there is no picture to compare


class Shots:
    """Numbers the shots of one video: call it with the frames in order, all of them or every so many."""

    def __init__(self) -> None:
        """Begins a video."""
        self._number = 0
        self._last: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    def __call__(self, pixels: Pixels) -> int:
        """The number of the shot, from 0, that a frame uint8[height, width, 3] belongs to; RGB."""
        step = max(1, min(pixels.shape[1] // (2 * _SIZE[0]), pixels.shape[0] // (2 * _SIZE[1])))  # for speed
        few = np.ascontiguousarray(pixels[::step, ::step])
        reduced = cv2.resize(few, _SIZE, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY).astype(np.float64)
        if grey.std() < _FLAT:
            return self._number
        counts = cv2.calcHist([reduced], [0, 1, 2], None, [_BINS] * 3, [0, 256] * 3)
        colours: npt.NDArray[np.float64] = np.asarray(counts, np.float64) / grey.size
        picture: npt.NDArray[np.float64] = (grey - grey.mean()) / grey.std()
        if self._last is not None:
            common = float(np.minimum(colours, self._last[0]).sum())
            correlation = float(np.mean(picture * self._last[1]))
            self._number += bool(common < _SAME_COLOURS and correlation < _SAME_PICTURE)
        self._last = colours, picture
        return self._number
