"""Memory traffic and collectives of a compiled program, from the text of XLA's optimised HLO.

XLA's analysis counts a loop's body once; here it counts by trip count. Slices and in-place updates count only the part
that is read or written; on-chip memory does not count.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)")  # a memory space other than the device's main memory
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)=\{?(%[\w.\-]+(?:, *%[\w.\-]+)*)"
)
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
)
_RENAMES = frozenset({"bitcast", "reshape", "copy", "convert", "transpose"})  # without traffic inside a fusion


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction, one line of a program."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # text in the parentheses: a parameter's number, a constant's value

    @property
    def called(self) -> tuple[str, ...]:
        return tuple(name for found in _CALLED.findall(self.attributes) for name in _NAME.findall(found))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name; `root` is the result."""

    instructions: dict[str, Instruction]
    root: str

    def parameters(self) -> dict[int, Instruction]:
        return {int(i.literal): i for i in self.instructions.values() if i.opcode == "parameter"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind in one run of the program, on one device.

    Attributes:
      kind: such as "all-reduce".
      num_bytes: of all inputs.
    """

    kind: str
    count: int
    num_bytes: int

    def link_bytes(self, devices: int) -> float:
        """Minimum bytes that a device sends and receives in a ring of `devices`."""
        if self.kind == "all-reduce":
            return 2 * 2 * self.num_bytes * (devices - 1) / devices
        if self.kind == "all-gather":
            return 2 * self.num_bytes * (devices - 1)
        return 2 * self.num_bytes * (devices - 1) / devices


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic of one run of a program on one device.

    Attributes:
      memory_bytes: read from and written to main memory.
      unknown_loops: loops of unknown trip count, counted as one iteration.
    """

    memory_bytes: int
    collectives: tuple[Collective, ...]
    unknown_loops: int


def array_bytes(shape: str, *, main_memory_only: bool = False) -> int:
    """Bytes of an array or a tuple of arrays, from its text, such as 'f32[6,512]{1,0:T(8,128)S(1)}'."""
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if main_memory_only and _ELSEWHERE.search(layout):
            continue
        bits = 8 if kind == "pred" else int(re.sub(r"^[a-z]+(\d+).*$", r"\1", kind) if re.search(r"\d", kind) else 0)
        total += math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * bits / 8)
    return total


def measure_traffic(text: str) -> Traffic:
    """Measures the traffic of a program's text (`compiled.as_text()`)."""
    program = _Program(*_parse(text))
    counts: collections.Counter[str] = collections.Counter()
    amounts: collections.Counter[str] = collections.Counter()
    for kind, times, num_bytes in program.collectives(program.entry):
        counts[kind] += times
        amounts[kind] += times * num_bytes
    return Traffic(
        memory_bytes=program.memory_bytes(program.entry),
        collectives=tuple(Collective(kind, counts[kind], amounts[kind]) for kind in sorted(counts)),
        unknown_loops=len(program.unknown_loops),
    )


def products(text: str) -> Iterator[tuple[str, str, str]]:
    """Types of both operands and of the result of each matrix product in a program's text, such as 'bf16'."""
    computations, _ = _parse(text)
    for computation in computations.values():
        for i in computation.instructions.values():
            if i.opcode == "dot":
                left, right = (computation.instructions[name].shape for name in i.operands)
                yield left.split("[")[0], right.split("[")[0], i.shape.split("[")[0]


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            name, lines, root = start[1], {}, ""
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(lines, root)
            name = ""
        elif name and (found := _LINE.match(line)):
            lines[found[1]] = _instruction(found[1], re.sub(r"/\*.*?\*/", "", found[2]))
            root = found[1] if line.lstrip().startswith("ROOT") else root
    if not entry:
        raise ValueError(f"no ENTRY computation in a text of {len(text)} characters: not XLA's optimised program")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    literal = rest[start + 1 : end]
    return Instruction(name, shape, rest[:start], tuple(_NAME.findall(literal)), rest[end + 1 :], literal)


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position
    raise ValueError(f"a parenthesis is not closed: {text[start : start + 80]!r}")


