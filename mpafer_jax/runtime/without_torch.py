"""Hides PyTorch from libraries that import it if installed, for features that we do not use.

Saves seconds and hundreds of megabytes. Other programs may want these features, so only commands turn it on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import Any, cast


class _Current:
    preferred = False


def prefer() -> None:
    """Makes `hidden` effective in this process."""
    _Current.preferred = True


@contextlib.contextmanager
def hidden() -> Generator[None]:
    """Inside the block imports find no PyTorch; it can be imported afterwards."""
    modules = cast(dict[str, Any], sys.modules)
    if not _Current.preferred or "torch" in modules:
        yield
        return
    modules["torch"] = None  # makes an import raise ModuleNotFoundError
    try:
        yield
    finally:
        del modules["torch"]
