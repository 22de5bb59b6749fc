"""Captioned images: from a folder, a TFDS dataset, or drawn faces.

A folder has the Hub's "imagefolder" layout: images and `metadata.jsonl`, one JSON object per line with `file_name`
(relative to the folder), `text` (a caption, or a list of which one is drawn each time), and optionally `attributes`, an
object from statements about the image to true, false, or a number in 0..1.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pydantic
import tensorflow_datasets as tfds

from mpafer_jax.data import records
from mpafer_jax.data.preprocess import Pixels, decode_rgb, read_image_file
from mpafer_jax.data.synthface import captioned
from mpafer_jax.data.synthface import captions as captions_lib
from mpafer_jax.data.synthface.draw import MAX_SIZE, MIN_SIZE
from mpafer_jax.jobs.pretraining.config import DataSection
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import DataError, ImageError

METADATA = "metadata.jsonl"

_Text = Annotated[str, pydantic.Field(pattern=r"\S")]
_Truth = Annotated[float, pydantic.Field(ge=0, le=1)]


class Images(Protocol):
    """Random access to decoded images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


@dataclasses.dataclass(frozen=True)
class Statement:
    """A statement that is true of some images.

    Attributes:
      phrasings: for training; one is drawn for each update.
      held_out: phrasings for evaluation only.
      group: name of a group of statements of which exactly one is true of each image; "" for none.
    """

    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    group: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Images with captions and statements.

    Attributes:
      images: uint8[H, W, 3] by position.
      captions: at least one for each image.
      statements: A of them.
      truth: float32[n, A] in 0..1, how true each statement is of each image; NaN where unknown.
      fingerprint: hex digest of the whole set, before any `cut`.
    """

    images: Images
    captions: Sequence[Sequence[str]]
    statements: tuple[Statement, ...]
    truth: npt.NDArray[np.float32]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.captions)

    def groups(self) -> list[list[int]]:
        """Positions of the statements of each group."""
        names = dict.fromkeys(statement.group for statement in self.statements if statement.group)
        return [[i for i, statement in enumerate(self.statements) if statement.group == name] for name in names]

    def joined(self, other: CaptionedImages) -> CaptionedImages:
        """These images and then those of another source, whose statements are unknown of the first, and vice versa."""
        truth = np.full((len(self) + len(other), len(self.statements) + len(other.statements)), np.nan, np.float32)
        truth[: len(self), : len(self.statements)] = self.truth
        truth[len(self) :, len(self.statements) :] = other.truth
        return CaptionedImages(
            images=_Joined(self.images, other.images),
            captions=[*self.captions, *other.captions],
            statements=self.statements + other.statements,
            truth=truth,
            fingerprint=hashlib.sha256((self.fingerprint + other.fingerprint).encode()).hexdigest(),
        )

    def texts(self) -> list[str]:
        """All texts of training, for the vocabulary."""
        texts = [caption for captions in self.captions for caption in captions]
        return texts + [phrasing for statement in self.statements for phrasing in statement.phrasings]

    def cut(self, start: int, stop: int) -> CaptionedImages:
        """Images `start` to `stop` - 1."""
        return dataclasses.replace(
            self,
            images=_Slice(self.images, start, stop),
            captions=self.captions[start:stop],
            truth=self.truth[start:stop],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Slice:
    images: Images
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int, /) -> Pixels:
        return self.images[self.start + index]


@dataclasses.dataclass(frozen=True, eq=False)
class _Joined:
    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int, /) -> Pixels:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Pixels:
        try:
            return np.asarray(decode_rgb(read_image_file(self.paths[index])))
        except (OSError, ImageError) as error:
            raise DataError(f"{self.paths[index]}: cannot be read as an image: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsImages:
    source: Any
    feature: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Pixels:
        try:
            return np.asarray(decode_rgb(_value(self.source[index], self.feature)))
        except ImageError as error:
            raise DataError(
                f"example {index} of the TFDS dataset: {self.feature!r} cannot be read as an image: {error}"
            ) from error


def load_source(data: DataSection, image_size: int, folder: Path) -> tuple[CaptionedImages, CaptionedImages]:
    """Opens the configured images: a training part, and the last `data.held_out` for evaluation.

    Args:
      data: with a source other than "none".
      image_size: side in pixels of drawn faces; others are resized when read.
      folder: for drawn faces if `data.dir` is empty.
    """
    match data.source:
        case "folder":
            everything = read_folder(files.local_path(data.dir, "config.data.dir"))
        case "tfds":
            everything = read_tfds(data)
        case _:
            everything = draw_faces(
                data, image_size, files.local_path(data.dir, "config.data.dir") if data.dir else folder
            )
    check_held_out(data, len(everything))
    split = len(everything) - data.held_out
    return everything.cut(0, split), everything.cut(split, len(everything))


def check_held_out(data: DataSection, images: int) -> None:
    """Raises DataError if no image is left for training."""
    if images <= data.held_out:
        raise DataError(
            f"config.data.held_out is {data.held_out} of {images} images, which leaves none to train on; lower it, "
            "or give more images"
        )


def draw_faces(data: DataSection, image_size: int, folder: Path) -> CaptionedImages:
    """Drawn faces with captions, and statements about their action units."""
    try:
        styles = captioned.style_names(data.styles)
    except ValueError as error:
        raise DataError(f"config.{error}") from error
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise DataError(f"config.model.image_size is {image_size}; faces are drawn at {MIN_SIZE} to {MAX_SIZE} pixels")
    check_held_out(data, data.images)
    jobs = captioned.sample_jobs(data.images, styles, data.seed)
    descriptions = captioned.describe(jobs, data.held_out, data.seed)
    truth = np.stack([captions_lib.truth(job.face) for job in jobs])
    statements = captions_lib.statements()
    digest = hashlib.sha256(repr((captioned.fingerprint(jobs, image_size), descriptions)).encode() + truth.tobytes())
    return CaptionedImages(
        images=captioned.draw(jobs, image_size, folder),
        captions=descriptions,
        statements=tuple(Statement(phrases.phrases, phrases.held_out) for phrases in statements.values()),
        truth=truth,
        fingerprint=digest.hexdigest(),
    )


def read_folder(folder: Path) -> CaptionedImages:
    """Reads a folder of images with `metadata.jsonl`, see the module's docstring."""
    path = folder / METADATA
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; expected one JSON object a line with file_name (relative to the folder) and text "
            "(a caption or a list of captions)"
        )
    rows = [_parse_row(line, place) for place, line in records.lines(path, listed=False)]
    if not rows:
        raise DataError(f"{path} is empty")
    names = sorted({name for row in rows for name in row.attributes})
    truth = np.array([[row.attributes.get(name, np.nan) for name in names] for row in rows], np.float32)
    sizes = [_size(folder / row.file_name, row.place) for row in rows]
    content = [(row.file_name, row.captions, row.attributes, size) for row, size in zip(rows, sizes, strict=True)]
    return CaptionedImages(
        images=_Files([folder / row.file_name for row in rows]),
        captions=[row.captions for row in rows],
        statements=tuple(Statement((name,), (name,)) for name in names),
        truth=truth.reshape(len(rows), len(names)),
        fingerprint=hashlib.sha256(repr(content).encode()).hexdigest(),
    )


