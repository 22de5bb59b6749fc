"""Pictures with captions: from a folder, from a TFDS dataset, or drawn faces.

A folder holds pictures and `metadata.jsonl`, as the Hub's "imagefolder" has it: one JSON object a line with `file_name`
(relative to the folder), `text` (a caption, or a list of captions of which one is drawn each time), and optionally
`attributes`, an object from statements about the picture to true, false, or a number between 0 and 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from mpafer_jax.data.preprocess import Pixels, decode_rgb
from mpafer_jax.data.records import DataError
from mpafer_jax.pretraining.config import DataSection
from mpafer_jax.synthface import captioned
from mpafer_jax.synthface import captions as captions_lib

METADATA = "metadata.jsonl"


class Pictures(Protocol):
    """Random access to decoded pictures."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


@dataclasses.dataclass(frozen=True)
class Statement:
    """Something that is true of some pictures.

    Attributes:
      phrasings: ways to say it, of which one is drawn for each update.
      held_out: ways to say it that training never uses; evaluation does.
    """

    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Pictures, what is said of each, and what is known of each.

    Attributes:
      pictures: uint8[H, W, 3] by position.
      captions: for each picture at least one.
      statements: A of them.
      truth: float32[n, A] in 0..1, how true each statement is of each picture; NaN where that is not known.
      fingerprint: hex digest of all of it.
    """

    pictures: Pictures
    captions: Sequence[Sequence[str]]
    statements: tuple[Statement, ...]
    truth: npt.NDArray[np.float32]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.captions)

    def texts(self) -> list[str]:
        """Everything that is said in training, for the vocabulary."""
        said = [caption for captions in self.captions for caption in captions]
        return said + [phrasing for statement in self.statements for phrasing in statement.phrasings]

    def cut(self, start: int, stop: int) -> CaptionedImages:
        """The pictures from `start` to `stop` - 1."""
        return dataclasses.replace(
            self,
            pictures=_Slice(self.pictures, start, stop),
            captions=self.captions[start:stop],
            truth=self.truth[start:stop],
            fingerprint=f"{self.fingerprint}[{start}:{stop}]",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Slice:
    pictures: Pictures
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int, /) -> Pixels:
        return self.pictures[self.start + index]


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Pixels:
        try:
            return np.asarray(decode_rgb(self.paths[index].read_bytes()))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.paths[index]}: cannot be read as a picture ({error})") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsImages:
    source: Any
    feature: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Pixels:
        return np.asarray(decode_rgb(self.source[index][self.feature]))


def load_source(data: DataSection, image_size: int, folder: Path) -> CaptionedImages:
    """Opens the configured pictures.

    Args:
      data: which.
      image_size: side in pixels at which faces are drawn; others are resized when they are read.
      folder: where drawn faces are kept if `data.dir` is empty.

    Raises:
      DataError: the folder or dataset is not there or not of the form; the message names what was looked for.
    """
    match data.source:
        case "folder":
            return read_folder(Path(data.dir).expanduser())
        case "tfds":
            return read_tfds(data)
        case "synthface":
            return draw_faces(data, image_size, Path(data.dir).expanduser() if data.dir else folder)


def draw_faces(data: DataSection, image_size: int, folder: Path) -> CaptionedImages:
    """Drawn faces with captions, and statements about their action units.

    Raises:
      DataError: there are no such styles, or no pictures to train on are left.
    """
    try:
        styles = captioned.style_names(data.styles)
    except ValueError as error:
        raise DataError(f"config.{error}") from error
    if data.pictures <= data.held_out:
        raise DataError(f"config.data.pictures is {data.pictures}, of which data.held_out {data.held_out} leave none")
    jobs = captioned.sample_jobs(data.pictures, styles, data.seed)
    descriptions = captioned.describe(jobs, data.held_out, data.seed)
    truth = np.stack([captions_lib.truth(job.face) for job in jobs])
    said = captions_lib.statements()
    digest = hashlib.sha256(repr((image_size, descriptions)).encode() + truth.tobytes())
    return CaptionedImages(
        pictures=captioned.draw(jobs, image_size, folder),
        captions=descriptions,
        statements=tuple(Statement(phrases.phrases, phrases.held_out) for phrases in said.values()),
        truth=truth,
        fingerprint=digest.hexdigest(),
    )


def read_folder(folder: Path) -> CaptionedImages:
    """Reads a folder of pictures with `metadata.jsonl`; the module's docstring has the format.

    Raises:
      DataError: the file is not there or a line is not of the form; the message names the line.
    """
    path = folder / METADATA
    if not path.is_file():
        raise DataError(
            f"{path} is not there; expected one JSON object a line with file_name (relative to the folder) and text "
            "(a caption or a list of captions)"
        )
    rows = [_parse_row(line, f"{path}:{n}") for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if line]
    if not rows:
        raise DataError(f"{path} is empty")
    names = sorted({name for _, _, known in rows for name in known})
    truth = np.array([[known.get(name, np.nan) for name in names] for _, _, known in rows], np.float32)
    sizes = [_size(folder / file) for file, _, _ in rows]
    return CaptionedImages(
        pictures=_Files([folder / file for file, _, _ in rows]),
        captions=[captions for _, captions, _ in rows],
        statements=tuple(Statement((name,), (name,)) for name in names),
        truth=truth.reshape(len(rows), len(names)),
        fingerprint=hashlib.sha256(repr((rows, sizes)).encode()).hexdigest(),
    )


def _size(path: Path) -> int:
    if not path.is_file():
        raise DataError(f"{path.parent / METADATA} names {path.name}, which is not there")
    return path.stat().st_size


def _parse_row(line: str, place: str) -> tuple[str, tuple[str, ...], dict[str, float]]:
    try:
        row = cast("dict[str, Any]", json.loads(line))
        file, text = row["file_name"], row["text"]
        captions = (text,) if isinstance(text, str) else tuple(cast("list[str]", text))
        known = {str(name): float(value) for name, value in cast("dict[str, Any]", row.get("attributes", {})).items()}
        is_text = [isinstance(value, str) for value in cast("tuple[object, ...]", (file, *captions))]
        if not captions or not all(is_text) or not all(0 <= value <= 1 for value in known.values()):
            raise ValueError("file_name must be a string, text one or several, attributes between 0 and 1")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place}: expected an object with file_name and text: {error!r}") from error
    return str(file), captions, known


def read_tfds(data: DataSection) -> CaptionedImages:
    """Opens a TFDS dataset that has been prepared as array_record; `data.name` is e.g. 'coco_captions:1.1.0/train'.

    Raises:
      DataError: there is no such dataset prepared in `data.dir`, or it lacks a feature.
    """
    name, _, split = data.name.partition("/")
    try:
        builder: Any = tfds.builder(name, data_dir=data.dir)
        decoders = {data.image_feature: tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split=split or "train", decoders=decoders)
        first: Mapping[str, Any] = source[0]
    except Exception as error:  # TFDS raises many kinds
        raise DataError(
            f"TFDS dataset {name!r}, split {split or 'train'!r} cannot be opened in {data.dir}: {error}. Prepare it "
            f"first (`tfds build {name} --file_format=array_record --data_dir={data.dir}`)"
        ) from error
    for feature in (data.image_feature, data.text_feature):
        if feature not in first:
            raise DataError(f"TFDS dataset {name!r} has no feature {feature!r}; it has {', '.join(first)}")
    captions = [_captions(source[i][data.text_feature]) for i in range(len(source))]
    return CaptionedImages(
        pictures=_TfdsImages(source, data.image_feature),
        captions=captions,
        statements=(),
        truth=np.zeros((len(captions), 0), np.float32),
        fingerprint=hashlib.sha256(repr((data.name, captions)).encode()).hexdigest(),
    )


def _captions(value: Any) -> tuple[str, ...]:
    """One caption or several, as TFDS gives them: bytes, or an array of bytes."""
    several = [value] if isinstance(value, bytes | str) else list(value)
    return tuple(text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in several)
