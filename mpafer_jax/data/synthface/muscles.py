"""Access to unit intensities by unit and side."""

from __future__ import annotations

from mpafer_jax.data.synthface.units import INDEX, Intensities, checked

SIDES = (-1, 1)  # left and right of the image, as signs of x


class Muscles:
    """Intensities of one face."""

    def __init__(self, units: Intensities):
        self._values: list[list[float]] = checked(units).tolist()

    def on(self, unit: int, side: int) -> float:
        """The unit's intensity on the left (-1) or right (1) side of the image."""
        return self._values[INDEX[unit]][side > 0]

    def mean(self, unit: int) -> float:
        """The mean of both sides."""
        left, right = self._values[INDEX[unit]]
        return (left + right) / 2

    def jaw(self) -> float:
        """How far the jaw is lowered, in face units."""
        return max(0.02 * self.mean(25), 0.15 * self.mean(26), 0.30 * self.mean(27))
