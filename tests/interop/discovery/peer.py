"""A datfs peer for the tests of discovery: shares a drive or clones one, with one way of finding peers and no address.

::

    python -m tests.interop.discovery.peer share FOLDER WAY
    python -m tests.interop.discovery.peer clone LINK FOLDER WAY

WAY is ``mdns``, ``dns:HOST:PORT`` or ``dht:HOST:PORT``. ``share`` prints the link once it serves, and ends when its
standard input does. ``clone`` prints the address that it found.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from functools import partial
from pathlib import Path

import trio

import datfs
from datfs.drive import DriveTree
from datfs.net.discovery.dht import MainlineDht
from datfs.net.discovery.dns_servers import DnsServer, parse_server
from datfs.net.discovery.mdns import MulticastDns
from datfs.net.transport import Address, parse_address
from datfs.vfs import Entry, Kind

Way = MulticastDns | DnsServer | MainlineDht


def way_of(word: str, announce_port: int | None) -> Way:
    """The way of finding peers that a word of the command line names."""
    kind, _, where = word.partition(":")
    if kind == "mdns":
        return MulticastDns(announce_port)
    if kind == "dns":
        return DnsServer(*parse_server(where), announce_port)
    assert kind == "dht", word
    return MainlineDht(announce_port, bootstrap=[parse_address(where)])


async def share(folder: str, word: str) -> None:
    """Serves the drive in a folder until standard input ends."""
    listeners = await trio.open_tcp_listeners(0)
    port = listeners[0].socket.getsockname()[1]
    options = datfs.Options(listen=listeners)
    async with datfs.open_drive(Path(folder), options) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(announce, way_of(word, port), datfs.discovery_key(opened.drive.key))
        print(f"dat://{opened.drive.key.hex()}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def announce(way: Way, discovery_key: bytes) -> None:
    """Lets the drive be found; whoever wants it connects to us."""
    async with aclosing(way.find(discovery_key)) as found:
        async for _ in found:
            pass


async def clone(link: str, folder: str, word: str) -> None:
    """Copies every file of a drive, from the first peer that is found."""
    with trio.fail_after(60):
        address = await first(way_of(word, None), datfs.discovery_key(datfs.parse_link(link).key))
        print(address, flush=True)
        async with datfs.open_drive(link, datfs.Options(peers=[address], memory=True)) as opened:
            tree = await opened.drive.checkout()
            await copy(tree, tree.root, trio.Path(folder))


async def first(way: Way, discovery_key: bytes) -> Address:
    """The first address that is found."""
    async with aclosing(way.find(discovery_key)) as found:
        async for address in found:
            return address
    raise AssertionError("a search does not end by itself")


async def copy(tree: DriveTree, entry: Entry, to: trio.Path) -> None:
    """Writes a file, or a folder with everything in it."""
    if entry.kind is Kind.DIRECTORY:
        await to.mkdir()
        for child in await tree.list(entry):
            await copy(tree, child, to / child.name.decode())
        return
    file = await tree.open(entry)
    await to.write_bytes(await file.read(0, entry.size))
    file.close()


if __name__ == "__main__":
    if sys.argv[1] == "share":
        trio.run(partial(share, *sys.argv[2:4]))
    else:
        trio.run(partial(clone, *sys.argv[2:5]))
