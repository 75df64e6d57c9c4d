"""What a process that has a drive open offers to other programs of this machine, over Unix sockets.

Beside the lock of a store in the cache: the wire protocol, by which another program becomes a peer of the owner, and
the status. For a mount: the status, at a place that is known by the mount's device; for a drive without a store in the
cache, at one that is known by its discovery key. One question and one answer a connection, each a JSON object on a line
(docs/json.md, "Status").

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
from datfs.activity import Activity
from datfs.drive import Drive
from datfs.errors import DatfsError, FormatError
from datfs.local_sockets import PEER_NAME, STATUS_NAME
from datfs.net.swarm import Swarm
from datfs.sparse import SparseRegister
from datfs.status import PROTOCOL, status
from datfs.store import Store
from datfs.why import why_path

log = logging.getLogger(__name__)

ASK = "ask"
ALIVE, STATUS, WHY = "alive", "status", "why"
QUESTION_MOST = 64 * 1024  # bytes
ANSWER_MOST = 64 * 1024 * 1024
SECONDS = 5.0  # for a question, and for an answer to be taken
SAMPLE_SECONDS = 1.0
AT_ONCE = 16  # questions; what is beyond waits

Place = tuple[Path, str]
Handler = Callable[[trio.SocketStream], Awaitable[object]]
Question = dict[str, Any]
Answer = Callable[[Question], Awaitable[Question]]


class LocalService:
    """For one open drive. ``swarm``: None if it uses no network; then one is made that only serves.

    ``activity``: what programs do with the drive just now; whoever mounts it sets it. ``questions``: further ones that
    are answered, by name.
    """

    def __init__(self, drive: Drive, swarm: Swarm | None, store: Store) -> None:
        self.activity: Activity | None = None
        self.questions: dict[str, Callable[[Question], Question]] = {}
        self._drive = drive
        self._swarm = swarm
        self._serves_only = False
        self._store = store
        self._nursery: trio.Nursery | None = None
        self._busy = trio.CapacityLimiter(AT_ONCE)
        self._listening: list[tuple[Place, trio.SocketListener, Handler]] = []
        if store.cached and store.folder is not None and not store.read_only:
            # Now and not in a task: whoever finds the store taken from now on finds somebody to talk to as well.
            self._listen((store.folder, PEER_NAME), self._talk)
            self._listen((store.folder, STATUS_NAME), self._answer)

    @property
    def in_cache(self) -> bool:
        """Whether the drive is found by its store in the cache."""
        return bool(self._listening)

    def add_register(self, register: SparseRegister) -> None:
        """Serves one more register to the programs of this machine, also if there is no network."""
        if self._serves_only and self._swarm is not None:
            self._swarm.add_register(register)

    async def run(self) -> None:
        """Serves the sockets of a store that we own until cancelled, and those of :meth:`offer_status`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for _, listener, handler in self._listening:
                    nursery.start_soon(trio.serve_listeners, handler, [listener])
                await sample(lambda: self.activity)
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
            self._serves_only = True
            for register in (self._drive.metadata, self._drive.content):
                if register is not None:
                    self._swarm.add_register(register)
        await self._swarm.serve(stream, "a program of this machine", limited=False)

    async def _answer(self, stream: trio.SocketStream) -> None:
        await _answer(self._reply, self._busy, stream)

    async def _reply(self, asked: Question) -> Question:
        what = str(asked.get(ASK))
        if what == STATUS:
            return self.status()
        if what == WHY:
            return await why_path(asked.get("path"), self.activity, lambda: [(self._drive, self._swarm)])
        if what in self.questions:
            return self.questions[what](asked)
        raise FormatError(f"there is no question {asked.get(ASK)!r}")

    def status(self) -> dict[str, Any]:
        """What `datfs status` is told (docs/json.md)."""
        facts = status(self._drive, self._swarm, self._store)
        return facts | self.activity.facts() if self.activity is not None else facts


async def sample(activity: Callable[[], Activity | None]) -> None:
    """Lets rates be made of what is seen now and then, until cancelled."""
    while True:
        await trio.sleep(SAMPLE_SECONDS)
        seen = activity()
        if seen is not None:
            seen.sample()


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
            told = await _reply(answer, await _line(stream, QUESTION_MOST))
            await stream.send_all(json.dumps(told).encode() + b"\n")


async def _reply(answer: Answer, question: bytes) -> Question:
    try:
        asked = json.loads(question)
        if not isinstance(asked, dict) or asked.get("protocol") != PROTOCOL:
            return {"error": f"expected an object with protocol {PROTOCOL}"}
        if asked.get(ASK) == ALIVE:
            return {"protocol": PROTOCOL}
        return await answer(asked)
    except (ValueError, OSError, DatfsError) as error:
        return {"error": _said(error)}
    except Exception:
        # Who looks in must not take the drive away from its readers.
        log.exception("the answer to a question about the drive failed unexpectedly")
        return {"error": "the answer failed; the log of the process has more"}


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


async def ask(place: Place, what: str, *, seconds: float = SECONDS, **more: Any) -> dict[str, Any]:
    """The answer of the process that listens at a place.

    Raises OSError, trio.TooSlowError or trio.BrokenResourceError if nobody answers, ValueError for nonsense.
    """
    with trio.fail_after(seconds):
        async with await local_sockets.connect(*place) as stream:
            await stream.send_all(json.dumps({"protocol": PROTOCOL, ASK: what, **more}).encode() + b"\n")
            answer = json.loads(await _line(stream, ANSWER_MOST))
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    return answer


async def _line(stream: trio.SocketStream, most: int) -> bytes:
    """What comes before the end of the line, or of the stream."""
    received = bytearray()
    while len(received) < most and not received.endswith(b"\n"):
        piece = await stream.receive_some(65_536)
        if not piece:
            break
        received += piece
    return bytes(received)
