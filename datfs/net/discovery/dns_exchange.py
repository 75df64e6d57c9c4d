"""What is said with a discovery server about one drive (spec discovery.md, section 5). No socket, no clock, no dice.

:class:`Exchange` goes through these states::

             ┌──────────────────────────────── ANSWER ──┐  ┌┐ RENEWED
             ▼                                          │  ▼│
        ┌─────────┐ BEGIN  ┌─────────┐     TOKEN     ┌──┴────┴┐
        │ RESTING ├───────►│ PROBING ├──────────────►│ ASKING │◄── BEGIN_WITH_TOKEN from RESTING and SILENT
        └─────────┘        └──▲────┬─┘               └───┬────┘
                        BEGIN │    │ EXPIRED             │ EXPIRED
                           ┌──┴────▼─┐                   │
                           │ SILENT  │◄──────────────────┘
                           └─────────┘
                                                     ┌─────────┐ ANSWER, EXPIRED ┌──────┐
        LEAVE from RESTING, PROBING and ASKING ─────►│ LEAVING ├────────────────►│ GONE │
                                                     └─────────┘                 └──────┘

Anything else changes nothing: a late answer, a copy, an answer to nobody's question.
"""

from __future__ import annotations

import enum
import logging
from typing import Protocol

from datfs.errors import FormatError
from datfs.net.discovery import packets
from datfs.net.discovery.packets import Packet, Txt
from datfs.net.transport import Address

log = logging.getLogger(__name__)

TOKEN_LIFE = 300.0  # seconds; they are valid for 5 to 10 minutes
TOKEN_MOST = 200  # bytes; it has 44, and goes back in a string of at most 255 bytes
RESEND_AFTER = (0.5, 1.0, 2.0, 4.0)  # seconds; 7.5 s in all


class Numbers(Protocol):
    """Where the numbers of questions come from, such as a ``random.Random``."""

    def randrange(self, start: int, stop: int, /) -> int:
        """A number from ``start`` to ``stop - 1``."""
        ...


class State(enum.Enum):
    """Where an exchange is."""

    RESTING = "resting"
    PROBING = "probing"
    ASKING = "asking"
    SILENT = "silent"
    LEAVING = "leaving"
    GONE = "gone"


class Event(enum.Enum):
    """What happens to an exchange."""

    BEGIN = "begin"
    BEGIN_WITH_TOKEN = "begin with token"
    TOKEN = "token"
    ANSWER = "answer"
    RENEWED = "renewed"
    EXPIRED = "expired"
    LEAVE = "leave"


TRANSITIONS = {
    (State.RESTING, Event.BEGIN): State.PROBING,
    (State.RESTING, Event.BEGIN_WITH_TOKEN): State.ASKING,
    (State.SILENT, Event.BEGIN): State.PROBING,
    (State.SILENT, Event.BEGIN_WITH_TOKEN): State.ASKING,
    (State.PROBING, Event.TOKEN): State.ASKING,
    (State.PROBING, Event.EXPIRED): State.SILENT,
    (State.ASKING, Event.ANSWER): State.RESTING,
    (State.ASKING, Event.RENEWED): State.ASKING,
    (State.ASKING, Event.EXPIRED): State.SILENT,
    (State.RESTING, Event.LEAVE): State.LEAVING,
    (State.PROBING, Event.LEAVE): State.LEAVING,
    (State.ASKING, Event.LEAVE): State.LEAVING,
    (State.LEAVING, Event.ANSWER): State.GONE,
    (State.LEAVING, Event.EXPIRED): State.GONE,
}