class _Line(pydantic.BaseModel):
    """A line of the file; unknown keys are ignored, as in the Hub's layout."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)

    file_name: Annotated[str, pydantic.Field(min_length=1)]
    text: _Text | Annotated[tuple[_Text, ...], pydantic.Field(min_length=1)]
    attributes: dict[_Text, bool | _Truth] = {}


@dataclasses.dataclass(frozen=True)
class _Row:
    file_name: str
    captions: tuple[str, ...]
    attributes: Mapping[str, float]
    place: str  # file and line, for error messages


def _parse_row(line: str, place: str) -> _Row:
    try:
        read = _Line.model_validate_json(line)
    except pydantic.ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors())
        raise DataError(
            f"{place}: {problems}. Expected a JSON object with file_name (a string), text (a caption or a list of "
            "captions, none of them empty) and perhaps attributes (statement: true, false or a number from 0 to 1)"
        ) from error
    captions = (read.text,) if isinstance(read.text, str) else read.text
    return _Row(
        records.listed_name(read.file_name),
        captions,
        {name: float(value) for name, value in read.attributes.items()},
        place,
    )


def _size(path: Path, place: str) -> int:
    if not path.is_file():
        raise DataError(f"{place} names the image {path}, which does not exist")
    return path.stat().st_size


def read_tfds(data: DataSection) -> CaptionedImages:
    """Opens a TFDS dataset prepared as array_record; `data.name` is e.g. 'coco_captions:1.1.0/train'."""
    name, _, split = data.name.partition("/")
    split = split or "train"
    try:
        builder: Any = tfds.builder(name, data_dir=data.dir)
        known = _feature_names(builder.info.features)
    except Exception as error:  # TFDS raises many types
        raise _not_prepared(data, name, split, error) from error
    for field, feature in (("image_feature", data.image_feature), ("text_feature", data.text_feature)):
        if feature not in known:
            raise DataError(
                f"config.data.{field} is {feature!r}, which TFDS dataset {name!r} has not; it has {', '.join(known)}"
            )
    try:
        decoders: Any = tfds.decode.SkipDecoding()
        for part in reversed(data.image_feature.split("/")):
            decoders = {part: decoders}
        source = builder.as_data_source(split=split, decoders=decoders)
        size = int(builder.info.splits[split].num_bytes)
    except Exception as error:  # as above
        raise _not_prepared(data, name, split, error) from error
    captions = [_captions(source[i], i, data) for i in range(len(source))]
    return CaptionedImages(
        images=_TfdsImages(source, data.image_feature),
        captions=captions,
        statements=(),
        truth=np.zeros((len(captions), 0), np.float32),
        fingerprint=hashlib.sha256(repr((data.name, size, captions)).encode()).hexdigest(),
    )


def _not_prepared(data: DataSection, name: str, split: str, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0]  # the other lines list every known dataset
    return DataError(
        f"config.data.name is {data.name!r}: TFDS dataset {name!r}, split {split!r} cannot be opened in "
        f"{data.dir!r}: {reason} Prepare it first (`tfds build {name} --file_format=array_record "
        f"--data_dir={data.dir}`)"
    )


def _feature_names(features: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of features, nested ones with a slash: 'captions', 'captions/text'."""
    names: list[str] = []
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # the element of a sequence
        names.append(prefix + name)
        if isinstance(inner, tfds.features.FeaturesDict):
            names += _feature_names(cast(Any, inner), f"{prefix}{name}/")
    return names


def _captions(example: Mapping[str, Any], index: int, data: DataSection) -> tuple[str, ...]:
    """Captions of a TFDS example: bytes, or a sequence of bytes."""
    value = _value(example, data.text_feature)
    several = cast("list[Any]", [value] if isinstance(value, bytes | str) else list(value) if _is_list(value) else [])
    if not several or not all(isinstance(text, bytes | str) and text.strip() for text in several):
        raise DataError(
            f"config.data.text_feature is {data.text_feature!r}: example {index} of {data.name!r} has {value!r} there; "
            "expected a caption or several, none of them empty"
        )
    return tuple(text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in several)


def _value(example: Mapping[str, Any], feature: str) -> Any:
    """The value of a feature, of a nested one with slashes."""
    return functools.reduce(operator.getitem, feature.split("/"), cast(Any, example))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)
