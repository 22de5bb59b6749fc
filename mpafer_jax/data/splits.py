"""The train, validation and test splits of a run.

For datasets without a validation split one is split off train, so the checkpoint is never selected on test images.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from absl import logging
from PIL import Image

from mpafer_jax.config.data_section import ALL_SPLITS, TEST_WOULD_SELECT, DataSection
from mpafer_jax.data import inspection, label_noise, near_duplicates, preprocess, protocols, split_groups, subset
from mpafer_jax.data.decoded_cache import DecodedImages, open_or_make
from mpafer_jax.data.prepared import ExampleSource, Prepared, Summary, prepare, writing_into
from mpafer_jax.data.records import CROPPED, Record, SourceIndex, was_overlooked
from mpafer_jax.data.registry import prepared_root, read_source
from mpafer_jax.runtime import distributed, files, progress, workers
from mpafer_jax.runtime.errors import DataError

Indices = split_groups.Indices
F = TypeVar("F", bound=np.floating)
CLIPS = "examples are clips"  # start of the line of a description that says so
SKIPPED = "images that cannot be read are skipped: "  # start of the line of a description that counts them
OWN_TEST_FRACTION = 0.2  # of a user's images without a test split [ours]
_FAR = 2  # times more or less than asked for is split off with a warning, where persons stay whole
_OWN = ("folder", "list", "parquet")  # datasets of a user's images; owners say which splits theirs have


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
    """Random access to the encoded images of examples selected from prepared splits.

    Attributes:
      sources: the prepared splits.
      rows: int64[n, 2]: index into `sources`, row of the (first) image in that source.
      num_frames: int64[n], images of each example: 1, or the frames of a clip, in successive rows.
      decoded: decoded images of each source; () without `config.data.cache_decoded`.
    """

    sources: tuple[ExampleSource, ...]
    rows: Indices
    num_frames: Indices
    decoded: tuple[DecodedImages, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        source, row = (int(value) for value in self.rows[index])
        return self.sources[source][row]["image"]

    def image(self, index: int, frame: int = 0) -> Image.Image:
        """The decoded image, grey or RGB; of a clip its `frame`-th."""
        source, row = (int(value) for value in self.rows[index])
        if not self.decoded:
            return preprocess.decode(self.sources[source][row + frame]["image"])
        return self.decoded[source][row + frame]

    def take(self, indices: npt.NDArray[np.integer]) -> EncodedImages:
        """Those of the examples at `indices`."""
        return dataclasses.replace(self, rows=self.rows[indices], num_frames=self.num_frames[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """Which of m images, in the order of n examples, stand for each: one, or frames of a clip.

    Attributes:
      starts: int64[n], position of the first image of each example.
      num_images: m.
    """

    starts: Indices
    num_images: int

    @property
    def counts(self) -> Indices:
        """int64[n], images of each example."""
        return np.diff(self.starts, append=self.num_images)

    def mean(self, values: npt.NDArray[F]) -> npt.NDArray[F]:
        """Means [n, ..] over the images of each example, from values [m, ..] of the images."""
        if len(self.starts) == self.num_images:
            return values
        sums = np.add.reduceat(values.astype(np.float64), self.starts, axis=0)
        return (sums / self.counts.reshape(-1, *[1] * (values.ndim - 1))).astype(values.dtype)

    def middle(self) -> Indices:
        """int64[n], position of the middle image of each example."""
        return self.starts + self.counts // 2


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples, images or video clips, in a fixed order; images stay on disk, the rest is in memory.

    Attributes:
      name: "train", "validation" or "test".
      labels: int32[n].
      label_distributions: float32[n, C], each row sums to 1.
      names: str[n], of the images or clips in the dataset's files.
      pixel_hashes: str[n], equal for pixel-identical examples.
      class_names: C names, in the order of the labels.
      fingerprint: hex digest of images, labels, order and segments.
      attributes: str[n] by name, what the dataset tells of each example besides; "" where it does not.
      segments: parts of equal length into which a clip is cut; a frame stands for each. 0: the examples are images.
      frame_hashes: S32[..], of clips the pixel hashes of all frames, by source.
    """

    name: str
    source: EncodedImages
    labels: npt.NDArray[np.int32]
    label_distributions: npt.NDArray[np.float32]
    names: npt.NDArray[np.str_]
    pixel_hashes: npt.NDArray[np.str_]
    class_names: tuple[str, ...]
    fingerprint: str
    attributes: Mapping[str, npt.NDArray[np.str_]] = dataclasses.field(default_factory=dict[str, npt.NDArray[np.str_]])
    segments: int = 0
    frame_hashes: tuple[npt.NDArray[np.bytes_], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """Name and size, without the arrays."""
        return f"<{type(self).__name__} {self.name}: {len(self):,} {self.unit} of {len(self.class_names)} classes>"

    @property
    def unit(self) -> str:
        """What the examples are: "images" or "clips"."""
        return "clips" if self.segments else "images"

    @property
    def images_per_epoch(self) -> int:
        """Images of one pass over the examples: of a clip one for each segment."""
        return len(self) * max(1, self.segments)

    def frames(self) -> tuple[Split, Grouping]:
        """The images that stand for the examples where nothing is random: the middle frame of each segment of a clip.

        All frames, once, of a clip with fewer frames than segments.

        Returns:
          The images as a split, with the examples' names and labels, and which of them stand for each example.
        """
        if not self.segments:
            return self, Grouping(np.arange(len(self)), len(self))
        available = self.source.num_frames
        used = np.minimum(available, self.segments)
        starts = np.cumsum(used) - used
        clip = np.repeat(np.arange(len(self)), used)
        frame = (2 * (np.arange(len(clip)) - starts[clip]) + 1) * available[clip] // (2 * used[clip])
        source, first = self.source.rows[clip].T
        hashes = np.zeros(len(clip), "S32")
        for number, stored in enumerate(self.frame_hashes):
            hashes[source == number] = stored[(first + frame)[source == number]]
        images = dataclasses.replace(
            self.take(clip),
            source=dataclasses.replace(
                self.source, rows=np.stack([source, first + frame], axis=1), num_frames=np.ones_like(clip)
            ),
            pixel_hashes=hashes.astype(np.str_),
            segments=0,
            frame_hashes=(),
        )
        return images, Grouping(starts, len(images))

    def class_counts(self) -> npt.NDArray[np.int64]:
        """int64[C]: examples per class."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def take(self, indices: npt.NDArray[np.integer], name: str = "") -> Split:
        """The examples at `indices`, in that order."""
        digest = hashlib.sha256(self.fingerprint.encode() + np.asarray(indices, np.int64).tobytes())
        return dataclasses.replace(
            self,
            name=name or self.name,
            source=self.source.take(indices),
            labels=self.labels[indices],
            label_distributions=self.label_distributions[indices],
            names=self.names[indices],
            pixel_hashes=self.pixel_hashes[indices],
            fingerprint=digest.hexdigest(),
            attributes={attribute: values[indices] for attribute, values in self.attributes.items()},
        )

    def with_label_noise(self, fraction: float, seed: int) -> Split:
        """The split with synthetic label noise, see `label_noise.replace_labels`."""
        if not fraction:
            return self
        if len(self.class_names) < 2:
            raise DataError(
                f"config.data.label_noise is {fraction}, but there is one class, {''.join(self.class_names)!r}"
            )
        noisy = label_noise.replace_labels(self.labels, len(self.class_names), fraction, seed)
        digest = hashlib.sha256(self.fingerprint.encode() + noisy.tobytes())
        return dataclasses.replace(
            self,
            labels=noisy,
            label_distributions=label_noise.move_weights(self.label_distributions, self.labels, noisy),
            fingerprint=digest.hexdigest(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a run, with the metadata of their preparation and a text that describes them (for the log).

    `face_margin` is that of an aligned copy, else None.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    summary: Summary = dataclasses.field(repr=False)
    description: str = dataclasses.field(repr=False)
    face_margin: float | None = None

    @property
    def held_out(self) -> list[Split]:
        """Validation and test, if they exist."""
        return [split for split in (self.validation, self.test) if split is not None]


def load_dataset(data: DataSection, *, without: Literal["validation", "test", ""] = "") -> Dataset:
    """Opens the configured dataset, prepares it on first use (see `prepared.prepare`), and logs its counts.

    Every process calls this; what they read must be the same.

    Args:
      without: a split that the caller does not need and that may be missing, None in the result. The others are the
        same as with it.

    Raises:
      DataError: a configured split is missing or named for two purposes, the processes of a run have read different
        data, or see `registry.read_source`, `subset.select`, `prepared.prepare`.
    """
    index = read_source(data)
    data, own_test = split_off_missing_test(data, index)
    origins = split_origins(data, index)
    if error := shared(origins, data, index):
        raise error
    if without:
        origins[without] = ()
    if without == "test":
        data = data.model_copy(update={"test_subset": ""})
    wanted = [*origins["train"], *(name for part in ("validation", "test") for name in origins[part])]
    for name in wanted:
        if name not in index.splits:
            raise absent(name, index, data)
    if not wanted:
        raise DataError("config.data names no split: train_splits, validation_split and test_split are all empty")
    unused_validation = [] if without == "validation" else _unused_validation(data, index, wanted)
    for warning in (*index.warnings, *unused_validation):
        logging.warning("%s", warning)
    listed, unused = listed_in_subset(data, index)  # before images are prepared, which may take long
    prepared = prepare(index, prepared_root(data), data.on_bad_image)
    # What is left out is no part of a copy, which stays valid when more of it appears.
    prepared = dataclasses.replace(prepared, summary=dataclasses.replace(prepared.summary, dropped=index.dropped))
    for warning in _left_out(prepared.summary):
        logging.warning("%s", warning)
    train = concatenate(data, origins["train"] or wanted[:1], "train", prepared, index)
    if not data.train_splits:
        train = train.take(np.zeros(0, np.int64))
    held_out: dict[str, Split | None] = {}
    for part in ("validation", "test"):
        held_out[part] = concatenate(data, origins[part], part, prepared, index) if origins[part] else None
    notes = [own_test] if own_test else list[str]()  # lines of the description
    notes += [f"{CROPPED}{index.crop}"] if index.crop else []
    if data.test_subset and held_out["test"] is not None:
        held_out["test"], note = _restrict(held_out["test"], listed, unused, data)
        notes.append(note)
    persons = _column(index, origins["train"], prepared, lambda record: record.person)
    train, parts, note, warned = _split_off(train, persons, data, prepared)
    notes += [*note, *warned]
    splits = {part: parts[part] if len(parts[part]) else held_out[part] for part in parts}
    train, note = _mislabel(_limit(train, data.train_per_class, data.few_shot_seed), data)
    notes += note
    splits = {
        part: None if split is None or part == without else _limit(split, data.eval_per_class, data.split_seed)
        for part, split in splits.items()
    }
    known = protocols.recognize(index)
    if known is not None:
        known = known.without(sum(map(len, prepared.summary.skipped.values())))
        notes.insert(0, known.text)
        warned += [] if known.comparable else [known.text]
    description = _describe(data, origins, prepared, train, splits, notes)
    logging.debug("%s", description)
    for note in notes:
        logging.log(logging.WARNING if note in warned else logging.INFO, "%s", note)
    dataset = Dataset(
        train,
        splits["validation"],
        splits["test"],
        prepared.summary.class_names,
        prepared.summary,
        description,
        index.face_margin,
    )
    _check_same_everywhere(dataset)
    counts = [f"{len(split):,} {split.name}" for split in (train, *dataset.held_out) if len(split)]
    name = data.dataset if data.dataset != "synthface" else f"drawn faces, style {data.synthface.style}"
    progress.fact("data", f"{name}: {', '.join(counts)} {train.unit}")
    progress.fact("classes", f"{len(dataset.class_names)}: {', '.join(dataset.class_names)}")
    return dataset


def _check_same_everywhere(dataset: Dataset) -> None:
    """Refuses different data on the processes of a run, whose numbers would be of no dataset."""
    if not distributed.is_one_of_many():  # asked first: elsewhere JAX's devices may not be wanted yet
        return
    splits = (dataset.train, *dataset.held_out)
    found = ", ".join(f"{len(split)} {split.name} {split.unit} ({split.fingerprint[:16]})" for split in splits)
    if differing := distributed.disagreement(found):
        raise DataError(
            f"the processes of this run have read different data: {differing}. Give every host the same files in "
            "config.data.dir and the same config.data, and delete what older files were prepared into "
            "(config.data.prepared_dir)"
        )


def split_off_missing_test(data: DataSection, index: SourceIndex) -> tuple[DataSection, str]:
    """For a user's images without a test split, sets `data.test_fraction` so that one is split off train.

    Returns:
      The configuration to use and a note for the log; `data` itself and '' for other datasets.
    """
    expected = data.dataset in _OWN and data.test_split == "test" and "train" in data.train_splits
    if not expected or data.test_subset or "test" in index.splits or "train" not in index.splits:
        return data, ""
    known = any(record.person for record in index.splits["train"])
    note = (
        f"{split_groups.NO_TEST}: {OWN_TEST_FRACTION:.0%} of train are split off, {'person' if known else 'class'} by "
        f"{'person' if known else 'class'}, seed {data.split_seed} (as --config.data.test_split= "
        f"--config.data.test_fraction={OWN_TEST_FRACTION} does)"
    )
    if not known:
        note += "; who is on an image is not known, so one person may be on both sides"
    return data.model_copy(update={"test_split": "", "test_fraction": OWN_TEST_FRACTION}), note


def split_origins(data: DataSection, index: SourceIndex) -> dict[str, tuple[str, ...]]:
    """The dataset's own splits that make up train, validation and test; () if split off train, or none.

    Where train is joined of folds, it leaves out those of validation, unless none would be left.
    """
    everything = tuple(index.splits) or (ALL_SPLITS,)
    validation = index.parts(*filter(None, [data.validation_split]))
    train: list[str] = []
    for parts in map(index.parts, data.train_splits):
        train += [part for part in parts if part not in validation] or list(parts)
    return {
        "train": tuple(train),
        "validation": validation,
        "test": everything if data.test_split == ALL_SPLITS else index.parts(*filter(None, [data.test_split])),
    }


def shared(origins: Mapping[str, Sequence[str]], data: DataSection, index: SourceIndex) -> DataError | None:
    """The error for a split of the dataset that is twice in `split_origins`; None if each is there once.

    Names that differ may be the same: with folds, "test" is one of them.
    """
    uses: dict[str, list[str]] = {}
    for part, splits in origins.items():
        for split in splits:
            uses.setdefault(split, []).append(part)
    twice = next((split for split, parts in uses.items() if len(parts) > 1), None)
    if twice is None:
        return None
    parts = tuple(dict.fromkeys(uses[twice]))
    where = f"{parts[0]} twice" if len(parts) == 1 else " and in ".join(parts)
    fields = {
        "train": f"train_splits {data.train_splits}",
        "validation": f"validation_split {data.validation_split!r}",
        "test": f"test_split {data.test_split!r}",
    }
    found = ", ".join(f"{fields[part]} is {' + '.join(origins[part])}" for part in parts)
    remedies: dict[tuple[str, ...], str] = {
        ("train",): "name each split once",
        ("train", "validation"): "name others, or leave validation_split empty to carve validation from train",
        ("validation", "test"): TEST_WOULD_SELECT,
    }
    remedy = remedies.get(parts, "name others, so that no test example is trained on")
    folds = "; 'test' is the fold of config.data.clips.fold, and 'train' are the others" if index.joined else ""
    return DataError(f"config.data: the split {twice!r} is in {where}: {found}; {remedy}{folds}")


def _unused_validation(data: DataSection, index: SourceIndex, wanted: Sequence[str]) -> list[str]:
    """A warning if the dataset has a validation split that this training does not use."""
    if not data.train_splits or "validation" in wanted or "validation" not in index.splits:
        return []
    return [
        f"the {len(index.splits['validation'])} images of the split 'validation' are not used; to choose the "
        "checkpoint on them: --config.data.validation_split=validation --config.data.validation_fraction=0"
    ]


def _left_out(summary: Summary) -> list[str]:
    """Warnings of unexpected files, and of images that were skipped."""
    overlooked = [
        f"{number} {reason} (in {split})"
        for split, reasons in summary.dropped.items()
        for reason, number in reasons.items()
        if was_overlooked(reason)
    ]
    warnings = [f"left out: {', '.join(overlooked)}"] if overlooked else []
    first = next((messages[0] for messages in summary.skipped.values()), "")
    return warnings + [f"{note}; the first is {first}" for note in _skipped(summary)]


def _skipped(summary: Summary) -> list[str]:
    """A note on images that were skipped, if there are some."""
    skipped = [f"{len(messages)} in {split}" for split, messages in summary.skipped.items()]
    return [f"{SKIPPED}{', '.join(skipped)}"] if skipped else []


def _split_off(
    train: Split, persons: npt.NDArray[np.str_], data: DataSection, prepared: Prepared
) -> tuple[Split, dict[str, Split], list[str], list[str]]:
    """Splits validation and test (empty without a fraction) off train; returns train, both, notes and warnings."""
    fractions = (data.test_fraction, data.validation_fraction)
    notes: list[str] = []
    together = [train.pixel_hashes]
    if data.near_duplicates_together and any(fractions) and len(train):
        together.append(_near_duplicates(train, prepared))
        notes.append("near-duplicates are on one side")
    known = persons[persons != ""]
    if len(known):
        groups = split_groups.join_groups(persons, *together)
        rest, test, validation = split_groups.split_off_groups(train.labels, groups, fractions, data.split_seed)
        why = f"the images of each of {len(np.unique(known))} persons stay together"
    else:
        groups = split_groups.join_groups(*together) if len(together) > 1 else train.pixel_hashes
        rest, test, validation = split_groups.split_off(train.labels, groups, fractions, data.split_seed)
        why = "every class keeps an image, and equal images stay together"
    if 0 < len(known) < len(train) and len(rest) < len(train):
        unknown = f"{len(train) - len(known)} of {len(train)} {train.unit}"
        notes.append(f"split by person: no known person is on both sides; who is on {unknown} is not known")
    elif len(known) and len(rest) < len(train):
        notes.append("split by person: no person is on both sides")
    warnings: list[str] = []
    for part, found, fraction in zip(("test", "validation"), (test, validation), fractions, strict=True):
        wanted = fraction * len(train)
        if wanted and (not len(found) or (len(known) and not wanted / _FAR <= len(found) <= wanted * _FAR)):
            warnings.append(
                f"{part}: {len(found)} of {len(train)} {train.unit} are split off, though config.data.{part}_fraction "
                f"is {fraction}: {why}"
            )
    parts = {"validation": train.take(validation, "validation"), "test": train.take(test, "test")}
    return train.take(rest) if len(rest) < len(train) else train, parts, notes, warnings


def _near_duplicates(train: Split, prepared: Prepared) -> npt.NDArray[np.str_]:
    """str[n], equal for near-duplicates; stored beside the prepared images."""
    path = prepared.directory / f"near_duplicates-{train.fingerprint[:16]}.npy"
    if not path.is_file():
        middle: list[int] = (train.source.num_frames // 2).tolist()
        threads = workers.usable_cores()
        with (
            writing_into(prepared.directory, "near_duplicates_together"),
            files.replacing(path) as temporary,
            temporary.open("wb") as stream,  # before the search, which may take long
        ):
            progress.fact("near-duplicates", f"searched among {len(train):,} {train.unit}, once")
            with futures.ThreadPoolExecutor(threads) as pool:
                opened = workers.map_in_order(
                    pool,
                    lambda i: inspection.thumbnail(train.source.image(i, middle[i])),
                    range(len(train)),
                    4 * threads,
                )
                thumbnails = list(progress.track(opened, "opening train", len(train), train.unit))
            np.save(stream, near_duplicates.groups(np.stack(thumbnails)), allow_pickle=False)
    try:
        with path.open("rb") as stream:
            found: npt.NDArray[np.int32] = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and near-duplicates are searched again") from error
    if found.shape != (len(train),):
        raise DataError(
            f"{path} holds groups of {list(found.shape)} images, expected [{len(train)}]; delete it, and "
            "near-duplicates are searched again"
        )
    return found.astype(np.str_)


def _mislabel(train: Split, data: DataSection) -> tuple[Split, list[str]]:
    """Train with the configured label noise, and notes for the log."""
    noisy = train.with_label_noise(data.label_noise, data.label_noise_seed)
    if not data.label_noise:
        return noisy, []
    replaced = int((noisy.labels != train.labels).sum())
    note = (
        f"train: {replaced} of {len(train)} labels replaced by another class ({data.label_noise:.0%} of each class, "
        f"seed {data.label_noise_seed}); the counts above are those of the replaced labels"
    )
    return noisy, [note]


def listed_in_subset(data: DataSection, index: SourceIndex) -> tuple[list[str], int]:
    """Names of the test's images that `data.test_subset` lists, and how many others of it that are left out.

    ([], 0) without a list; DataError: see `subset.select`.
    """
    if not data.test_subset:
        return [], 0
    splits = index.parts(data.test_split)
    names = [record.name for split in splits for record in index.splits[split]]
    left_out = [record.name for split in splits for record in index.left_out.get(split, ())]
    path = files.local_path(data.test_subset, "config.data.test_subset")
    selection, absent = subset.select(path, names, left_out)
    return [names[position] for position in selection], absent


def _restrict(test: Split, listed: Sequence[str], absent: int, data: DataSection) -> tuple[Split, str]:
    """Restricts test to the images of `listed_in_subset` that can be read; returns it and a note for the log."""
    selection = np.flatnonzero(np.isin(test.names, listed))
    if not len(selection):
        raise DataError(
            f"config.data.test_subset: none of the {len(listed)} images that {data.test_subset} names can be read"
        )
    absent += len(listed) - len(selection)
    note = f"test: restricted to {Path(data.test_subset).name}, {len(selection)} of {len(test)} {test.unit}"
    note += f"; {absent} others that it lists are left out (their class, label rule or image)" if absent else ""
    return test.take(selection), note


def _limit(split: Split, per_class: int, seed: int) -> Split:
    return split.take(split_groups.draw_per_class(split.labels, per_class, seed)) if per_class else split


def _column(
    index: SourceIndex, origin: Sequence[str], prepared: Prepared, value: Callable[[Record], str]
) -> npt.NDArray[np.str_]:
    """str[n]: a value of each image of the concatenated splits, from its record."""
    column: list[str] = []
    for split in origin:
        known = {record.name: value(record) for record in index.splits[split]}
        column += [known[name] for name in prepared.splits[split].names.tolist()]
    return np.array(column, np.str_)


def _attributes(index: SourceIndex, origin: Sequence[str], prepared: Prepared) -> dict[str, npt.NDArray[np.str_]]:
    # Read anew and not prepared: a prepared copy stays valid when a dataset gets more of them.
    names = dict.fromkeys(name for split in origin for record in index.splits[split] for name in record.attributes)
    return {
        name: _column(index, origin, prepared, lambda record, name=name: record.attributes.get(name, ""))
        for name in names
    }


def absent(name: str, index: SourceIndex, data: DataSection) -> DataError:
    """The error for a configured split that the dataset lacks, with flags that avoid it."""
    existing = ", ".join([*(f"{split} ({len(records)})" for split, records in index.splits.items()), *index.joined])
    reason = f"; looked for {index.absent[name]}" if name in index.absent else ""
    return DataError(
        f"{index.dataset} has no split {name!r} here{reason}. Splits that are here: {existing}. "
        f"{_remedy(name, index, data)} (the config argument `whole` evaluates on all that is here)"
    )


def _remedy(name: str, index: SourceIndex, data: DataSection) -> str:
    first = next(iter(index.splits), "")
    split_off_test = f"--config.data.test_split= --config.data.test_fraction={OWN_TEST_FRACTION}"
    if name == data.test_split:
        instead, meaning = split_off_test, f"{OWN_TEST_FRACTION:.0%} of train"
    elif name == data.validation_split:
        instead = "--config.data.validation_split= --config.data.validation_fraction=0.1"
        meaning = "10% of train"
    else:
        instead, meaning = f"--config.data.train_splits=\"('{first}',)\"", f"{first!r} for train"
        if first == data.test_split:
            instead += f" {split_off_test}"
    return f"To take {meaning} instead, add\n  {instead}\n"


def concatenate(data: DataSection, origin: Sequence[str], name: str, prepared: Prepared, index: SourceIndex) -> Split:
    """The named splits of a prepared dataset as one."""
    parts = [prepared.splits[split] for split in origin]
    decoded: tuple[DecodedImages, ...] = ()
    if data.cache_decoded:
        decoded = tuple(open_or_make(prepared.directory, split, prepared.splits[split].source) for split in origin)
    counts = [np.ones(len(p.labels), np.int64) if p.num_frames is None else p.num_frames for p in parts]
    rows = [np.stack([np.full(len(n), i), np.cumsum(n) - n], axis=1) for i, n in enumerate(counts)]
    frame_hashes = tuple(part.frame_hashes for part in parts if part.frame_hashes is not None)
    segments = data.clips.frames if frame_hashes else 0
    named = [prepared.summary.fingerprint, *origin, *([f"{segments} segments"] if segments else [])]
    digest = hashlib.sha256("\0".join(named).encode())
    return Split(
        name=name,
        source=EncodedImages(
            tuple(part.source for part in parts),
            np.concatenate(rows).astype(np.int64),
            np.concatenate(counts).astype(np.int64),
            decoded,
        ),
        labels=np.concatenate([part.labels for part in parts]),
        label_distributions=np.concatenate([part.label_distributions for part in parts]),
        names=np.concatenate([part.names for part in parts]),
        pixel_hashes=np.concatenate([part.pixel_hashes for part in parts]),
        class_names=prepared.summary.class_names,
        fingerprint=digest.hexdigest(),
        attributes=_attributes(index, origin, prepared),
        segments=segments,
        frame_hashes=frame_hashes,
    )


def _describe(
    data: DataSection,
    owners: Mapping[str, Sequence[str]],
    prepared: Prepared,
    train: Split,
    held_out: Mapping[str, Split | None],
    notes: Sequence[str],
) -> str:
    summary = prepared.summary
    splits = {"train": train, **{part: split for part, split in held_out.items() if split is not None}}
    origins = {
        "train": " + ".join(owners["train"]) or "nothing",
        "validation": " + ".join(owners["validation"])
        or f"{data.validation_fraction:.0%} of train, seed {data.split_seed}",
        "test": " + ".join(owners["test"]) or f"{data.test_fraction:.0%} of train, seed {data.split_seed}",
    }
    lines = [f"dataset {summary.dataset}, label rule {summary.label_rule}, prepared in {prepared.directory}"]
    if train.segments:
        frames = sum(int(split.source.num_frames.sum()) for split in splits.values())
        lines.append(f"  {CLIPS}, {frames} frames in all; {train.segments} of each are sampled")
    lines.append(f"  {'label class (owner)':<34}" + "".join(f"{part:>12}" for part in splits))
    counts = {part: split.class_counts() for part, split in splits.items()}
    for label, (name, source) in enumerate(zip(summary.class_names, summary.source_labels, strict=True)):
        title = f"{label:>5} {name} ({source})"
        lines.append(f"  {title:<34}" + "".join(f"{counts[part][label]:>12}" for part in splits))
    lines.append(f"  {'total':<34}" + "".join(f"{len(split):>12}" for split in splits.values()))
    train_limit, limit = (data.train_per_class, data.few_shot_seed), (data.eval_per_class, data.split_seed)
    for part in splits:
        number, seed = train_limit if part == "train" else limit
        limited = f", at most {number} of each class, seed {seed}" if number else ""
        lines.append(f"  {part}: {origins[part]}{limited}")
    lines += [f"  {note}" for note in notes]
    for split, reasons in summary.dropped.items():
        lines += [f"  dropped from {split}: {number} {reason}" for reason, number in reasons.items()]
    lines += [f"  {note}" for note in _skipped(summary)]
    in_train = set(train.pixel_hashes.tolist())
    for part, split in list(splits.items())[1:]:
        shared = sum(value in in_train for value in split.pixel_hashes.tolist())
        if shared:
            lines.append(f"  {shared} of the {part} {split.unit} are pixel-identical to one in train")
    return "\n".join(lines)
