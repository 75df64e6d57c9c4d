"""No network: it is noticed, and nobody waits for peers then."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing

from datfs.errors import NoPeers
from datfs.net.discovery.ways import Ways
from datfs.net.reach import on_a_network
from datfs.net.swarm import Swarm
from datfs.net.transport import Address
from datfs.register import Register
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from tests.helpers import SEED, make_register

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
ETHERNET = "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
LOOPBACK6 = "00000000000000000000000000000001 01 80 10 80       lo\n"
LINK6 = "fe800000000000000000000000000001 02 40 20 80     eth0\n"
GLOBAL6 = "20010db8000000000000000000000001 02 40 00 80     eth0\n"


@pytest.mark.parametrize(
    ("routes", "addresses", "state", "there"),
    [
        ("", LOOPBACK6, None, False),
        ("", LOOPBACK6 + LINK6, "up", False),
        ("", None, None, False),
        (ETHERNET, LOOPBACK6, "up", True),
        (ETHERNET, LOOPBACK6, "unknown", True),
        (ETHERNET, LOOPBACK6, None, True),
        (ETHERNET, None, "down", False),
        ("", LOOPBACK6 + GLOBAL6, "up", True),
    ],
)
def test_what_is_a_network(tmp_path: Path, routes: str, addresses: str | None, state: str | None, there: bool) -> None:
    """An address beyond this machine on an interface that is not down; in doubt there is one."""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(HEAD + routes)
    if addresses is not None:
        (tmp_path / "proc/net/if_inet6").write_text(addresses)
    if state is not None:
        (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
        (tmp_path / "sys/class/net/eth0/operstate").write_text(state + "\n")
    assert on_a_network(tmp_path) == there


def test_where_nothing_is_told_there_is_a_network(tmp_path: Path) -> None:
    """Not Linux, or no /proc."""
    assert on_a_network(tmp_path)


@pytest.mark.parametrize(
    ("ways", "seconds"),
    [
        (Ways(), 0.0),
        (Ways(("dns", "dht")), 0.0),
        (Ways(("mdns", "dns", "dht")), 0.5),
        (Ways(("dns",), dns_servers=("127.0.0.1:5300",)), 10.0),
        (Ways(("mdns", "dht"), dht_bootstrap=(("localhost", 1),)), 10.0),
        (Ways(("mdns",), dns_servers=("127.0.0.1",)), 0.5),
    ],
)
def test_what_may_be_found_alone(ways: Ways, seconds: float) -> None:
    """Peers and servers on this machine only, by the ways that are used."""
    assert ways.search_alone() == seconds


class Endless:
    """Looks for ever and finds nothing."""

    name = "endless"
    problem: str | None = None

    async def find(self, discovery_key: bytes) -> AsyncGenerator[Address, None]:
        """Never yields."""
        while True:
            await trio.sleep(1000)
            if self.problem is not None:
                yield ("", 0)


@pytest.mark.parametrize(("alone", "seconds"), [(0.0, 0.0), (0.5, 0.5), (None, 10.0)])
async def test_readers_wait_no_longer(
    autojump_clock: trio.testing.MockClock, alone: float | None, seconds: float
) -> None:
    """While the search goes on, readers have hope for so long; later ones have none."""
    swarm = Swarm(discoveries=[Endless()], search_alone=alone)
    copy = SparseRegister(Register.open(memory_storage(), key=make_register([b"x"], SEED).key), swarm)
    swarm.add_register(copy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        await trio.testing.wait_all_tasks_blocked()
        for expected in (seconds, 0.0):
            began = trio.current_time()
            with pytest.raises(NoPeers, match="no network" if alone is not None else "no peer was found"):
                await copy.ensure((0,))
            assert trio.current_time() - began == pytest.approx(expected, abs=0.01)
        nursery.cancel_scope.cancel()