class _Program:
    def __init__(self, computations: dict[str, Computation], entry: str) -> None:
        self.computations = computations
        self.entry = entry
        self.unknown_loops: set[str] = set()

    @functools.cache  # noqa: B019 - lives as long as one analysis
    def memory_bytes(self, name: str) -> int:
        computation = self.computations[name]
        return sum(self._of_instruction(computation, i) for i in computation.instructions.values())

    def _of_instruction(self, computation: Computation, i: Instruction) -> int:
        if i.opcode in _FREE or i.opcode == "async-update" or i.opcode.endswith("-done"):
            return 0
        if i.opcode == "while":
            return self._trips(computation, i) * sum(self.memory_bytes(name) for name in self._loop(i))
        if i.opcode in ("call", "async-start"):
            return sum(self.memory_bytes(name) for name in i.called)
        if i.opcode == "conditional":
            return max(self.memory_bytes(name) for name in i.called)
        if i.opcode.endswith("-start"):  # the shape includes source and destination
            return array_bytes(i.shape, main_memory_only=True)
        if i.opcode == "fusion":
            (called,) = i.called
            read = sum(self._read(called, n) for n, _ in enumerate(i.operands))
            return read + self._written(called, self.computations[called].root, i.shape)
        if i.opcode in ("dynamic-slice", "gather"):
            return 2 * array_bytes(i.shape, main_memory_only=True)
        if i.opcode == "dynamic-update-slice":
            return 2 * array_bytes(computation.instructions[i.operands[1]].shape, main_memory_only=True)
        operands = [computation.instructions[o].shape for o in i.operands if o in computation.instructions]
        return sum(array_bytes(shape, main_memory_only=True) for shape in (*operands, i.shape))

    def _read(self, name: str, number: int) -> int:
        """Bytes that a fusion reads of an operand."""
        parameter = self.computations[name].parameters().get(number)
        if parameter is None:
            return 0
        whole = array_bytes(parameter.shape, main_memory_only=True)
        return min(whole, self._read_by_users(name, parameter.name)) if whole else 0

    def _read_by_users(self, name: str, value: str) -> int:
        computation, total = self.computations[name], 0
        for user in computation.instructions.values():
            for position, operand in enumerate(user.operands):
                if operand != value:
                    continue
                if user.opcode in ("dynamic-slice", "gather") and position == 0:
                    total += array_bytes(user.shape)
                elif user.opcode == "dynamic-update-slice" and position == 0:
                    continue  # in place: the rest is not touched
                elif user.opcode in _RENAMES:
                    total += self._read_by_users(name, user.name)
                elif user.opcode == "fusion":
                    total += self._read(user.called[0], position)
                else:
                    total += array_bytes(computation.instructions[value].shape)
        # A value without users is the result, and is read as a whole.
        return total or (array_bytes(computation.instructions[value].shape) if value == computation.root else 0)

    def _written(self, name: str, value: str, shape: str) -> int:
        """Bytes that a fusion writes of its result, of this shape outside."""
        if not array_bytes(shape, main_memory_only=True):
            return 0
        computation = self.computations[name]
        i = computation.instructions[value]
        if i.opcode == "dynamic-update-slice":
            return array_bytes(computation.instructions[i.operands[1]].shape)
        if i.opcode == "tuple":
            parts = [(operand, computation.instructions[operand].shape) for operand in i.operands]
            return sum(self._written(name, operand, part) for operand, part in parts)
        if i.opcode == "bitcast" and i.operands[0] in computation.instructions:
            return min(array_bytes(shape), self._written_inside(name, i.operands[0]))
        if i.opcode == "fusion":
            return self._written(i.called[0], self.computations[i.called[0]].root, shape)
        return array_bytes(shape, main_memory_only=True)

    def _written_inside(self, name: str, value: str) -> int:
        i = self.computations[name].instructions[value]
        if i.opcode == "dynamic-update-slice":
            return array_bytes(self.computations[name].instructions[i.operands[1]].shape)
        return array_bytes(i.shape)

    def _loop(self, i: Instruction) -> Iterator[str]:
        for key in ("body", "condition"):
            if found := re.search(rf"\b{key}=%([\w.\-]+)", i.attributes):
                yield found[1]

    def _trips(self, computation: Computation, i: Instruction) -> int:
        if found := _TRIPS.search(i.attributes):
            return int(found[1])
        condition = next((c for c in re.findall(r"\bcondition=%([\w.\-]+)", i.attributes)), "")
        limit = self._limit(self.computations[condition]) if condition else None
        if limit is None:
            self.unknown_loops.add(i.name)
            return 1
        return limit

    def _limit(self, condition: Computation) -> int | None:
        """N of a condition "counter < N"; JAX's loops of known length count up from 0."""
        root = condition.instructions[condition.root]
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        limit = condition.instructions[root.operands[1]]
        return int(limit.literal) if limit.opcode == "constant" and limit.literal.isdecimal() else None

    def collectives(self, name: str, times: int = 1) -> Iterator[tuple[str, int, int]]:
        """(kind, count, input bytes) of all collectives in `times` runs of a computation."""
        computation = self.computations[name]
        for i in computation.instructions.values():
            kind = i.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                operands = sum(array_bytes(computation.instructions[o].shape) for o in i.operands)
                # On TPUs the sum may have a wider type than its inputs.
                yield kind, times, max(operands, array_bytes(i.shape)) if kind == "all-reduce" else operands
            elif i.opcode == "while":
                yield from self.collectives(next(self._loop(i)), times * self._trips(computation, i))
            else:
                for called in i.called:
                    yield from self.collectives(called, times)
