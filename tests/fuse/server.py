"""Mounts one of the trees: ``python -m tests.fuse.server TREE DIR``; says "ready", then obeys lines on stdin.

``arrive PATH``: what is missing of the file comes. ``news PATH``: something came that may be of use to its readers.
``hold``, ``free``: names wait from now on, or no longer.
``reads PATH``: answered with how often the file was read from, "done" after that.
``crash``: a task of the program fails as a bug would.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import pyfuse3
import trio
import trio.lowlevel

from datfs import fuse_control, fuse_ops, mountpoints
from datfs.daemon import run_in_background
from datfs.errors import MountError
from datfs.fuse_mount import serve
from datfs.mount_options import parse_options
from tests.fuse.trees import TREES
from tests.memory_tree import MemoryTree

WAIT = "_wait_fuse_readable"  # pyfuse3's


async def obey(tree: MemoryTree) -> None:
    """Reads commands until stdin ends."""
    rest = b""
    async for piece in trio.lowlevel.FdStream(os.dup(0)):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            command, _, argument = line.decode().partition(" ")
            if command == "arrive":
                file = tree.file(argument)
                file.present = None
                file.arrive()
            elif command == "news":
                tree.file(argument).news += 1
            elif command == "reads":
                print(tree.file(argument).reads, flush=True)
            elif command == "hold":
                tree.hold_names = trio.Event()
            elif command == "free" and tree.hold_names is not None:
                tree.hold_names.set()
                tree.names_news += 1
            elif command == "crash":
                raise ZeroDivisionError("a bug in another task")
            print("done", flush=True)


def withdraw() -> None:
    """Every second time a worker is told that there is a request when there is none."""
    wait: Callable[[], Awaitable[bool]] = getattr(pyfuse3, WAIT)
    turns = itertools.cycle([False, True])

    async def told() -> bool:
        return next(turns) or await wait()

    setattr(pyfuse3, WAIT, told)


async def run(arguments: argparse.Namespace, ready: Callable[[], None]) -> None:
    """Serves until a signal comes or the mount goes."""
    tree = TREES[arguments.tree]()
    stop = trio.Event()

    async def signals(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            async for _ in received:
                stop.set()

    async def before_unmount() -> None:
        await trio.lowlevel.checkpoint()
        mounted = mountpoints.mount_at(arguments.point) is not None
        print("drained, still mounted" if mounted else "drained, not mounted", flush=True)

    async with trio.open_nursery() as nursery:
        await nursery.start(signals)
        if not arguments.background:
            nursery.start_soon(obey, tree)
        await serve(
            tree,
            arguments.point,
            options=parse_options(arguments.options),
            timeout=arguments.timeout,
            ready=ready,
            stop=stop,
            before_unmount=before_unmount,
        )
        nursery.cancel_scope.cancel()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("tree", choices=sorted(TREES))
    parser.add_argument("point")
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--options", default="")
    parser.add_argument("--direct", action="store_true", help="as where max_background cannot be raised")
    parser.add_argument("--impatient", action="store_true", help="a read that waits is stuck from the first moment")
    parser.add_argument("--background", action="store_true")
    parser.add_argument("--withdrawn", action="store_true", help="after each request another is withdrawn unread")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if arguments.direct:
        fuse_control.raise_background_limit = lambda device: False
    if arguments.impatient:
        fuse_ops.STUCK_SECONDS = 0.0

    if arguments.withdrawn:
        withdraw()

    def work(ready: Callable[[], None]) -> int:
        code = 0
        try:
            trio.run(run, arguments, ready)
        except* MountError as errors:
            print(*(f"MountError: {error}" for error in errors.exceptions), file=sys.stderr)
            code = 8
        return code

    if arguments.background:
        return run_in_background(work)
    return work(lambda: print("ready", flush=True))


if __name__ == "__main__":
    sys.exit(main())
