"""Synthetic drawn faces; each image is drawn from its seed at preparation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2

from mpafer_jax.config.data_section import SynthfaceSection
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Record, SourceIndex
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.expressions import PROTOTYPES
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.runtime.errors import DataError

# Differences of neighbours alone: Pillow tries all filters, which takes twice as long and saves less than a tenth.
_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
)


@dataclasses.dataclass(frozen=True, slots=True)
class DrawnFace:
    """An image that is drawn on reading; see `generate.face_of`."""

    seed: int
    split: str
    index: int
    style: str
    expressions: tuple[str, ...]
    size: int

    @property
    def place(self) -> str:
        """Its number, split, style and seed."""
        return f"drawn face {self.index} of {self.split} ({self.style}, seed {self.seed})"

    def read(self) -> bytes:
        """The image as PNG."""
        sample = generate.face_of(self.seed, self.split, self.index, STYLES[self.style], self.expressions)
        return cv2.imencode(".png", sample.job.pixels(self.size)[:, :, ::-1], _PNG)[1].tobytes()

    def stamp(self) -> str:
        """Everything that the image depends on, with the renderer's version."""
        return f"{generate.VERSION} {self.seed} {self.style} {self.size} {' '.join(self.expressions)}"


@reader(
    "synthface",
    "Faces drawn from action units, with the expression whose prototype moved them.",
    class_names=tuple(PROTOTYPES),
    fields=("synthface", "class_names"),
)
def read(section: SynthfaceSection, class_names: Sequence[str]) -> SourceIndex:
    """Lists the images without drawing; classes are in the order of `PROTOTYPES`.

    Args:
      section: sizes, style and seed; DataError for an unknown style.
      class_names: config.data.class_names; only these are drawn, so splits have the configured sizes. Empty: all
        eight.
    """
    if section.style not in STYLES:
        raise DataError(f"config.data.synthface.style is {section.style!r}; expected one of {', '.join(STYLES)}")
    wanted = {canonical_name(entry.partition("=")[2] or entry) for entry in class_names} or set(PROTOTYPES)
    # Unknown names are refused by `records.select_classes`, as for every dataset.
    expressions = tuple(name for name in PROTOTYPES if name in wanted) or tuple(PROTOTYPES)
    labels = {name: label for label, name in enumerate(expressions)}
    splits: dict[str, list[Record]] = {}
    numbers = {"train": section.train, "validation": section.validation, "test": section.test}
    for split, number in numbers.items():
        for index in range(number):
            image = DrawnFace(section.seed, split, index, section.style, expressions, section.image_size)
            expression = generate.expression_of(section.seed, split, index, expressions)
            name = f"{split}_{index:06d}_person_{index // generate.IMAGES_PER_PERSON:05d}"
            splits.setdefault(split, []).append(Record(name, image, labels[expression]))
    return SourceIndex(
        class_names=expressions,
        source_labels=expressions,
        splits=splits,
        absent={split: f"config.data.synthface.{split} above 0" for split in numbers},
        computed=True,
        expected_size=(section.image_size, section.image_size),
    )
