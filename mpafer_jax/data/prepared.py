"""Preparation: decodes every image as a check and writes the dataset as ArrayRecord, as TFDS reads it.

    <prepared_dir>/<dataset>-<fingerprint>/<dataset>/<version>/
      *.array_record*, dataset_info.json, features.json    as of TFDS
      examples.npz     per split: labels, label distributions, names, pixel hashes; of clips also the number of frames
                       and the frames' pixel hashes
      summary.json     class names, counts of what was dropped or skipped, label rule
      near_duplicates-*.npy   by split: a number for each example, equal for near-duplicates, once asked for

The fingerprint covers labels, names, image sizes and some images: a changed source is prepared in a new folder, and old
ones may be deleted. A record is an image, or a frame of a clip; the frames of a clip follow one another. All is written
into a folder `incomplete.*`, which is renamed at the end, so an interrupted preparation is never opened.

TFDS's builders would hold a split in memory to shuffle it, up to a gigabyte, and need TensorFlow for a larger one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import itertools
import json
import secrets
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from mpafer_jax.data.inspection import Inspected, inspect_all, joint_hash, workers
from mpafer_jax.data.records import Clip, Record, SourceIndex
from mpafer_jax.runtime import files, locks, progress, signals
from mpafer_jax.runtime.errors import DataError, ImageError

# Without type information.
array_record: Any = importlib.import_module("array_record.python.array_record_module")
tf_example: Any = importlib.import_module("tensorflow_datasets.proto").tf_example_pb2

_EXAMPLES, _SUMMARY = "examples.npz", "summary.json"
# Arrays of the first file, and further ones of clips: see `PreparedSplit`.
_COLUMNS = {"labels": np.int32, "label_distributions": np.float32, "names": np.str_, "pixel_hashes": np.str_}
_CLIP_COLUMNS = {"num_frames": np.int64, "frame_hashes": np.bytes_}
_FILE_FORMAT = "array_record"
# One record a group: read at random. Images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_FILE_BYTES = 2**30
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


@dataclasses.dataclass
class _Columns:
    """What is stored of the examples of a split besides their images, example by example."""

    labels: list[int] = dataclasses.field(default_factory=list[int])
    label_distributions: list[npt.NDArray[np.float32]] = dataclasses.field(
        default_factory=list[npt.NDArray[np.float32]]
    )
    names: list[str] = dataclasses.field(default_factory=list[str])
    pixel_hashes: list[str] = dataclasses.field(default_factory=list[str])
    num_frames: list[int] = dataclasses.field(default_factory=list[int])
    frame_hashes: list[str] = dataclasses.field(default_factory=list[str])
    skipped: list[str] = dataclasses.field(default_factory=list[str])

    def arrays(self, split: str, unit: str) -> dict[str, npt.NDArray[Any]]:
        """The content of `_EXAMPLES` for this split."""
        dtypes = {**_COLUMNS, **(_CLIP_COLUMNS if unit == "clips" else {})}
        return {f"{split}/{name}": np.array(getattr(self, name), dtype) for name, dtype in dtypes.items()}


def _features(num_classes: int) -> tfds.features.FeaturesDict:
    """What a record holds, as `_to_record` writes it and TFDS reads it."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.Scalar(np.int32),
            "label_distribution": tfds.features.Tensor(shape=(num_classes,), dtype=np.float32),
            "name": tfds.features.Text(),
            "index": tfds.features.Scalar(np.int64),
        }
    )


def _to_record(image: bytes, record: Record, distribution: Sequence[float], index: int) -> bytes:
    """A record of `_features`; by TFDS's own serialization, which is general, it takes six times as long."""
    example = tf_example.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(image)  # stays encoded, which needs no TensorFlow
    feature["label"].int64_list.value.append(record.label)
    feature["label_distribution"].float_list.value.extend(distribution)
    # A file's name need not be UTF-8.
    feature["name"].bytes_list.value.append(record.name.encode("utf-8", "surrogateescape"))
    feature["index"].int64_list.value.append(index)
    return example.SerializeToString()


