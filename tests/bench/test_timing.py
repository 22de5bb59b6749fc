"""Turns, medians and quotients, by hand."""

import pytest

from tests.bench import timing
from tests.bench.timing import Spread

pytestmark = pytest.mark.bench


def test_spread_and_quotients_turn_by_turn():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    # Turn by turn 2, 2, 3: that the machine was slow in the second turn changes nothing.
    assert timing.ratios([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 3.0)


def test_turns_begin_with_each_in_turn():
    order = []

    def block(name):
        return lambda: order.append(name) or float(len(order))

    found = timing.alternate({name: block(name) for name in "abc"}, repeats=3)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert found == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_a_block_is_so_many_calls():
    calls = []
    assert timing.time_block(lambda: calls.append(None), 5) > 0
    assert len(calls) == 5


def test_peak_memory_holds_what_was_held():
    before = timing.peak_memory_bytes()
    held = bytearray(before)  # zeroed pages of a fresh mapping
    held[::4096] = b"\1" * len(held[::4096])
    assert timing.peak_memory_bytes() >= 1.5 * before
    assert before == pytest.approx(timing.peak_memory_bytes(), rel=2)
