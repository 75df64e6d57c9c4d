"""Serves a drive in memory that grows: ``python -m tests.growing_drive``.

Says its link and address on one line, then obeys lines on stdin and says "done" after each: ``put PATH TEXT`` and
``delete PATH`` make a new version, ``clear FIRST STOP`` drops chunks of content and tells the peers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
import trio.lowlevel

from datfs.crypto import key_pair
from datfs.net.swarm import Swarm
from datfs.sparse import SparseRegister
from datfs.storage import memory_storage
from datfs.writer import DriveWriter, chunks_of

START = 1_577_836_800_000  # 2020-01-01 in UTC
DAY = 24 * 3600 * 1000


class GrowingDrive:
    """The serving process, seen from a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.link, self.address = process.stdout.readline().split()

    def tell(self, line: str) -> None:
        """Makes it do something, and waits until it did."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def growing_drive(seed: int = 1, *lines: str) -> Iterator[GrowingDrive]:
    """A drive of a process of its own; another seed is another drive. ``lines``: what it does first."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.growing_drive", str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        try:
            drive = GrowingDrive(process)
            for line in lines:
                drive.tell(line)
            yield drive
        finally:
            process.kill()


async def _serve(seed: int) -> None:
    writer = DriveWriter.create(memory_storage(), key_pair(bytes([seed]) * 32))
    swarm = Swarm()
    registers = {
        name: SparseRegister(register, swarm, name=name)
        for name, register in (("metadata", writer.metadata), ("content", writer.content))
    }
    for register in registers.values():
        swarm.add_register(register)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.run)
        nursery.start_soon(swarm.listen, listeners)
        print(f"dat://{writer.metadata.key.hex()}", "{}:{}".format(*listeners[0].socket.getsockname()), flush=True)
        rest = b""
        async for piece in trio.lowlevel.FdStream(os.dup(0)):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                _obey(writer, swarm, registers, line)
                print("done", flush=True)
        nursery.cancel_scope.cancel()


def _obey(writer: DriveWriter, swarm: Swarm, registers: dict[str, SparseRegister], line: bytes) -> None:
    command, _, arguments = line.partition(b" ")
    first, _, text = arguments.partition(b" ")
    path = tuple(first.split(b"/"))
    lengths = {name: register.register.length for name, register in registers.items()}
    if command == b"put":
        writer.put(path, chunks_of(text), mtime=START + writer.version * DAY)
    elif command == b"delete":
        writer.delete(path)
    elif command == b"clear":
        start, stop = int(first), int(text)
        writer.content.clear(start, stop)
        swarm.retract(registers["content"], start, stop - start)
    for name in ("content", "metadata"):
        register = registers[name]
        if register.register.length > lengths[name]:
            swarm.announce(register, lengths[name], register.register.length - lengths[name])


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]))
