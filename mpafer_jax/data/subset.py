"""Test subsets from lists of images, such as occluded or rotated faces (`config.data.test_subset`).

A line is an image's name in the dataset, optionally followed by a space and more. Two other forms are matched if they
are unambiguous, and logged: a name without class folder or suffix (without the latter, with nothing behind it), and the
forms of published lists (Wang et al., Region Attention Networks, TIP 2020):

    test_0003_aligned 3 4                 RAF-DB: name, then label and kind of occlusion
    0/test_0004_aligned.jpg               RAF-DB: class folder and file
    val/0/bc9ad400...bc79/                AffectNet: a folder for each image
    0/83dac9d7...33ad9.jpg                AffectNet: class folder and file
    7/3c028208...b67203/8.jpg             AffectNet: a crop of the image
    1_fer0034656.png 8 0                  FERPlus
    0/fer0032226.jpg                      FERPlus, with another suffix
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.data import records
from mpafer_jax.data.preprocess import is_image
from mpafer_jax.runtime.errors import DataError

# The unique key in a path of RAF-DB, FERPlus or AffectNet.
_IDENTITY = re.compile(r"(?:\d_)?(?P<key>test_\d{4}|fer\d{7}|[0-9a-f]{30,64})(?:_aligned)?(?:\.\w{3,4})?")


def read_list(path: Path) -> list[str]:
    """The non-empty lines of a list; DataError if there are none."""
    try:
        entries = [line for _, line in records.lines(path)]
    except DataError as error:
        raise DataError(f"config.data.test_subset: {path} cannot be read as a list of names ({error})") from error
    if not entries:
        raise DataError(f"config.data.test_subset: {path} is empty, expected a name of an image a line")
    return entries


def select(path: Path, names: Sequence[str], left_out: Collection[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Finds the images of a list in a split.

    Args:
      names: of the split's images; exact matches have priority over other forms.
      left_out: names of images of the split that the run does not use (other classes, label rule).

    Returns:
      Ascending positions in `names`, and the number of listed images in `left_out`; duplicates count once.

    Raises:
      DataError: a line matches no image or several, or all listed images are left out.
    """
    entries = read_list(path)
    known = [*names, *left_out]
    exact = {name: position for position, name in enumerate(known)}
    other_forms: dict[str, set[int]] = {}
    for position, name in enumerate(known):
        for form in _other_forms(name):
            other_forms.setdefault(form, set()).add(position)
    listed: set[int] = set()
    unknown: list[str] = []
    in_other_form: list[str] = []
    for entry in entries:
        position = exact.get(entry)
        if position is None:
            word = entry.split()[0]
            fitting = other_forms.get(_identity(entry) or entry, set[int]())
            if not fitting and word in exact:
                listed.add(exact[word])
                continue
            # The first word may also be that of a name with spaces, unless it is whole.
            if not fitting and (_identity(word) or is_image(word)):
                fitting = other_forms.get(_identity(word) or word, fitting)
            if len(fitting) != 1:
                unknown.append(entry)
                continue
            (position,) = fitting
            in_other_form.append(f"{entry!r} for {known[position]!r}")
        listed.add(position)
    if unknown:
        raise DataError(
            f"config.data.test_subset: {len(unknown)} of the {len(entries)} lines of {path} name no image of the "
            f"test split, or several; the first is {unknown[0]!r}, and the split's names are like {known[0]!r}. Lists "
            "fit only the release that they were made for (AffectNet has other names in each)"
        )
    selected = np.array(sorted(position for position in listed if position < len(names)), np.int64)
    if not len(selected):
        raise DataError(f"config.data.test_subset: all of the {len(listed)} images that {path} names are left out")
    if in_other_form:
        logging.info(
            "config.data.test_subset: %d of the %d lines of %s name their image in another form than the dataset, "
            "the first is %s",
            *(len(in_other_form), len(entries), path, in_other_form[0]),
        )
    return selected, len(listed) - len(selected)


def _other_forms(name: str) -> set[str]:
    """Other forms of an image's name: its key, or without one, the name without folder, suffix or both."""
    file = PurePosixPath(name)
    forms = {file.name, file.stem, str(file.with_suffix(""))}
    identity = _identity(name)
    return {identity} if identity else forms


def _identity(name: str) -> str:
    """The unique key of an image in any form of its name; '' if it has none."""
    matches = [_IDENTITY.fullmatch(part) for part in name.split("/")]
    keys = {match["key"] for match in matches if match}
    return keys.pop() if len(keys) == 1 else ""