def _to_records(
    index: SourceIndex,
    split: str,
    inspected: Iterator[Inspected | ImageError],
    on_bad_image: OnBadImage,
    columns: _Columns,
    work: progress.Task,
) -> Generator[bytes]:
    """The records of a split, in order; what else is stored of them is appended to `columns`."""
    one_hot = np.eye(len(index.class_names), dtype=np.float32)
    position = 0
    for record in index.splits[split]:
        weights = record.label_distribution
        distribution = one_hot[record.label] if weights is None else np.array(weights, np.float32)
        hashes: list[str] = []
        for image in itertools.islice(inspected, len(record.frames)):
            work.advance()
            if isinstance(image, ImageError):
                if on_bad_image == "error":
                    raise ImageError(
                        f"{image}\nmpafer-jax data check lists all such images; config.data.on_bad_image='skip' leaves "
                        "them out"
                    ) from image
                logging.warning("skipped: %s", image)
                columns.skipped.append(str(image))
                continue
            hashes.append(image.pixel_hash)
            yield _to_record(image.data, record, distribution.tolist(), position)
            position += 1
        if not hashes:
            continue
        columns.labels.append(record.label)
        columns.label_distributions.append(distribution)
        columns.names.append(record.name)
        columns.pixel_hashes.append(joint_hash(hashes))
        columns.num_frames.append(len(hashes))
        columns.frame_hashes += hashes if isinstance(record.image, Clip) else ()
    if not position:
        raise DataError(
            f"split {split!r} of {index.dataset}: none of its {len(index.splits[split])} {index.unit} can be read"
        )


