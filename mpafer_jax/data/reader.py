"""Registry of dataset readers; `readers` has a module for each dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from mpafer_jax.data import forms, records
from mpafer_jax.data.records import LayoutError, SourceIndex
from mpafer_jax.runtime.errors import DataError

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A dataset for `config.data.dataset`.

    Attributes:
      class_names: in the order of the labels; () if they depend on the files.
      fields: fields of config.data that are the arguments of `read`, in order; "dir" is passed as a local folder.
      unread: fields of the sections in `fields` that are not read, as "clips.train_list".
      label_rules: allowed values of config.data.label_rule.
      alignments: allowed values of config.data.align.
    """

    read: Callable[..., SourceIndex]
    class_names: tuple[str, ...]
    fields: tuple[str, ...]
    unread: tuple[str, ...]
    label_rules: tuple[str, ...]
    alignments: tuple[str, ...]


READERS: dict[str, Reader] = {}  # by the dataset's name


def reader(
    name: str,
    description: str,
    *,
    class_names: Sequence[str] = (),
    layout: str = "",
    source: str = "",
    fields: Sequence[str] = ("dir",),
    unread: Sequence[str] = (),
    label_rules: Sequence[str] = ("owner",),
    alignments: Sequence[str] = ("",),
    version: str = "1.0.0",
) -> Callable[[Callable[P, SourceIndex]], Callable[P, SourceIndex]]:
    """Registers a function that reads a dataset's labels, without opening images; ValueError if the name is taken.

    Args:
      name: of the dataset in config.data.dataset.
      description: a sentence for TFDS's metadata.
      class_names, fields, unread, label_rules, alignments: see `Reader`.
      layout: expected file tree for error messages, indented by two spaces.
      source: where to get the dataset, for error messages: "Get it from ...".
      version: with a new one the dataset is prepared again.
    """

    def register(read: Callable[P, SourceIndex]) -> Callable[P, SourceIndex]:
        @functools.wraps(read)
        def named(*arguments: P.args, **options: P.kwargs) -> SourceIndex:
            try:
                index = _read_where_it_is(read, *arguments, **options)
            except LayoutError as error:
                hint = "".join(forms.hint(place, name, layout) for place in arguments[:1] if isinstance(place, Path))
                raise DataError(
                    f"{error}\n{hint}Expected under config.data.dir:\n{layout}\n"
                    f"Get it from {source}; see docs/datasets.md."
                ) from None
            return dataclasses.replace(
                index,
                splits={split: r for split, r in index.splits.items() if r or split not in index.absent},
                absent={split: what for split, what in index.absent.items() if not index.splits.get(split)},
                source_labels=index.source_labels or tuple(map(str, range(len(index.class_names)))),
                dataset=name,
                description=description,
                version=version,
            )

        if name in READERS:
            raise ValueError(f"there is a reader {name!r} already, {READERS[name].read.__module__}")
        READERS[name] = Reader(
            named, tuple(class_names), tuple(fields), tuple(unread), tuple(label_rules), tuple(alignments)
        )
        return named

    return register


def _read_where_it_is(read: Callable[..., SourceIndex], *arguments: Any, **options: Any) -> SourceIndex:
    """Reads a folder, or where the layout is not in it `records.only_folder`."""
    place = arguments[0] if arguments else None
    if isinstance(place, Path) and not place.is_dir():
        raise records.missing(place)
    try:
        return read(*arguments, **options)
    except LayoutError:
        below = records.only_folder(place) if isinstance(place, Path) else None
        if below is not None:
            with contextlib.suppress(LayoutError):  # the first error names the configured folder
                return _read_where_it_is(read, below, *arguments[1:], **options)
        raise
