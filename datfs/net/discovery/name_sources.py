"""Ways to learn what a name stands for: DNS TXT and ``/.well-known/dat`` (spec discovery.md, section 8)."""

from __future__ import annotations

import json
import logging
import random
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver
import trio

from datfs.net.discovery import https
from datfs.net.discovery.name_cache import LIFE_MOST

log = logging.getLogger(__name__)

Provider = tuple[str, str]
"""A server that answers DNS questions over HTTPS: its host and path."""

PROVIDERS: tuple[Provider, ...] = (
    ("cloudflare-dns.com", "/dns-query"),
    ("dns.google", "/resolve"),
    ("dns.quad9.net", "/dns-query"),
)
PROVIDERS_ASKED = 2  # one may be blocked or away
TIMEOUT = 2.0  # seconds for each question
DEFAULT_LIFE = 3600
ANSWER_MOST = 64 * 1024
WELL_KNOWN_MOST = 1024  # two short lines
NOERROR, NXDOMAIN = 0, 3  # of DNS, RFC 1035 section 4.1.1

_TXT = re.compile(r'"?\s*datkey=([0-9a-f]{64})\s*"?', re.IGNORECASE)
_FIRST_LINE = re.compile(r"dat://([0-9a-f]{64})(?![0-9a-f])", re.IGNORECASE)
_SECOND_LINE = re.compile(r"\s*ttl=([0-9]{1,12})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for. ``life``: for how many seconds it may be kept, 0 for not at all."""

    key: bytes
    life: float


class NoSuchName(Exception):
    """Somebody who knows says that the name is no drive; the text says why.

    ``no_host``: there is no such host at all.
    """

    def __init__(self, why: str, *, no_host: bool = False) -> None:
        super().__init__(why)
        self.no_host = no_host


class Question(Protocol):
    """A way to learn what a name stands for."""

    name: str

    async def ask(self, host: str) -> Found:
        """Raises NoSuchName; OSError or trio.TooSlowError when there was no answer."""
        ...


class HttpsTxt:
    """DNS TXT over HTTPS, in the JSON form of the public providers."""

    name = "DNS"

    def __init__(
        self,
        providers: Sequence[Provider] = PROVIDERS,
        *,
        port: int = 443,
        trust: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._providers = (rng or random.SystemRandom()).sample(list(providers), len(providers))
        self._port = port
        self._trust = trust

    async def ask(self, host: str) -> Found:
        """Asks a second provider if the first one gives no answer."""
        problem: OSError | trio.TooSlowError = OSError("there is no provider to ask")
        for provider, path in self._providers[:PROVIDERS_ASKED]:
            try:
                answer = await https.get(
                    provider,
                    f"{path}?name={host}.&type=TXT",
                    accept="application/dns-json",
                    most=ANSWER_MOST,
                    timeout=TIMEOUT,
                    port=self._port,
                    trust=self._trust,
                )
                records = _json_records(host, answer)
            except (OSError, trio.TooSlowError) as error:
                log.debug("asking %s for %s: %s", provider, host, error)
                problem = error
            else:
                return _key_record(host, records)
        raise problem


class PlainTxt:
    """DNS TXT as the system asks: for those who trust their network more than a provider."""

    name = "DNS"

    def __init__(self, nameservers: Sequence[str] = (), port: int = 53) -> None:
        self._nameservers = list(nameservers)
        self._port = port

    async def ask(self, host: str) -> Found:
        """Asks ``nameservers``, or those of ``/etc/resolv.conf``."""
        try:
            resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
            if self._nameservers:
                resolver.nameservers, resolver.port = list(self._nameservers), self._port
            answer = await resolver.resolve(f"{host}.", "TXT", lifetime=TIMEOUT)
        except dns.resolver.NXDOMAIN:
            raise _no_host(host) from None
        except dns.resolver.NoAnswer:
            return _key_record(host, [])
        except dns.exception.DNSException as error:
            raise OSError(f"no name server answers: {error}") from error
        life = answer.rrset.ttl if answer.rrset is not None else DEFAULT_LIFE
        return _key_record(host, [(b"".join(one.strings).decode("utf-8", "replace"), life) for one in answer])


class WellKnown:
    """The file ``/.well-known/dat`` of the host's web server."""

    name = "/.well-known/dat"

    def __init__(self, *, port: int = 443, trust: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._trust = trust

    async def ask(self, host: str) -> Found:
        """One GET; redirects are not followed, since another host could not speak for this name."""
        answer = await https.get(
            host,
            "/.well-known/dat",
            accept="text/plain, */*;q=0.1",
            most=WELL_KNOWN_MOST,
            timeout=TIMEOUT,
            port=self._port,
            trust=self._trust,
        )
        if answer.status == 404:
            raise NoSuchName(f"https://{host} has no file /.well-known/dat")
        if answer.status != 200:
            raise OSError(f"https://{host}/.well-known/dat answers with status {answer.status}")
        lines = answer.body.decode("utf-8", "replace").splitlines()
        match = _FIRST_LINE.match(lines[0]) if lines else None
        if match is None:
            raise NoSuchName(f"https://{host}/.well-known/dat does not begin with dat:// and a key")
        life = _SECOND_LINE.fullmatch(lines[1]) if len(lines) > 1 else None
        return Found(bytes.fromhex(match[1]), _life(int(life[1]) if life else None))


def _no_host(host: str) -> NoSuchName:
    return NoSuchName(f"there is no host {host}", no_host=True)


def _json_records(host: str, answer: https.Answer) -> list[tuple[str, Any]]:
    """Text and time to live of each record. Raises NoSuchName, and OSError if it is not the answer of a DNS server."""
    if answer.status != 200:
        raise OSError(f"status {answer.status}")
    try:
        said = json.loads(answer.body)
        if said["Status"] == NXDOMAIN:
            raise _no_host(host)
        if said["Status"] != NOERROR:
            raise OSError(f"DNS error {said['Status']}")
        return [(str(record["data"]), record.get("TTL")) for record in said.get("Answer", [])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OSError("an answer that is not DNS in JSON") from error


def _key_record(host: str, records: Sequence[tuple[str, Any]]) -> Found:
    for text, life in records:
        match = _TXT.fullmatch(text)
        if match is not None:
            return Found(bytes.fromhex(match[1]), _life(life))
    raise NoSuchName(f"DNS has no TXT record datkey=... for {host}")


def _life(seconds: Any) -> float:
    """Invalid or absent: the default; 0: not to be kept (section 8)."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        return DEFAULT_LIFE
    return min(seconds, LIFE_MOST)