class Exchange:
    """What is said with one server about one drive: packets and time in, packets and addresses out.

    It has no socket and no clock.

    ``announce_port``: where we serve the drive, None to look only. ``rng``: for the numbers of questions.
    """

    def __init__(self, discovery_key: bytes, announce_port: int | None, rng: Numbers) -> None:
        self.id = packets.short_id(discovery_key)
        self.state = State.RESTING
        self.announced = False
        """The server was told of us, and not yet that we left."""
        self._announce_port = announce_port
        self._rng = rng
        self._token: str | None = None
        self._token_at = 0.0
        self._question: bytes = b""
        self._number = 0
        self._resend_at: list[float] = []
        self._to_send: list[bytes] = []
        self._renewed = False

    def data_to_send(self) -> list[bytes]:
        """The packets to send to the server now."""
        packets_to_send, self._to_send = self._to_send, []
        return packets_to_send

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is to be called, if nothing comes before."""
        return self._resend_at[0] if self._resend_at else None

    def begin(self, now: float) -> None:
        """A new round: announces, or looks only; first fetches a token if there is none that the server still takes."""
        fresh = self._token is not None and now - self._token_at < TOKEN_LIFE
        self._renewed = False
        self._happened(Event.BEGIN_WITH_TOKEN if fresh else Event.BEGIN, now)

    def leave(self, now: float) -> None:
        """Takes the announcement back, if there is one."""
        if self.announced and self._token is not None:
            self._happened(Event.LEAVE, now)

    def forget_token(self) -> None:
        """The next round begins with a probe: the server is another one now."""
        self._token = None

    def tick(self, now: float) -> None:
        """Time has passed: sends the question again, or gives it up."""
        if not self._resend_at or now < self._resend_at[0]:
            return
        self._resend_at.pop(0)
        if self._resend_at:
            self._to_send.append(self._question)
        else:
            self._happened(Event.EXPIRED, now)

    def receive(self, data: bytes, source: Address, now: float) -> list[Address]:
        """The addresses in a packet that came from the server; garbage gives none."""
        try:
            packet = packets.parse(data)
        except FormatError as error:
            log.debug("from %s: %s", source[0], error)
            return []
        if not packet.response:
            # A push: somebody announced the drive. Without our empty answer it is sent again.
            self._to_send.append(packets.encode(packet.number, packets.RESPONSE_SERVER))
        elif packet.number != self._number or not self._resend_at:
            return []
        else:
            self._answered(packet, now)
        return packet.peers(self.id, source)

    def _answered(self, packet: Packet, now: float) -> None:
        tokens = [one.values.get("token") for one in packet.records if isinstance(one, Txt)]
        token = next((one for one in tokens if one is not None and len(one.encode()) <= TOKEN_MOST), None)
        if self.state is State.PROBING and token is None:
            return
        refused = self.state is State.ASKING and token not in (None, self._token)
        if token is not None:
            self._token, self._token_at = token, now
        if self.state is State.PROBING:
            self._happened(Event.TOKEN, now)
        elif refused and not self._renewed:
            # The server has another secret by now: what we said under the old token may not have counted.
            self._renewed = True
            self._happened(Event.RENEWED, now)
        else:
            self._happened(Event.ANSWER, now)

    def _happened(self, event: Event, now: float) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return
        self.state = after
        self._resend_at = []
        if self.state is State.PROBING:
            self._ask(now, "", None)
        elif self.state is State.ASKING:
            values = {"subscribe": "true", "token": self._token or ""}
            if self._announce_port is not None:
                values["announce"] = str(self._announce_port)
                self.announced = True
            self._ask(now, self.id, Txt(self.id, values))
        elif self.state is State.LEAVING:
            self.announced = False
            self._ask(now, self.id, Txt(self.id, {"token": self._token or "", "unannounce": str(self._announce_port)}))

    def _ask(self, now: float, id: str, said: Txt | None) -> None:
        self._number = self._rng.randrange(1, 0x10000)
        additionals = [] if said is None else [said]
        self._question = packets.encode(self._number, packets.QUERY_SERVER, questions=[id], additionals=additionals)
        self._to_send.append(self._question)
        for delay in RESEND_AFTER:
            now += delay
            self._resend_at.append(now)
