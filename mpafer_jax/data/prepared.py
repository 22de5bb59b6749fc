"""Preparation: a TFDS builder that decodes every image as a check and writes the dataset as ArrayRecord.

    <prepared_dir>/<dataset>-<fingerprint>/<dataset>/<version>/
      *.array_record*, dataset_info.json, features.json    written by TFDS
      examples.npz     per split: labels, label distributions, names, pixel hashes; of clips also the number of frames
                       and the frames' pixel hashes
      summary.json     class names, counts of what was dropped or skipped, label rule
      near_duplicates-*.npy   by split: a number for each example, equal for near-duplicates, once asked for

The fingerprint covers labels, names and image sizes: a changed source is prepared in a new folder, and old ones may be
deleted. A record is an image, or a frame of a clip; the frames of a clip follow one another. TFDS writes into a
temporary folder and renames it at the end, so an interrupted preparation is never opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Generator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from absl import logging

from mpafer_jax.data.inspection import inspect_all, joint_hash, workers
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.runtime import files, locks, progress, signals
from mpafer_jax.runtime.errors import DataError, ImageError

_EXAMPLES, _SUMMARY = "examples.npz", "summary.json"
# Arrays of the first file, and further ones of clips: see `PreparedSplit`.
_COLUMNS = {"labels": np.int32, "label_distributions": np.float32, "names": np.str_, "pixel_hashes": np.str_}
_CLIP_COLUMNS = {"num_frames": np.int64, "frame_hashes": np.bytes_}
_FORMAT = "1"  # of the written files; with a new number every dataset is prepared again
OnBadImage = Literal["error", "skip"]


class ExampleSource(Protocol):
    """Random access to prepared examples, as TFDS reads them; picklable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Summary:
    """Metadata of a preparation; fields as in `SourceIndex`, and the error messages of skipped images by split."""

    dataset: str
    label_rule: str
    class_names: tuple[str, ...]
    source_labels: tuple[str, ...]
    fingerprint: str
    dropped: Mapping[str, Mapping[str, int]]
    skipped: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSplit:
    """A split of n examples: images, or clips of several frames.

    Attributes:
      source: m images on disk: of images m = n, of clips all frames, clip after clip.
      labels: int32[n].
      label_distributions: float32[n, C].
      names: str[n].
      pixel_hashes: str[n].
      num_frames: int64[n], frames of each clip; None for images.
      frame_hashes: S32[m], pixel hashes of the frames; None for images.
    """

    source: ExampleSource
    labels: npt.NDArray[np.int32]
    label_distributions: npt.NDArray[np.float32]
    names: npt.NDArray[np.str_]
    pixel_hashes: npt.NDArray[np.str_]
    num_frames: npt.NDArray[np.int64] | None = None
    frame_hashes: npt.NDArray[np.bytes_] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared dataset."""

    directory: Path
    summary: Summary
    splits: Mapping[str, PreparedSplit]


class ExpressionBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the dataset of a `SourceIndex`, under its name and version."""

    # Else TFDS looks for download checksums with a package that it does not install on Python >= 3.9.
    code_path = None

    def __init__(
        self,
        *,
        index: SourceIndex,
        on_bad_image: OnBadImage,
        fingerprint: str,
        data_dir: Path,
        pool: futures.Executor,
        work: progress.Task,
    ):
        builder: Any = self  # TFDS declares these two as class attributes
        builder.name, builder.VERSION = index.dataset, tfds.core.Version(index.version)
        self._index = index
        self._work = work
        self._on_bad_image: OnBadImage = on_bad_image
        self._fingerprint = fingerprint
        self._pool = pool
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._skipped: dict[str, list[str]] = {}
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        num_classes = len(self._index.class_names)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._index.description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.Scalar(np.int32),
                    "label_distribution": tfds.features.Tensor(shape=(num_classes,), dtype=np.float32),
                    "name": tfds.features.Text(),
                    "index": tfds.features.Scalar(np.int64),
                }
            ),
            disable_shuffling=True,  # else `as_data_source` gives the examples in the order of a hash
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Generator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in self._index.splits}

    def _generate_examples(self, split: str) -> Generator[tuple[int, dict[str, Any]]]:
        records, clips = self._index.splits[split], self._index.unit == "clips"
        columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *(_CLIP_COLUMNS if clips else ()))}
        skipped = self._skipped.setdefault(split, [])
        position = 0
        # Closed here and not by the garbage collector, so that pending work is cancelled at a known time.
        frames = (frame for record in records for frame in record.frames)
        with contextlib.closing(inspect_all(frames, self._pool)) as inspected:
            for record in records:
                one_hot = np.eye(len(self._index.class_names), dtype=np.float32)[record.label]
                weights = record.label_distribution
                distribution = one_hot if weights is None else np.array(weights, np.float32)
                hashes: list[str] = []
                for image in itertools.islice(inspected, len(record.frames)):
                    self._work.advance()
                    if isinstance(image, ImageError):
                        self._skip(image, skipped)
                        continue
                    hashes.append(image.pixel_hash)
                    yield (
                        position,
                        {
                            "image": io.BytesIO(image.data),  # stays encoded, which needs no TensorFlow
                            "label": record.label,
                            "label_distribution": distribution,
                            "name": record.name.encode("utf-8", "surrogateescape"),  # a file's name need not be UTF-8
                            "index": position,
                        },
                    )
                    position += 1
                if not hashes:
                    continue
                columns["labels"].append(record.label)
                columns["label_distributions"].append(distribution)
                columns["names"].append(record.name)
                columns["pixel_hashes"].append(joint_hash(hashes))
                if clips:
                    columns["num_frames"].append(len(hashes))
                    columns["frame_hashes"] += hashes
        if not position:
            raise DataError(
                f"split {split!r} of {self.name}: none of its {len(records)} {self._index.unit} can be read"
            )
        dtypes = {**_COLUMNS, **_CLIP_COLUMNS}
        self._arrays |= {f"{split}/{name}": np.array(values, dtypes[name]) for name, values in columns.items()}

    def _skip(self, image: ImageError, skipped: list[str]) -> None:
        """Notes an unreadable image, or raises it."""
        if self._on_bad_image == "error":
            raise ImageError(
                f"{image}\nmpafer-jax data check lists all such images; config.data.on_bad_image='skip' leaves them out"
            ) from image
        logging.warning("skipped: %s", image)
        skipped.append(str(image))

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Still TFDS's temporary folder: these two files appear together with the records.
        directory = Path(self.data_dir)
        summary = Summary(
            dataset=self._index.dataset,
            label_rule=self._index.label_rule,
            class_names=self._index.class_names,
            source_labels=self._index.source_labels,
            fingerprint=self._fingerprint,
            dropped=self._index.dropped,
            skipped={split: tuple(messages) for split, messages in self._skipped.items() if messages},
        )
        np.savez(directory / _EXAMPLES, allow_pickle=False, **self._arrays)
        (directory / _SUMMARY).write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")


