"""What long work says while it goes on, and nothing about how that is shown.

Code anywhere in the package announces its work with `task` or `track` and what is worth knowing with `fact`. Commands
show it (`console.Console`). A program that imports the package sees nothing of it, unless it opens such a console
around its call:

    with console.Console():
        train.train_and_evaluate(config, workdir)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar

from absl import logging

P = ParamSpec("P")
T = TypeVar("T")


class Task:
    """A piece of work that is under way. This one is shown nowhere."""

    def advance(self, number: int = 1) -> None:
        """So many more of its units are done."""

    def report(self, text: str) -> None:
        """What there is to say of it now, as its loss: beside the bar, or as a line of its own in a log."""


class Display(Protocol):
    """Whoever shows tasks."""

    def task(
        self, title: str, total: int | None, unit: str, done: int, warms_up: bool
    ) -> contextlib.AbstractContextManager[Task]:
        """Shows a task while the context lasts; arguments as for the function `task`."""
        ...


class _Current:
    display: Display | None = None


_SILENT = Task()


def show_on(display: Display | None) -> Display | None:
    """Sets who shows tasks from now on, None for nobody; returns who did."""
    before, _Current.display = _Current.display, display
    return before


@contextlib.contextmanager
def task(
    title: str, total: int | None = None, unit: str = "images", *, done: int = 0, warms_up: bool = True
) -> Generator[Task]:
    """Announces work that takes its time; a context. Tasks may be nested.

    Args:
      title: what is done, as in "preparing rafdb".
      total: how many units there are; None where nobody knows.
      unit: what they are, in the plural.
      done: how many of them were done before, by an earlier start.
      warms_up: whether the first takes longer than the others (a function is compiled, processes start), so that it
        says nothing of how long the rest will take.
    """
    if _Current.display is None:
        yield _SILENT
        return
    with _Current.display.task(title, total, unit, done, warms_up) as shown:
        yield shown


def track(
    items: Iterable[T],
    title: str,
    total: int | None = None,
    unit: str = "images",
    *,
    size: Callable[[T], int] | None = None,
) -> Generator[T]:
    """The same items, and a task that advances with each, by `size` of it (default 1)."""
    with task(title, total, unit) as shown:
        for item in items:
            yield item
            shown.advance(1 if size is None else size(item))


def announcing(function: Callable[P, T], title: str) -> Callable[P, T]:
    """A compiled function whose first call, which compiles it, is a task."""
    called = False

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal called
        if called:
            return function(*args, **kwargs)
        called = True
        with task(title):
            return function(*args, **kwargs)

    return call


def fact(name: str, text: str) -> None:
    """Says one of the things that a run is made of, as in `fact("devices", "1 x cpu")`."""
    keywords: dict[str, Any] = {"extra": {"fact": name}}
    logging.info("%s: %s", name, text, **keywords)