def _write_records(records: Iterator[bytes], folder: Path, dataset: str, split: str) -> tfds.core.SplitInfo:
    """Writes records as they come to ArrayRecord files of about `_FILE_BYTES`, with TFDS's names."""
    paths: list[Path] = []
    lengths: list[int] = []
    num_bytes = 0
    for first in records:
        paths.append(folder / f"{split}-{len(paths)}")
        length, limit = 0, num_bytes + _FILE_BYTES
        writer = array_record.ArrayRecordWriter(str(paths[-1]), _WRITER_OPTIONS)
        try:
            for record in itertools.chain([first], records):
                writer.write(record)
                length, num_bytes = length + 1, num_bytes + len(record)
                if num_bytes >= limit:
                    break
        finally:
            writer.close()
        lengths.append(length)
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder), dataset_name=dataset, split=split, filetype_suffix=_FILE_FORMAT
    )
    for number, path in enumerate(paths):
        path.rename(template.sharded_filepath(shard_index=number, num_shards=len(paths)))
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template)


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
      DataError: `root` is not writable, a split has no readable image, or the preparation is damaged; if its images
        are, they raise this when they are read.
      OSError: the disk is full; a later call starts from the beginning.
    """
    fingerprint = index.fingerprint(_FORMAT, index.version, on_bad_image)
    parent = root / f"{index.dataset}-{fingerprint[:16]}"
    directory = parent / index.dataset / index.version
    if directory.is_dir():
        return _open(directory)
    with writing_into(root):
        root.mkdir(parents=True, exist_ok=True)
        with signals.orderly(), files.naming(root), locks.hold(root / f"{parent.name}.lock", parent, wait=True):
            if not directory.is_dir():
                _write(index, parent, on_bad_image, fingerprint)
    return _open(directory)


@contextlib.contextmanager
def writing_into(folder: Path, option: str = "") -> Generator[None]:
    """Turns the OSError of a folder that cannot be written into a DataError that says what to do; others stay.

    Args:
      option: of config.data, that asks for what is written and may be off; "": it has to be written.
    """
    try:
        yield
    except OSError as error:
        if not files.is_not_writable(error):
            raise
        asked, off = (f"config.data.{option}: ", "switch it off, or ") if option else ("", "")
        raise DataError(
            f"{asked}{folder} cannot be written ({error}); {off}set config.data.prepared_dir to a folder that can"
        ) from error


def _write(index: SourceIndex, parent: Path, on_bad_image: OnBadImage, fingerprint: str) -> None:
    for left_over in parent.glob(f"{index.dataset}/incomplete.*"):  # of a process that was killed
        shutil.rmtree(left_over)
    directory = parent / index.dataset / index.version
    unfinished = directory.with_name(f"incomplete.{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    logging.debug("preparing %s into %s, once", index.dataset, parent)
    try:
        _write_into(unfinished, index, on_bad_image, fingerprint)
        unfinished.rename(directory)
    except OSError as error:
        # Without file locks another process may have been first; its result is the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    except RuntimeError as error:  # ArrayRecord's writer
        full = files.full_disk(error, parent)
        if full is None:
            raise
        raise full from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_into(folder: Path, index: SourceIndex, on_bad_image: OnBadImage, fingerprint: str) -> None:
    total = sum(len(record.frames) for records in index.splits.values() for record in records)
    title = "drawing faces" if index.computed else f"preparing {index.dataset}"
    columns = {split: _Columns() for split in index.splits}
    written: list[tfds.core.SplitInfo] = []
    with progress.task(title, total) as work, workers(index.computed) as pool:
        for split, records in index.splits.items():
            frames = (frame for record in records for frame in record.frames)
            # Closed here and not by the garbage collector, so that pending work is cancelled at a known time.
            with contextlib.closing(inspect_all(frames, pool)) as inspected:
                examples = _to_records(index, split, inspected, on_bad_image, columns[split], work)
                written.append(_write_records(examples, folder, index.dataset, split))
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=index.dataset,
            version=tfds.core.Version(index.version),
            data_dir=str(folder),
            module_name=__name__,
        ),
        description=index.description,
        features=_features(len(index.class_names)),
        disable_shuffling=True,  # else `as_data_source` gives the examples in the order of a hash
    )
    info.set_file_format(_FILE_FORMAT)
    info.set_splits(tfds.core.SplitDict(written))
    info.write_to_directory(folder)
    summary = Summary(
        dataset=index.dataset,
        label_rule=index.label_rule,
        class_names=index.class_names,
        source_labels=index.source_labels,
        fingerprint=fingerprint,
        dropped=index.dropped,
        skipped={split: tuple(found.skipped) for split, found in columns.items() if found.skipped},
    )
    arrays = [found.arrays(split, index.unit) for split, found in columns.items()]
    np.savez(folder / _EXAMPLES, allow_pickle=False, **dict(itertools.chain(*(part.items() for part in arrays))))
    (folder / _SUMMARY).write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class _Records:
    """A prepared split's records, whose damage is an error that names the preparation."""

    source: ExampleSource
    directory: Path

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        try:
            return self.source[index]
        except RuntimeError as error:  # ArrayRecord's reader
            raise _damaged(self.directory, error) from error


def _damaged(directory: Path, error: Exception) -> DataError:
    return DataError(
        f"{directory} is damaged or was copied in part ({type(error).__name__}: {error}); delete "
        f"{directory.parents[1]}, and the dataset is prepared again"
    )


def _open(directory: Path) -> Prepared:
    try:
        return _read(directory)
    except Exception as error:  # those of NumPy, JSON, protocol buffers and TFDS have no common base
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise  # of the disk or of permissions
        raise _damaged(directory, error) from error


def _read(directory: Path) -> Prepared:
    values = json.loads((directory / _SUMMARY).read_text())
    for name in ("class_names", "source_labels"):
        values[name] = tuple(values[name])
    values["skipped"] = {split: tuple(messages) for split, messages in values["skipped"].items()}
    # Any: the decorator of `as_data_source` hides its type.
    builder: Any = tfds.builder_from_directory(str(directory))
    splits: dict[str, PreparedSplit] = {}
    # NumPy would not close a damaged file that it opened.
    with (directory / _EXAMPLES).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        stored = dict(arrays)
    for split in sorted({name.partition("/")[0] for name in stored}):
        splits[split] = PreparedSplit(
            source=_Records(
                builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}), directory
            ),
            **{name.partition("/")[2]: array for name, array in stored.items() if name.startswith(f"{split}/")},
        )
    return Prepared(directory, Summary(**values), splits)
