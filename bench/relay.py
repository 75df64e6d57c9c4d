"""A link with a delay and a bandwidth between a client and peers on this machine, in a process of its own.

Each destination gets a port of its own and one link for all of its connections: so many bytes a second in each
direction, half a round trip later. A new connection's first bytes leave one round trip after it was made, as TCP's
handshake takes that on a real link. Not simulated: loss, and the slow start of TCP.
"""

from __future__ import annotations

import argparse
import functools
import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

PIECE = 16 * 1024
BUFFER = 256 * 1024
"""Bytes that wait before a link at most; then nothing more is read from who sends."""


class Direction:
    """One direction of a link: ``rate`` bytes a second, each byte ``delay`` seconds later."""

    def __init__(self, rate: float, delay: float) -> None:
        self.rate = rate
        self.delay = delay
        self.free_at = 0.0

    async def carry(self, source: trio.SocketStream, target: trio.SocketStream, not_before: float) -> None:
        """Moves bytes until ``source`` ends, then ends ``target``'s side too."""
        queue: deque[tuple[float, bytes]] = deque()
        filled = trio.Event()
        ended = False

        async def deliver() -> None:
            nonlocal filled
            while queue or not ended:
                if not queue:
                    filled = trio.Event()
                    await filled.wait()
                    continue
                due, data = queue.popleft()
                await trio.sleep_until(due)
                await target.send_all(data)
            await target.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            while data := await source.receive_some(PIECE):
                now = trio.current_time()
                self.free_at = max(self.free_at, now, not_before) + len(data) / self.rate
                queue.append((self.free_at + self.delay, data))
                filled.set()
                await trio.sleep(
                    self.free_at - now - BUFFER / self.rate if self.free_at - now > BUFFER / self.rate else 0
                )
            ended = True
            filled.set()


async def relay(targets: Sequence[tuple[str, int]], rate: float, round_trip: float) -> None:
    """Listens for each target, says where as one line of JSON, and carries until cancelled."""
    ports = []
    async with trio.open_nursery() as nursery:
        for target in targets:
            down, up = Direction(rate, round_trip / 2), Direction(rate, round_trip / 2)
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ports.append(listener.socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, functools.partial(_call, target, down, up, round_trip), [listener])
        print(json.dumps(ports), flush=True)


async def _call(
    target: tuple[str, int], down: Direction, up: Direction, round_trip: float, client: trio.SocketStream
) -> None:
    begun = trio.current_time() + round_trip
    try:
        async with client, await trio.open_tcp_stream(*target) as peer, trio.open_nursery() as nursery:
            for stream in (client, peer):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            nursery.start_soon(up.carry, client, peer, begun)
            nursery.start_soon(down.carry, peer, client, begun)
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either side hung up, and the other one was told by the end of its connection


@contextmanager
def link_to(*targets: tuple[str, int], rate: float, round_trip: float) -> Iterator[list[str]]:
    """A relay to each of ``targets`` until the block ends; yields their new addresses, as ``--peer`` takes them.

    ``rate``: bytes a second of each in each direction. ``round_trip``: seconds.
    """
    command = [sys.executable, "-m", "bench.relay", "--rate", str(rate), "--round-trip", str(round_trip)]
    command += [f"{host}:{port}" for host, port in targets]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield [f"127.0.0.1:{port}" for port in json.loads(process.stdout.readline())]
        finally:
            process.terminate()
            process.wait(timeout=10)


def main() -> None:
    """The process itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, required=True, metavar="BYTES", help="a second, each way")
    parser.add_argument("--round-trip", type=float, required=True, metavar="SECONDS")
    given = parser.parse_args()
    targets = [(host, int(port)) for host, _, port in (text.rpartition(":") for text in given.targets)]
    trio.run(relay, targets, given.rate, given.round_trip)


if __name__ == "__main__":
    main()
