"""Progress of long work, independent of a display.

Code reports work with `task` or `track` and facts of a run with `fact`. Commands show them (`console.Console`); other
programs see nothing, unless they open a console:

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
    """A piece of work in progress; this base class shows nothing."""

    def advance(self, number: int = 1) -> None:
        """Counts units as done."""

    def report(self, text: str) -> None:
        """Shows a current value, such as the loss, beside the bar or as a line in a log."""


class Display(Protocol):
    """Shows tasks."""

    def task(
        self, title: str, total: int | None, unit: str, done: int, warms_up: bool
    ) -> contextlib.AbstractContextManager[Task]:
        """Shows a task inside the context; arguments as for the function `task`."""
        ...


class _Current:
    display: Display | None = None


_SILENT = Task()


def show_on(display: Display | None) -> Display | None:
    """Sets the display or None; returns the previous one."""
    before, _Current.display = _Current.display, display
    return before


@contextlib.contextmanager
def task(
    title: str, total: int | None = None, unit: str = "images", *, done: int = 0, warms_up: bool = True
) -> Generator[Task]:
    """Reports long work inside the block; may be nested.

    Args:
      title: such as "preparing rafdb".
      total: number of units; None if unknown.
      unit: their name, plural.
      done: units done by an earlier start of the command.
      warms_up: whether the first unit, which takes longer (compilation, start of processes), is left out of the rate.
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
    """Yields the items within a task that advances by `size` of each (default 1)."""
    with task(title, total, unit) as shown:
        for item in items:
            yield item
            shown.advance(1 if size is None else size(item))


def announcing(function: Callable[P, T], title: str) -> Callable[P, T]:
    """A jitted function whose first call, which compiles, is a task."""
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
    """Logs a fact of the run, such as `fact("devices", "1 x cpu")`."""
    keywords: dict[str, Any] = {"extra": {"fact": name}}
    logging.info("%s: %s", name, text, **keywords)
