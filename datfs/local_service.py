"""What a process that has a drive open offers to other programs of this machine, over Unix sockets.

Beside the lock of a store in the cache: the wire protocol, by which another program becomes a peer of the owner, and
the status. For a mount: the status, at a place that is known by the mount's device. One question and one answer a
connection, each a JSON object on a line (docs/json.md, "The status socket").

Owns the sockets, and nothing of what is told.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from datfs import local_sockets
from datfs.drive import Drive
from datfs.errors import DatfsError
from datfs.local_sockets import PEER_NAME, STATUS_NAME
from datfs.net.swarm import Swarm
from datfs.status import ASK, PROTOCOL, answer_to
from datfs.store import Store

log = logging.getLogger(__name__)

QUESTION_MOST = 64 * 1024  # bytes
SECONDS = 5.0  # for a question, and for an answer to be taken
AT_ONCE = 16  # questions; what is beyond waits

Place = tuple[Path, str]
Answer = Callable[[dict[str, Any]], dict[str, Any]]
Handler = Callable[[trio.SocketStream], Awaitable[object]]


class LocalService:
    """For one open drive. ``swarm``: None if it uses no network; then one is made that only serves.

    ``activity``: what programs do with the drive just now, as a member of the status; whoever mounts it sets it.
    ``questions``: further ones that are answered, by name.
    """

    def __init__(self, drive: Drive, swarm: Swarm | None, store: Store) -> None:
        self.activity: Callable[[], dict[str, Any]] = dict
        self.questions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self._drive = drive
        self._swarm = swarm
        self._store = store
        self._nursery: trio.Nursery | None = None
        self._busy = trio.CapacityLimiter(AT_ONCE)
        self._listening: list[tuple[Place, trio.SocketListener, Handler]] = []
        if store.cached and store.folder is not None and not store.read_only:
            # Now and not in a task: whoever finds the store taken from now on finds somebody to talk to as well.
            self._listen((store.folder, PEER_NAME), self._talk)
            self._listen((store.folder, STATUS_NAME), self._answer)

    async def run(self) -> None:
        """Serves the sockets of a store that we own until cancelled, and those of :meth:`offer_status`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for _, listener, handler in self._listening:
                    nursery.start_soon(trio.serve_listeners, handler, [listener])
                await trio.sleep_forever()
        finally:
            for place, listener, _ in self._listening:
                listener.socket.close()
                local_sockets.remove(*place)

    def offer_status(self, place: Place) -> None:
        """Answers questions at one more place, in a folder of ours, until the end of :meth:`run`, now or soon."""
        try:
            local_sockets.make_private(place[0])
        except OSError as error:
            log.info("no status at %s: %s", place[0] / place[1], error)
            return
        listener = self._listen(place, self._answer)
        if listener is not None and self._nursery is not None:
            self._nursery.start_soon(trio.serve_listeners, self._answer, [listener])

    def _listen(self, place: Place, handler: Handler) -> trio.SocketListener | None:
        try:
            listener = local_sockets.listen(*place)
        except OSError as error:  # a disk that is full, a file system without sockets: the drive works all the same
            log.info("other programs of this machine cannot look in at %s: %s", place[0] / place[1], error)
            return None
        self._listening.append((place, listener, handler))
        return listener

    async def _talk(self, stream: trio.SocketStream) -> None:
        if self._swarm is None:
            self._swarm = Swarm()  # it looks for nobody; it only serves who comes
            for register in (self._drive.metadata, self._drive.content):
                if register is not None:
                    self._swarm.add_register(register)
        await self._swarm.serve(stream, "a program of this machine", limited=False)

    async def _answer(self, stream: trio.SocketStream) -> None:
        await _answer(self._reply, self._busy, stream)

    def _reply(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = self.questions.get(str(asked.get(ASK)))
        if known is not None:
            return known(asked)
        return answer_to(asked, self._drive, self._swarm, self._store, self.activity())


async def serve_status(place: Place, answer: Answer) -> None:
    """Answers questions at a place in a folder of ours until cancelled; returns if that cannot be done.

    ``answer``: raises DatfsError for a question that has none.
    """
    try:
        local_sockets.make_private(place[0])
        listener = local_sockets.listen(*place)
    except OSError as error:
        log.info("no status at %s: %s", place[0] / place[1], error)
        return
    try:
        await trio.serve_listeners(partial(_answer, answer, trio.CapacityLimiter(AT_ONCE)), [listener])
    finally:
        listener.socket.close()
        local_sockets.remove(*place)


async def _answer(answer: Answer, busy: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
    async with stream, busy:
        with trio.move_on_after(SECONDS), contextlib.suppress(trio.BrokenResourceError, OSError):
            question = await _line(stream)
            await stream.send_all(json.dumps(_reply(answer, question)).encode() + b"\n")


def _reply(answer: Answer, question: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(question)
        if not isinstance(asked, dict) or asked.get("protocol") != PROTOCOL:
            return {"error": f"expected an object with protocol {PROTOCOL}"}
        return answer(asked)
    except (ValueError, DatfsError, OSError) as error:
        return {"error": str(error)}


async def ask(place: Place, what: str, **more: Any) -> dict[str, Any]:
    """The answer of the process that listens at a place.

    Raises OSError, trio.TooSlowError or trio.BrokenResourceError if nobody answers, ValueError for nonsense.
    """
    with trio.fail_after(SECONDS):
        async with await local_sockets.connect(*place) as stream:
            await stream.send_all(json.dumps({"protocol": PROTOCOL, ASK: what, **more}).encode() + b"\n")
            answer = json.loads(await _line(stream, 1 << 30))
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    return answer


async def _line(stream: trio.SocketStream, most: int = QUESTION_MOST) -> bytes:
    """What comes before the end of the line, or of the stream."""
    received = bytearray()
    while len(received) < most and not received.endswith(b"\n"):
        piece = await stream.receive_some(65_536)
        if not piece:
            break
        received += piece
    return bytes(received)
