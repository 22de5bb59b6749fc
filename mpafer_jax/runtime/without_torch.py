"""A start without PyTorch, which some of our libraries import wherever it is installed.

They do it for features that we do not use, and it costs seconds and hundreds of megabytes. A program that imports this
package may want those features, so only a process that is ours alone, as a command is, asks for it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import Any, cast


class _Current:
    preferred = False


def prefer() -> None:
    """From here on `hidden` hides it in this process."""
    _Current.preferred = True


@contextlib.contextmanager
def hidden() -> Generator[None]:
    """While this lasts, what is imported takes PyTorch for absent; afterwards it can still be imported."""
    modules = cast(dict[str, Any], sys.modules)
    if not _Current.preferred or "torch" in modules:
        yield
        return
    modules["torch"] = None  # Python's own mark of a module that cannot be imported
    try:
        yield
    finally:
        del modules["torch"]
