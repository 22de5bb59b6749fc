"""Random splits and few-shot draws, as pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_DRAWS = 16
NO_TEST = "there is no test split"  # start of the note on the split that replaces it


def split_off(
    labels: npt.NDArray[np.int32], groups: npt.NDArray[np.str_], fractions: Sequence[float], seed: int
) -> list[Indices]:
    """Stratified random split that keeps groups whole.

    Args:
      labels: int32[n].
      groups: str[n]; examples of equal entries (pixel-identical images) stay together. A group of several labels
        counts as the class of its first example.
      fractions: share of every class for each part, rounded, at least one group unless train would be left without
        one; 0 splits off nothing.

    Returns:
      1 + len(fractions) ascending index arrays: train, then the parts.
    """
    numbers: dict[str, int] = {}
    group_of = np.array([numbers.setdefault(group, len(numbers)) for group in groups.tolist()], np.int64)
    sizes = np.bincount(group_of)
    class_of = labels[np.unique(group_of, return_index=True)[1]]
    part_of = np.zeros(len(numbers), np.int64)
    for label in np.unique(class_of).tolist():
        members = np.flatnonzero(class_of == label)
        total = int(sizes[members].sum())
        waiting: list[int] = np.random.default_rng((seed, label)).permutation(members).tolist()
        for part, fraction in enumerate(fractions, start=1):
            target = max(1, round(fraction * total)) if fraction else 0
            taken = 0
            while taken < target and len(waiting) > 1:
                group = waiting.pop()
                part_of[group] = part
                taken += int(sizes[group])
    return [np.flatnonzero(part_of[group_of] == part).astype(np.int64) for part in range(1 + len(fractions))]


def draw_per_class(labels: npt.NDArray[np.int32], number: int, seed: int) -> Indices:
    """Few-shot draw: ascending indices of `number` random examples per class, or all of a smaller class.

    Draws are nested: 8 shots contain the 4 shots of the same seed.
    """
    drawn: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn.extend(np.random.default_rng((seed, int(label))).permutation(members)[:number].tolist())
    return np.array(sorted(drawn), np.int64)


def join_groups(*columns: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """Connected components of examples that share an entry of any column.

    Args:
      *columns: str[n] each; empty entries connect nothing.

    Returns:
      str[n], equal within a component.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    rows = [
        [f"{column}:{value}" for column, value in enumerate(values) if value] or [f"alone:{row}"]
        for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]
    for names in rows:
        for name in names:
            leader.setdefault(name, name)
        for name in names[1:]:
            leader[find(name)] = find(names[0])
    return np.array([find(names[0]) for names in rows])


def split_off_groups(
    labels: npt.NDArray[np.int32], groups: npt.NDArray[np.str_], fractions: Sequence[float], seed: int
) -> list[Indices]:
    """Random split that keeps groups of several classes (persons) whole, approximately stratified.

    Groups are visited in random order and taken if that brings the part's class counts closer to the target, by
    squared differences, each divided by the size of the class. The closest of 16 such draws is kept.

    Args:
      labels: int32[n].
      groups: str[n].
      fractions: share of all examples for each part, as close as whole groups allow, at least one group unless train
        would be left without one; 0 splits off nothing.

    Returns:
      1 + len(fractions) ascending index arrays: train, then the parts.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1))  # [groups, classes]
    np.add.at(counts, (group_of, labels), 1)
    totals = counts.sum(axis=0)
    rng = np.random.default_rng(seed)
    part_of = np.zeros(len(names), np.int64)
    for part, fraction in enumerate(fractions, start=1):
        waiting = np.flatnonzero(part_of == 0)
        if fraction and len(waiting) > 1:
            scale = 1 / np.sqrt(np.maximum(totals, 1))
            draws = [_draw(counts * scale, fraction * totals * scale, rng.permutation(waiting)) for _ in range(_DRAWS)]
            part_of[min(draws)[1]] = part
    return [np.flatnonzero(part_of[group_of] == part).astype(np.int64) for part in range(1 + len(fractions))]


def _draw(
    counts: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], order: npt.NDArray[np.int64]
) -> tuple[float, list[int]]:
    """Greedily takes groups in `order`, at least one and not all; returns (distance to `wanted`, groups)."""

    def distance(held: npt.NDArray[np.float64]) -> float:
        return float(np.square(held - wanted).sum())

    taken: list[int] = []
    held = np.zeros_like(wanted)
    for group in order.tolist():
        if len(taken) + 1 < len(order) and distance(held + counts[group]) < distance(held):
            taken.append(group)
            held = held + counts[group]
    if not taken:
        taken = [min(order.tolist(), key=lambda group: distance(counts[group]))]
        held = counts[taken[0]]
    return distance(held), taken
