"""Lists of images that a test is restricted to, such as those with occluded or turned faces.

A line is an image's name, as the dataset has it, and perhaps more after a space. Two other forms are read, counted
and logged, where they fit one image and no other: a name without its class folder or its suffix, and what the lists
in use (Wang et al., Region Attention Networks, TIP 2020) call images that have an identity of their own:

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
from mpafer_jax.runtime.errors import DataError

# The part of a path that says which image of RAF-DB, FERPlus or AffectNet it is, whatever stands around it.
_IDENTITY = re.compile(r"(?:\d_)?(?P<key>test_\d{4}|fer\d{7}|[0-9a-f]{30,64})(?:_aligned)?(?:\.\w{3,4})?")


def read_list(path: Path) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        lines = [line.strip() for line in records.read_text(path).splitlines()]
    except DataError as error:
        raise DataError(f"config.data.test_subset: {path} cannot be read as a list of names ({error})") from error
    entries = [records.listed_name(line) for line in lines if line]
    if not entries:
        raise DataError(f"config.data.test_subset: {path} is empty, expected a name of an image a line")
    return entries


def select(path: Path, names: Sequence[str], left_out: Collection[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Finds a list's images in a split.

    Args:
      path: the list.
      names: of the split's images; one that stands in a line as it is comes before any other reading of the line.
      left_out: names of images that the split has and the run does not use (other classes, no agreement).

    Returns:
      Ascending positions in `names`, and how many listed images are among `left_out`. An image that is listed twice
      counts once.
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
        word = entry.split()[0]
        position = exact.get(entry, exact.get(word))
        if position is None:
            fitting = other_forms.get(_identity(word) or word, set[int]())
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
    """What a line may call an image beside its name: without folder, without suffix, and its identity."""
    file = PurePosixPath(name)
    forms = {file.name, file.stem, str(file.with_suffix(""))}
    identity = _identity(name)
    return {identity} if identity else forms


def _identity(name: str) -> str:
    """What tells an image from every other of its dataset, in any form of its name; empty where there is none."""
    matches = [_IDENTITY.fullmatch(part) for part in name.split("/")]
    keys = {match["key"] for match in matches if match}
    return keys.pop() if len(keys) == 1 else ""
