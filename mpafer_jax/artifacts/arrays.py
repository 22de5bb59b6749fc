"""Names and digests of the arrays in a tree."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import jax
import numpy as np


def named(tree: Any) -> list[tuple[str, Any]]:
    """Each array with its path."""
    leaves: list[tuple[Any, Any]] = cast(Any, jax.tree_util).tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def digests(tree: Any) -> dict[str, str]:
    """SHA-256 of each array's content, in hexadecimal, by the array's path."""
    return {name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for name, leaf in named(tree)}
