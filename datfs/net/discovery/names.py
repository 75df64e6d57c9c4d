"""Names of drives: ``dat://example.org`` to a key, as DEP-0005 tells (spec discovery.md, section 8).

First a DNS TXT record ``datkey=<64 hex>``, asked for over HTTPS as DEP-0005 recommends, since anybody on the way could
forge plain DNS; then ``https://example.org/.well-known/dat``. What was found is remembered on disk. Its time to live
says when to ask again; when nobody can be asked then, what was found is still used: a name that resolved once works
offline. A clear answer that the name is no drive (any more) is believed.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from datfs.errors import BadLink, NoPeers, Unavailable
from datfs.link import Link
from datfs.net.discovery.name_cache import LIFE_MOST, NameCache

if TYPE_CHECKING:
    from datfs.net.discovery.name_sources import Found, Question

log = logging.getLogger(__name__)

MISS_LIFE = 60.0  # seconds for which "no such drive" is remembered, in memory
MISSES_MOST = 1000

_LINK = re.compile(r"(?:(?:dat:)?//)?([^/+]+)(?:\+([0-9]{1,16}))?(/.*)?", re.DOTALL)
_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Resolved:
    """``source``: where the key is from. ``stale``: it was remembered for too long, but nobody could be asked."""

    key: bytes
    source: str
    stale: bool = False


@dataclass(frozen=True, slots=True)
class NamedLink:
    """A link whose drive has a name instead of a key; otherwise as :class:`datfs.link.Link`."""

    host: str
    version: int | None = None
    path: str = ""

    def with_key(self, key: bytes) -> Link:
        """The link that it stands for."""
        return Link(key, self.version, self.path)


def parse_named_link(text: str) -> NamedLink | None:
    """``dat://example.org[+N][/path]``, also without ``dat://``; None if there is no name in it, a key for example.

    International names are brought to their ASCII form. A name has a dot in it.
    """
    match = _LINK.fullmatch(text.strip())
    if match is None:
        return None
    host, version, path = match.groups()
    if not host.isascii():
        host = _ascii(host)
    host = host.lower().rstrip(".")
    if _NAME.fullmatch(host) is None:
        return None
    return NamedLink(host, None if version is None else int(version), (path or "").strip("/"))


def _ascii(host: str) -> str:
    """The ASCII form of an international name; what is none stays as it is, and is judged so."""
    import idna  # for the few names that need it

    with contextlib.suppress(idna.IDNAError):
        return idna.encode(host, uts46=True).decode()
    return host


class Resolver:
    """Turns names into keys.

    ``cache``: what is remembered. ``questions``: the ways to ask, in their order. ``offline``: ask nobody. ``clock``:
    seconds since 1970.
    """

    def __init__(
        self,
        cache: NameCache,
        questions: Sequence[Question] | None = None,
        *,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        # Imported when somebody is asked: most links have a key, and the libraries take long to load.
        from datfs.net.discovery.name_sources import HttpsTxt, WellKnown

        self._questions: list[Question] = [HttpsTxt(), WellKnown()] if questions is None else list(questions)
        self._offline = offline
        self._clock = clock
        self._missing: dict[str, tuple[float, str]] = {}

    async def resolve(self, host: str) -> Resolved:
        """The key of a name, within some seconds.

        Raises BadLink if the name is no drive, and NoPeers if nobody could be asked and nothing is remembered.
        """
        remembered = self._cache.get(host)
        now = self._clock()
        if remembered is not None and (self._offline or now < remembered[1] <= now + LIFE_MOST):
            return Resolved(remembered[0], "cache", stale=not now < remembered[1])
        if self._offline:
            raise NoPeers(f"dat://{host}: this name was never looked up here, and we are offline (--offline)")
        until, why = self._missing.get(host, (0.0, ""))
        if now < until:
            raise BadLink(why)
        try:
            found, source = await self._ask(host)
        except BadLink as error:
            self._remember_miss(host, now + MISS_LIFE, str(error))
            self._cache.drop(host)
            raise
        except Unavailable:
            if remembered is None:
                raise
            return Resolved(remembered[0], "cache", stale=True)
        if found.life:
            self._cache.put(host, found.key, now + found.life)
        else:
            self._cache.drop(host)
        return Resolved(found.key, source)

    async def _ask(self, host: str) -> tuple[Found, str]:
        from datfs.net.discovery.name_sources import NoSuchName

        noes: list[str] = []
        failures: list[str] = []
        for question in self._questions:
            try:
                return await question.ask(host), question.name
            except NoSuchName as error:
                noes.append(str(error))
                if error.no_host:
                    failures.clear()
                    break
            except (OSError, trio.TooSlowError) as error:
                failures.append(f"{question.name}: {_why(error)}")
        if failures:
            raise NoPeers(f"dat://{host} cannot be looked up ({'; '.join(failures + noes)}); is there network?")
        raise BadLink(f"dat://{host} is not the name of a drive: {'; '.join(noes)}")

    def _remember_miss(self, host: str, until: float, why: str) -> None:
        if len(self._missing) >= MISSES_MOST:
            self._missing.clear()
        self._missing[host] = (until, why)


async def resolve_link(named: NamedLink, resolver: Resolver, notice: Callable[[str], None] = log.info) -> Link:
    """The link that a name stands for. ``notice`` is told when the key may be out of date.

    Raises as :meth:`Resolver.resolve`.
    """
    resolved = await resolver.resolve(named.host)
    if resolved.stale:
        notice(f"dat://{named.host}: using the key that was remembered, nobody could be asked whether it still holds")
    return named.with_key(resolved.key)


def _why(error: OSError | trio.TooSlowError) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer"
    return error.strerror or str(error)
