"""What a dataset's reader says of itself; `readers` has a module for each dataset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec

from mpafer_jax.data.records import LayoutError, SourceIndex
from mpafer_jax.runtime.errors import DataError

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A dataset that `config.data.dataset` may name.

    Attributes:
      read: returns the dataset's index; its arguments are the values of `fields`.
      class_names: C names in the order of the labels; () where only the files say.
      fields: of config.data, in the order of the arguments of `read`; "dir" is given as a local folder.
      label_rules: that config.data.label_rule may name.
    """

    read: Callable[..., SourceIndex]
    class_names: tuple[str, ...]
    fields: tuple[str, ...]
    label_rules: tuple[str, ...]


READERS: dict[str, Reader] = {}  # by the dataset's name


def reader(
    name: str,
    description: str,
    *,
    class_names: Sequence[str] = (),
    layout: str = "",
    source: str = "",
    fields: Sequence[str] = ("dir",),
    label_rules: Sequence[str] = ("owner",),
    version: str = "1.0.0",
) -> Callable[[Callable[P, SourceIndex]], Callable[P, SourceIndex]]:
    """Registers a function that reads a dataset's labels and opens no image.

    Args:
      name: of the dataset, as config.data.dataset and the prepared copy give it.
      description: a sentence for the prepared copy.
      class_names, fields, label_rules: see `Reader`.
      layout: the tree of files that is expected, two spaces before each line; an error shows it.
      source: where the dataset comes from, to be read after "Get it from".
      version: of what is prepared from its records; with a new one datasets are prepared anew.

    Raises:
      ValueError: the name is taken.
    """

    def register(read: Callable[P, SourceIndex]) -> Callable[P, SourceIndex]:
        @functools.wraps(read)
        def named(*arguments: P.args, **options: P.kwargs) -> SourceIndex:
            try:
                index = read(*arguments, **options)
            except LayoutError as error:
                raise DataError(
                    f"{error}\nExpected under config.data.dir:\n{layout}\nGet it from {source}; see docs/datasets.md."
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
        READERS[name] = Reader(named, tuple(class_names), tuple(fields), tuple(label_rules))
        return named

    return register