def prepare(
    index: SourceIndex,
    root: Path,
    on_bad_image: OnBadImage = "error",
) -> Prepared:
    """Opens the preparation of a dataset; prepares it first if missing.

    Args:
      index: with the classes selected.
      root: folder of preparations, created if needed. Of the processes that share it one prepares and the others
        wait; hosts with separate disks prepare one copy each.
      on_bad_image: "error", or "skip" to drop and count unreadable images.

    Raises:
      ImageError: an image is unreadable, and `on_bad_image` is "error".
      DataError: `root` is not writable, or a split has no readable image.
      OSError: the disk is full; a later call starts from the beginning.
    """
    fingerprint = index.fingerprint(_FORMAT, index.version, on_bad_image)
    parent = root / f"{index.dataset}-{fingerprint[:16]}"
    directory = parent / index.dataset / index.version
    if directory.is_dir():
        return _open(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with signals.orderly(), files.naming(root), locks.hold(root / f"{parent.name}.lock", parent, wait=True):
            if not directory.is_dir():
                _write(index, parent, on_bad_image, fingerprint)
    except OSError as error:
        if not files.is_not_writable(error):
            raise
        raise DataError(
            f"{root} cannot be written ({error}); set config.data.prepared_dir to a folder that can"
        ) from error
    return _open(directory)


def _write(
    index: SourceIndex,
    parent: Path,
    on_bad_image: OnBadImage,
    fingerprint: str,
) -> None:
    for left_over in parent.glob(f"{index.dataset}/incomplete.*"):  # of a process that was killed
        shutil.rmtree(left_over)
    total = sum(len(record.frames) for records in index.splits.values() for record in records)
    logging.debug("preparing %s into %s, once", index.dataset, parent)
    tfds.disable_progress_bar()
    title = "drawing faces" if index.computed else f"preparing {index.dataset}"
    with (
        progress.task(title, total) as work,
        workers(index.computed) as pool,
        tempfile.TemporaryDirectory(dir=parent.parent) as scratch,
        # TFDS announces a download on stdout, which belongs to the calling command.
        contextlib.redirect_stdout(io.StringIO()),
    ):
        builder = ExpressionBuilder(
            index=index, on_bad_image=on_bad_image, fingerprint=fingerprint, data_dir=parent, pool=pool, work=work
        )
        try:
            builder.download_and_prepare(download_dir=scratch)
        except OSError as error:
            # Without file locks another process may have been first; its result is the same.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        except RuntimeError as error:  # ArrayRecord's writer
            full = files.full_disk(error, parent)
            if full is None:
                raise
            raise full from error


def _open(directory: Path) -> Prepared:
    values = json.loads((directory / _SUMMARY).read_text())
    for name in ("class_names", "source_labels"):
        values[name] = tuple(values[name])
    values["skipped"] = {split: tuple(messages) for split, messages in values["skipped"].items()}
    # Any: the decorator of `as_data_source` hides its type.
    builder: Any = tfds.builder_from_directory(str(directory))
    splits: dict[str, PreparedSplit] = {}
    with np.load(directory / _EXAMPLES, allow_pickle=False) as arrays:
        stored = dict(arrays)
    for split in sorted({name.partition("/")[0] for name in stored}):
        splits[split] = PreparedSplit(
            source=builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}),
            **{name.partition("/")[2]: array for name, array in stored.items() if name.startswith(f"{split}/")},
        )
    return Prepared(directory, Summary(**values), splits)
