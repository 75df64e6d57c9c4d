"""The want list by itself: what is chosen, and that a long list costs little. The model is in ``test_sparse.py``."""

from __future__ import annotations

from datfs.bitfield import Bitfield
from datfs.wants import BLOCK, Urgency, Wants

LENGTH = 100 * BLOCK


class Counting(Bitfield):
    """Counts how often a single bit was looked at."""

    looks = 0

    def get(self, index: int) -> bool:
        self.looks += 1
        return super().get(index)


def test_what_a_peer_lacks_is_passed_over_in_blocks() -> None:
    """A whole drive is wanted, the peer has its end: not every chunk before that is looked at."""
    wants = Wants(lambda index: False)
    wants.add(range(LENGTH), Urgency.BACKGROUND)
    held = Counting()
    assert wants.take(held, 16, only_now=False) == []
    held.set_range(LENGTH - 10, LENGTH, True)
    assert wants.take(held, 16, only_now=False) == list(range(LENGTH - 10, LENGTH))
    assert held.looks <= BLOCK


def test_urgent_chunks_go_first() -> None:
    """By urgency, then in the order in which they were wanted; none twice, and at most as many as asked for."""
    wants = Wants(lambda index: index == 3)
    everything = Bitfield()
    everything.set_range(0, 100, True)
    wants.add([50, 51, 52], Urgency.LATER)
    wants.add([9, 3, 8], Urgency.NOW)
    assert list(wants) == [9, 3, 8, 50, 51, 52]
    assert wants.take(everything, 1, only_now=False) == [9]
    assert wants.take(everything, 3, only_now=True, among={8}) == [8]
    assert not wants.urgent
    assert wants.take(everything, 2, only_now=False) == [50, 51]
    wants.release([50])
    wants.drop([51], Urgency.LATER)
    assert wants.take(everything, 5, only_now=False) == [52, 50], "what was given back comes last"
    assert wants.take(everything, 5, only_now=False) == []
    assert set(wants.in_flight) == {8, 9, 50, 51, 52}
