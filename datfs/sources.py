"""Sources of chunks that are not the network: none at all, and another register on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from datfs.bitfield import Bitfield
from datfs.errors import DatfsError, NoPeers
from datfs.register import Register
from datfs.sparse import SparseRegister


class NoSource:
    """The source of a drive that is offline: nothing comes, and readers are told at once."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def wants_changed(self, register: SparseRegister) -> None:
        """Nothing will come."""

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """Always: the reason given when this was made."""
        return NoPeers(f"{register.name} chunk is not here, and {self._reason}")

    def undecided(self, register: SparseRegister) -> bool:
        """Nobody will tell anything."""
        return False

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """Nobody is there."""
        return ()

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """Nobody has been asked, so nothing is known of others."""
        return False


class CopySource:
    """Brings chunks from another register of the same key on this machine, on the spot, with proofs."""

    def __init__(self, origin: Register) -> None:
        self._origin = origin

    def wants_changed(self, register: SparseRegister) -> None:
        """Delivers all that is wanted and held by the origin, before it returns."""
        while wants := register.next_wants(self._origin.data_bits, 64):
            for index in wants:
                digest = register.register.digest(index)
                proof = self._origin.proof(index, digest)
                register.put(index, self._origin.get(index), proof.nodes, proof.signature)
        if register.length_wanted and self._origin.length > register.register.length:
            index = self._origin.length - 1
            proof = self._origin.proof(index, register.register.digest(index))
            register.put(index, self._origin.get(index), proof.nodes, proof.signature)

    def hopeless(self, register: SparseRegister) -> DatfsError | None:
        """What the origin lacks will not come."""
        return NoPeers(f"{register.name} chunk is neither here nor in the copy it comes from")

    def undecided(self, register: SparseRegister) -> bool:
        """The origin tells at once."""
        return False

    def held_by_peers(self, register: SparseRegister) -> Sequence[Bitfield]:
        """What the origin holds."""
        return (self._origin.data_bits,)

    def all_told(self, register: SparseRegister, stop: int) -> bool:
        """There is nobody but the origin."""
        return True
