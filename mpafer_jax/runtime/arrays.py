"""Names, shapes and digests of the arrays in a tree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np


def named(tree: Any) -> list[tuple[str, Any]]:
    """Each array with its path."""
    leaves: list[tuple[Any, Any]] = cast(Any, jax.tree_util).tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def described(tree: Any) -> dict[str, str]:
    """Type and shape of each array, as 'float32 [4, 512]', by the array's path; arrays may be abstract."""
    return {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in named(tree)}


def mismatches(found: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """What differs between two descriptions of arrays, as 'ctx: found nothing, expected float32 [4, 512]'."""
    return [
        f"{name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]


def digests(tree: Any) -> dict[str, str]:
    """SHA-256 of each array's content, in hexadecimal, by the array's path."""
    return {name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for name, leaf in named(tree)}
