"""The DHT: nodes on loopback that know each other only through the first of them."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from contextlib import aclosing

import pytest
import trio

from datfs.errors import Unavailable
from datfs.net.discovery import dht
from datfs.net.discovery.dht import MainlineDht, settings
from datfs.net.transport import Address
from tests.net.discovery_network import KEY

needs_libtorrent = pytest.mark.skipif(
    not dht.is_available(), reason="libtorrent is not installed (pip install 'datfs[dht]')"
)


def free_port() -> int:
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def run(search: MainlineDht, key: bytes) -> None:
    """Lets a node do its work; what it finds is not of interest."""
    async with aclosing(search.find(key)) as found:
        async for _ in found:
            pass


@needs_libtorrent
async def test_nodes_find_who_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a third node: the finder was told of nobody but that one. Everybody's threads end with the search."""
    monkeypatch.setattr(dht, "EARLY", (0.5,) * 20)  # the announcer may be a moment later than the finder
    first = ("127.0.0.1", free_port())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            # A node needs somebody to begin with; the first one is told of the second.
            second = ("127.0.0.1", free_port())
            nursery.start_soon(run, MainlineDht(bootstrap=[second], listen=first), bytes(32))
            nursery.start_soon(run, MainlineDht(1001, bootstrap=[first], listen=second), KEY)
            finder = MainlineDht(bootstrap=[first], listen=("127.0.0.1", 0), rng=random.Random(1))
            found: list[Address] = []
            async with aclosing(finder.find(KEY)) as addresses:
                async for address in addresses:
                    found.append(address)
                    break
            nursery.cancel_scope.cancel()
    assert found == [("127.0.0.1", 1001)]


@needs_libtorrent
async def test_a_dht_without_nodes_is_a_problem_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: the search says so and goes on."""
    monkeypatch.setattr(dht, "BOOTSTRAP_TIMEOUT", 0.2)
    search = MainlineDht(bootstrap=[("127.0.0.1", free_port())], listen=("127.0.0.1", 0))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, search, KEY)
            with trio.move_on_after(15):
                await has_problem(search)
            nursery.cancel_scope.cancel()
    assert search.problem == "no node of the DHT answers"


async def has_problem(search: MainlineDht) -> None:
    """Returns once the search says that something is wrong."""
    while search.problem is None:  # noqa: ASYNC110 - it is an attribute for people, not an event
        await trio.sleep(0.05)


def test_the_public_dht_is_not_trusted() -> None:
    """libtorrent's rules against forged nodes hold there, and only there."""
    public = settings([("bootstrap1.datprotocol.com", 6881)], ("0.0.0.0", 0))
    private = settings([("10.77.0.1", 6881)], ("0.0.0.0", 0))
    for name in ("dht_restrict_routing_ips", "dht_restrict_search_ips", "dht_ignore_dark_internet"):
        assert public[name] is True
        assert private[name] is False


def test_without_the_extra_the_rest_works() -> None:
    """Nothing imports libtorrent by itself; who wants the DHT is told what to install."""
    program = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *more: None if name == 'libtorrent' else find(name, *more);"
        "from datfs.net.discovery import dht, dns_servers, mdns, names;"
        "assert 'libtorrent' not in sys.modules; dht.MainlineDht()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Unavailable: the DHT needs the library libtorrent: pip install 'datfs[dht]'" in ended.stderr


def test_the_message_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the command line shows one line and no traceback."""
    monkeypatch.setattr(dht, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="leave dht out"):
        MainlineDht()
