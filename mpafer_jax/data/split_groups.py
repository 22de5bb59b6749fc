"""Random splits of examples: parts split off train, and few-shot draws. All functions are pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_DRAWS = 16
NO_TEST = "there is no test split"  # begins the line on what is split off instead


def split_off(
    labels: npt.NDArray[np.int32], groups: npt.NDArray[np.str_], fractions: Sequence[float], seed: int
) -> list[Indices]:
    """Splits examples at random, class by class, without parting images that belong together.

    Args:
      labels: int32[n].
      groups: str[n]; examples with equal entries (pixel-identical images) end up on the same side. A group whose
        labels differ counts for the class of its first example.
      fractions: the share of every class that each part gets, rounded, and at least one example (group) each
        as long as train keeps one too; 0 splits off nothing.
      seed: the result is a pure function of all arguments.

    Returns:
      1 + len(fractions) ascending index arrays: what train keeps, then the parts.
    """
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(position)
    by_class: dict[int, list[list[int]]] = {}
    for positions in members.values():
        by_class.setdefault(int(labels[positions[0]]), []).append(positions)
    parts: list[list[int]] = [[] for _ in (0, *fractions)]
    for label, class_groups in sorted(by_class.items()):
        total = sum(len(positions) for positions in class_groups)
        order: list[int] = np.random.default_rng((seed, label)).permutation(len(class_groups)).tolist()
        waiting = [class_groups[number] for number in order]
        for part, fraction in enumerate(fractions, start=1):
            target = max(1, round(fraction * total)) if fraction else 0
            taken = 0
            while taken < target and len(waiting) > 1:
                positions = waiting.pop()
                parts[part].extend(positions)
                taken += len(positions)
        for positions in waiting:
            parts[0].extend(positions)
    return [np.array(sorted(part), np.int64) for part in parts]


def draw_per_class(labels: npt.NDArray[np.int32], number: int, seed: int) -> Indices:
    """The ascending indices of `number` random examples of every class, or of all where a class has fewer.

    The draw for a larger number contains the one for a smaller: few-shot runs of 4 and of 8 share 4 examples.
    """
    drawn: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn.extend(np.random.default_rng((seed, int(label))).permutation(members)[:number].tolist())
    return np.array(sorted(drawn), np.int64)


def join_groups(*columns: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """Groups of examples that share an entry of any column, directly or through others.

    Args:
      *columns: str[n] each; empty = no group (the example is its own group).

    Returns:
      str[n], equal for examples of one group.
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
    """Splits examples at random without parting a group, where groups hold several classes, as persons do.

    Groups are visited in random order, and taken while that brings the part's counts per class nearer to the wanted
    share (squared differences, each over the size of its class, so that small classes count too). Of several such
    draws the one that comes nearest is kept.

    Args:
      labels: int32[n].
      groups: str[n].
      fractions: the share of all examples that each part gets, as near as whole groups allow, and at least one
        group each as long as train keeps one too; 0 splits off nothing.
      seed: the result is a pure function of all arguments.

    Returns:
      1 + len(fractions) ascending index arrays: what train keeps, then the parts.
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
    """Takes groups in an order, one at least and not all, while it comes nearer; how near it came, and the groups."""

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
