"""Checks a dataset before training: protocol, labels, sizes, unreadable images, duplicates and near-duplicates.

The original files are read directly, without preparation; nothing is written.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from concurrent import futures

import numpy as np

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data import near_duplicates, protocols, records
from mpafer_jax.data.contact_sheet import Tile
from mpafer_jax.data.inspection import Thumbnails, inspect_all, joint_hash, workers
from mpafer_jax.data.records import ImageSource, Record, SourceIndex
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.splits import absent, listed_in_subset, shared, split_off_missing_test, split_origins
from mpafer_jax.runtime import progress, texts
from mpafer_jax.runtime.errors import DataError, ImageError

_LISTED = 5  # examples printed of a long list; broken images are always listed in full


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes:
      lines: to print.
      attention: findings that need attention.
      pairs: near-duplicates, those in different splits first, then those with different labels.
    """

    lines: tuple[str, ...]
    attention: tuple[str, ...]
    pairs: tuple[tuple[Tile, Tile], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Image:
    split: str
    record: Record
    size: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.record.name}"

    @property
    def middle_frame(self) -> ImageSource:
        return self.record.frames[len(self.record.frames) // 2]


@dataclasses.dataclass(frozen=True)
class _Images:
    """All images: groups with equal pixels by hash, a thumbnail of each group, errors of unreadable ones by split."""

    by_pixels: dict[str, list[_Image]]
    thumbnails: list[Thumbnails]
    broken: dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class _Near:
    """A pair of nearly equal images."""

    first: _Image
    second: _Image
    mirrored: bool

    @property
    def images(self) -> tuple[_Image, _Image]:
        return self.first, self.second

    @property
    def conflicting(self) -> bool:
        return len({image.record.label for image in self.images} - {-1}) > 1


def check(data: DataSection, index: SourceIndex | None = None) -> Report:
    """Checks the configured dataset.

    Args:
      index: the result of `read_source`, if already read.

    Raises:
      DataError: the layout, a label or a class name is invalid.
    """
    index = index or read_source(data)
    data, own_test = split_off_missing_test(data, index)
    with workers(index.computed) as pool:
        images = _open_all(index, pool)
    cropped = f"{records.CROPPED}{index.crop}" if index.crop else ""
    place = f"in {data.dir}" if data.dataset != "synthface" else "drawn here"
    known = protocols.recognize(index)
    notes = filter(None, ["" if known is None else known.text, own_test, cropped])
    lines = [f"dataset {index.dataset} {place}, label rule {index.label_rule}", *notes, ""]
    attention = [*index.warnings, *([] if known is None or known.comparable else [known.text])]
    pairs = _near_duplicates(images)
    parts = (_labels(index, data), _sizes(index, images), _broken(images), _duplicates(index, images))
    for part in (*parts, _report_near(index, pairs)):
        lines += [*part.lines, ""]
        attention += part.attention
    tiles = ([Tile(image.middle_frame, _with_label(image, index)) for image in pair.images] for pair in pairs)
    return Report(tuple(lines), tuple(attention), tuple((first, second) for first, second in tiles))


def _open_all(index: SourceIndex, pool: futures.Executor) -> _Images:
    by_pixels: dict[str, list[_Image]] = {}
    thumbnails: list[Thumbnails] = []
    broken: dict[str, list[str]] = {}
    for split, labelled in index.splits.items():
        found = [*labelled, *index.left_out.get(split, ())]
        opened = inspect_all((frame for record in found for frame in record.frames), pool, with_thumbnails=True)
        results = progress.track(opened, f"opening {split}", sum(len(record.frames) for record in found))
        for record in found:
            frames = list(itertools.islice(results, len(record.frames)))
            readable = [frame for frame in frames if not isinstance(frame, ImageError)]
            if len(readable) < len(frames):
                broken.setdefault(split, []).extend(str(frame) for frame in frames if isinstance(frame, ImageError))
            if readable:
                same = joint_hash([frame.pixel_hash for frame in readable])
                middle = readable[len(readable) // 2]
                if same not in by_pixels and middle.thumbnail is not None:
                    thumbnails.append(middle.thumbnail)
                by_pixels.setdefault(same, []).append(_Image(split, record, readable[0].size))
    return _Images(by_pixels, thumbnails, broken)


def _labels(index: SourceIndex, data: DataSection) -> Report:
    lines, attention = [f"labels: index, class, the owner's label; {index.unit} per split"], list[str]()
    counts = {split: collections.Counter(record.label for record in found) for split, found in index.splits.items()}
    lines.append(f"  {'':<30}" + "".join(f"{split:>20}" for split in counts))
    for label, (name, source) in enumerate(zip(index.class_names, index.source_labels, strict=True)):
        cells = (f"{count[label]:>11} ({count[label] / count.total():>6.2%})" for count in counts.values())
        lines.append(f"  {f'{label:>2} {name} ({source})':<30}" + "".join(cells))
    lines.append(f"  {'total':<30}" + "".join(f"{count.total():>11}         " for count in counts.values()))
    for split, count in counts.items():
        label, most = count.most_common(1)[0]
        lines.append(f"  majority rate of {split}: {most / count.total():.2%} ({index.class_names[label]})")
    for split, listed in index.splits.items():
        persons = {record.person for record in listed} - {""}
        if persons:
            lines.append(f"  {split} shows {len(persons)} persons (films, in SFEW), whom carving keeps whole")
        for name in dict.fromkeys(name for record in listed for name in record.attributes):
            values = collections.Counter(record.attributes.get(name, "none given") for record in listed)
            if len(values) <= records.MAX_GROUPS:
                counted = (f"{value} {values[value]}" for value in sorted(values, key=texts.natural_order))
                lines.append(f"  {name} in {split}: {', '.join(counted)}")
    for split, reasons in index.dropped.items():
        lines += [f"  dropped from {split}: {number} {reason}" for reason, number in reasons.items()]
        overlooked = {reason: number for reason, number in reasons.items() if records.was_overlooked(reason)}
        attention += [f"left out of {split}: {number} {reason}" for reason, number in overlooked.items()]
    origins = split_origins(data, index)
    lines += [f"  {part} is {' + '.join(splits)}" for part, splits in origins.items() if splits and index.joined]
    lines += [f"  no split {split!r} here; looked for {place}" for split, place in index.absent.items()]
    if error := shared(origins, data, index):
        attention.append(str(error))
    missing = (split for splits in origins.values() for split in splits if split not in index.splits)
    attention += [str(absent(split, index, data)) for split in missing]
    if set(origins["test"]) <= index.splits.keys():
        try:
            listed_in_subset(data, index)
        except DataError as error:
            attention.append(str(error))
    trained = sum((counts[split] for split in origins["train"] if split in counts), collections.Counter[int]())
    untrained = [name for label, name in enumerate(index.class_names) if not trained[label]]
    if untrained and data.train_splits:
        attention.append(f"classes without a training image: {', '.join(untrained)}")
    return Report(tuple(lines), tuple(attention))


def _sizes(index: SourceIndex, images: _Images) -> Report:
    lines, attention = [f"sizes in pixels (width x height: {index.unit})"], list[str]()
    sizes: dict[str, collections.Counter[tuple[int, int]]] = {}
    for image in _each(images):
        sizes.setdefault(image.split, collections.Counter())[image.size] += 1
    for split, counter in sizes.items():
        listed = ", ".join(f"{width}x{height}: {number}" for (width, height), number in counter.most_common(5))
        more = f", and {len(counter) - 5} other sizes" if len(counter) > 5 else ""
        lines.append(f"  {split}: {listed}{more}")
    if index.expected_size is not None:
        odd = [image for image in _each(images) if image.size != index.expected_size]
        if odd:
            width, height = index.expected_size
            listed = _first(image.name for image in odd)
            attention.append(f"{_in_words(len(odd), 'images')} not {width}x{height} as in the owner's release {listed}")
    return Report(tuple(lines), tuple(attention))


def _broken(images: _Images) -> Report:
    number = sum(len(messages) for messages in images.broken.values())
    lines = [f"unreadable images: {number}"]
    for split, messages in images.broken.items():
        lines += [f"  {split}: {message}" for message in messages]
    return Report(
        tuple(lines), (f"{_in_words(number, 'images')} that cannot be read (listed above)",) if number else ()
    )


def _duplicates(index: SourceIndex, images: _Images) -> Report:
    lines, attention = [f"{index.unit} that occur more than once (all pixels equal)"], list[str]()
    groups = [group for group in images.by_pixels.values() if len(group) > 1]
    splits = list(index.splits)
    for split in splits:
        within = [[p for p in group if p.split == split] for group in groups]
        within = [group for group in within if len(group) > 1]
        extra = sum(len(group) - 1 for group in within)
        lines.append(f"  within {split}: {extra} {_first(' = '.join(p.name for p in group) for group in within)}")
        conflicting = [group for group in within if len({p.record.label for p in group} - {-1}) > 1]
        if conflicting:
            listed = _first(" = ".join(_with_label(p, index) for p in group) for group in conflicting)
            attention.append(f"{_in_words(len(conflicting), index.unit)} with different labels within {split} {listed}")
    for position, split in enumerate(splits):
        for other in splits[position + 1 :]:
            part = _across(split, other, groups, index)
            lines += part.lines
            attention += part.attention
    return Report(tuple(lines), tuple(attention))


def _across(split: str, other: str, groups: Sequence[Sequence[_Image]], index: SourceIndex) -> Report:
    shared = [group for group in groups if {split, other} <= {p.split for p in group}]
    of_other = [p for group in shared for p in group if p.split == other]
    title = f"  {other} {index.unit} that are also in {split}: {len(of_other)}"
    if not shared:
        return Report((title,), ())
    with_label = [[p for p in group if p.record.label >= 0] for group in shared]
    used = sum(p.split == other for group in with_label if any(p.split == split for p in group) for p in group)
    lines = [f"{title} {_first(p.name for p in of_other)}", f"    {used} of them with a label on both sides"]
    conflicting = [group for group in shared if len({p.record.label for p in group} - {-1}) > 1]
    if conflicting:
        listed = _first(" = ".join(_with_label(p, index) for p in group) for group in conflicting)
        lines.append(f"    {_in_words(len(conflicting), index.unit)} with different labels {listed}")
    return Report(tuple(lines), (f"{_in_words(len(of_other), index.unit)} of {other} also in {split}",))


def _near_duplicates(images: _Images) -> list[_Near]:
    """Pairs of different images that are nearly equal, those of different splits and then of different labels first."""
    if not images.thumbnails:
        return []
    groups, thumbnails = list(images.by_pixels.values()), np.stack(images.thumbnails)
    found = near_duplicates.find(thumbnails)
    pairs = [
        _Near(one, other, pair.mirrored)
        for batch in progress.track(found, "comparing", len(groups), size=lambda _: near_duplicates.ROWS)
        for pair in batch
        for one in groups[pair.first]
        for other in groups[pair.second]
    ]
    return sorted(pairs, key=lambda pair: (pair.first.split == pair.second.split, not pair.conflicting))


def _report_near(index: SourceIndex, pairs: Sequence[_Near]) -> Report:
    lines, attention = ["pairs of near-duplicates (mirrored, encoded again, resized, brightened)"], list[str]()
    for split, other in itertools.combinations_with_replacement(index.splits, 2):
        chosen = [pair for pair in pairs if {p.split for p in pair.images} == {split, other}]
        listed = _first(_pair(pair) for pair in chosen)
        if split == other:
            lines.append(f"  within {split}: {len(chosen)} {listed}")
        else:
            of_other = {p.record.name for pair in chosen for p in pair.images if p.split == other}
            lines.append(f"  {other} {index.unit} that nearly equal one of {split}: {len(of_other)} {listed}")
            if of_other:
                attention.append(f"{_in_words(len(of_other), index.unit)} of {other} nearly equal to one of {split}")
        if conflicting := [pair for pair in chosen if pair.conflicting]:
            place = f"within {split}" if split == other else f"in {split} and {other}"
            listed = _first(_pair(pair, index) for pair in conflicting)
            attention.append(f"near-duplicates with different labels {place}: {len(conflicting)} {listed}")
    return Report(tuple(lines), tuple(attention))


def _pair(pair: _Near, index: SourceIndex | None = None) -> str:
    first, second = (image.name if index is None else _with_label(image, index) for image in pair.images)
    return f"{first} ~ {'mirrored ' if pair.mirrored else ''}{second}"


def _with_label(image: _Image, index: SourceIndex) -> str:
    label = image.record.label
    return f"{image.name} ({index.class_names[label] if label >= 0 else 'not used'})"


def _each(images: _Images) -> Iterable[_Image]:
    return (image for group in images.by_pixels.values() for image in group)


def _in_words(number: int, unit: str) -> str:
    return f"{number} {unit[:-1] if number == 1 else unit}"


def _first(items: Iterable[str]) -> str:
    listed = texts.first(list(items), _LISTED)
    return f"({listed})" if listed else ""
