"""Names of drives: what each source says, in which order they are asked, and what is remembered of it."""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Callable
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from datfs.errors import BadLink, NoPeers
from datfs.link import Link
from datfs.net.discovery import https, name_cache, name_sources
from datfs.net.discovery.name_cache import LIFE_MOST, NameCache
from datfs.net.discovery.name_sources import (
    DEFAULT_LIFE,
    Found,
    HttpsTxt,
    NoSuchName,
    PlainTxt,
    WellKnown,
)
from datfs.net.discovery.names import MISS_LIFE, NamedLink, Resolved, Resolver, parse_named_link, resolve_link
from tests.net.web import AllHere, Reply, https_server

KEY = bytes(range(32))
OTHER = bytes(range(100, 132))
TEXT = f"dat://{KEY.hex()}"


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("dat://example.org", NamedLink("example.org")),
        ("dat://Example.ORG/", NamedLink("example.org")),
        ("example.org/a/b.txt", NamedLink("example.org", None, "a/b.txt")),
        ("//example.org+12/a", NamedLink("example.org", 12, "a")),
        ("dat://sub.example.org.", NamedLink("sub.example.org")),
        ("dat://bücher.example/", NamedLink("xn--bcher-kva.example")),
    ],
)
def test_links_with_names(text: str, link: NamedLink) -> None:
    """Host, version and path; international names in their ASCII form."""
    assert parse_named_link(text) == link


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        KEY.hex(),
        "dat://localhost",
        "dat://",
        "dat://example.org+x",
        "dat://-example.org",
        "dat://exam ple.org",
        "dat://example..org",
        "dat://127.0.0.1",
        "dat://a@example.org",
        "dat://example.org:80",
        "dat://" + "a" * 64 + ".org",
    ],
)
def test_links_without_names(text: str) -> None:
    """Keys, hosts without a dot, addresses, and what no host is called."""
    assert parse_named_link(text) is None


@given(st.text())
def test_any_text_is_a_link_or_not(text: str) -> None:
    """Never an exception, and never a host that could mean something else in a URL."""
    link = parse_named_link(text)
    if link is not None:
        assert link.host.isascii()
        assert not set(link.host) & set("/?#@:\\ %")


# ---------------------------------------------------------------- /.well-known/dat


async def well_known(reply: Reply) -> Found:
    """What is made of a web server's answer."""
    trio.socket.set_custom_hostname_resolver(AllHere())
    async with https_server(lambda host, target: reply) as web:
        found = await WellKnown(port=web.port, trust=web.trust).ask("example.org")
    assert web.asked == [("example.org", "/.well-known/dat")]
    return found


@pytest.mark.parametrize(
    ("body", "life"),
    [
        (f"{TEXT}\n", DEFAULT_LIFE),
        (f"{TEXT}", DEFAULT_LIFE),
        (f"{TEXT}/\nTTL=60\n", 60),
        (f"{TEXT.upper().replace('DAT', 'dat')}\r\nttl=60\r\n", 60),
        (f"{TEXT}\nTTL=0", 0),
        (f"{TEXT}\nTTL=99999999", LIFE_MOST),
        (f"{TEXT}\nTTL=soon", DEFAULT_LIFE),
        (f"{TEXT}\n" + "x" * 100_000, DEFAULT_LIFE),
    ],
)
async def test_the_well_known_file(body: str, life: float) -> None:
    """A link, and perhaps a time to live; what follows does not matter, however much it is."""
    assert await well_known(Reply(body=body.encode())) == Found(KEY, life)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(404), "has no file"),
        (Reply(body=b""), "does not begin with"),
        (Reply(body=b"<!DOCTYPE html>"), "does not begin with"),
        (Reply(body=TEXT[:-1].encode()), "does not begin with"),
        (Reply(body=TEXT.encode() + b"0"), "does not begin with"),
        (Reply(body=b"\xff\0\xfe"), "does not begin with"),
    ],
)
async def test_a_web_server_without_a_drive(reply: Reply, why: str) -> None:
    """A clear no."""
    with pytest.raises(NoSuchName, match=why):
        await well_known(reply)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(500), "status 500"),
        (Reply(301, headers=[("Location", "https://example.com/.well-known/dat")]), "status 301"),
        (Reply(raw=b"220 mail.example.org ESMTP\r\n"), "does not speak HTTP"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nA: " + b"a" * 40_000), "does not speak HTTP"),
        (Reply(raw=b""), "does not speak HTTP"),
    ],
)
async def test_a_web_server_in_trouble(reply: Reply, why: str) -> None:
    """No answer about the drive, neither yes nor no; redirects are not followed."""
    with pytest.raises(OSError, match=why):
        await well_known(reply)


async def test_a_slow_web_server(autojump_clock: MockClock) -> None:
    """Two seconds, in all."""
    autojump_clock.autojump_threshold = 0.3  # sockets are real, and take real time
    with pytest.raises(trio.TooSlowError):
        await well_known(Reply(body=TEXT.encode(), pause=60))
    assert trio.current_time() < 10


async def test_a_certificate_of_nobody() -> None:
    """Who cannot prove to be the host is not believed."""
    trio.socket.set_custom_hostname_resolver(AllHere())
    async with https_server(lambda host, target: Reply(body=TEXT.encode())) as web:
        with pytest.raises(OSError, match="not trusted"):
            await WellKnown(port=web.port, trust=ssl.create_default_context()).ask("example.org")
        with pytest.raises(OSError, match="not trusted"):
            await WellKnown(port=web.port, trust=web.trust).ask("example.com")
    assert web.asked == []


# ---------------------------------------------------------------- DNS


def dns_json(*records: tuple[str, object], status: int = 0) -> Reply:
    """The answer of a provider."""
    answers = [{"name": "example.org.", "type": 16, "TTL": life, "data": data} for data, life in records]
    return Reply(body=json.dumps({"Status": status, "Answer": answers}).encode())


async def https_txt(answer: Callable[[str, str], Reply], providers: tuple[str, ...] = ("one.example",)) -> Found:
    """What is made of the answers of some providers."""
    trio.socket.set_custom_hostname_resolver(AllHere())
    async with https_server(answer, names=providers) as web:
        source = HttpsTxt(
            [(name, "/dns-query") for name in providers], port=web.port, trust=web.trust, rng=random.Random(1)
        )
        found = await source.ask("example.org")
    assert all(target == "/dns-query?name=example.org.&type=TXT" for _, target in web.asked)
    return found


@pytest.mark.parametrize("text", ["datkey={}", '"datkey={}"', "DatKey={}"])
async def test_a_txt_record_over_https(text: str) -> None:
    """Quoted or not; other records beside it do not matter."""
    reply = dns_json(("v=spf1 -all", 5), (text.format(KEY.hex()), 120), (f"datkey={OTHER.hex()}", 7))
    assert await https_txt(lambda host, target: reply) == Found(KEY, 120)


@pytest.mark.parametrize("life", [None, -1, "soon", True, float("nan")])
async def test_a_ttl_that_is_none(life: object) -> None:
    """Counts as an hour."""
    reply = dns_json((f"datkey={KEY.hex()}", life))
    assert await https_txt(lambda host, target: reply) == Found(KEY, DEFAULT_LIFE)


@pytest.mark.parametrize("record", ["datkey=", f"datkey={KEY.hex()}0", f"my datkey={KEY.hex()}", KEY.hex()])
async def test_txt_records_that_are_something_else(record: str) -> None:
    """A clear no: the host is there, without such a record."""
    with pytest.raises(NoSuchName, match="no TXT record") as caught:
        await https_txt(lambda host, target: dns_json((record, 60)))
    assert not caught.value.no_host


async def test_a_host_that_is_none() -> None:
    """The provider knows that there is no such host."""
    with pytest.raises(NoSuchName, match="no host") as caught:
        await https_txt(lambda host, target: dns_json(status=3))
    assert caught.value.no_host


async def test_a_second_provider_is_asked() -> None:
    """When the first one is in trouble."""
    replies = iter([Reply(503), dns_json((f"datkey={KEY.hex()}", 60))])
    found = await https_txt(lambda host, target: next(replies), ("one.example", "two.example"))
    assert found == Found(KEY, 60)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"Status": 2}', b'{"Status":0,"Answer":[7]}', b"[" * 50_000, b"\xff"]
)
async def test_a_provider_that_talks_nonsense(body: bytes) -> None:
    """No answer, neither yes nor no."""
    with pytest.raises(OSError, match="DNS"):
        await https_txt(lambda host, target: Reply(body=body))


class NameServer:
    """An ordinary DNS server on loopback that gives every host these TXT records; None: there is no such host."""

    def __init__(self, records: list[str] | None) -> None:
        self.records = records

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Answers until cancelled; its port is the value of ``start``."""
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            task_status.started(sock.getsockname()[1])
            while True:
                data, source = await sock.recvfrom(1500)
                query = dns.message.from_wire(data)
                reply = dns.message.make_response(query)
                if self.records is None:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                elif self.records:
                    reply.answer.append(dns.rrset.from_text(query.question[0].name, 77, "IN", "TXT", *self.records))
                await sock.sendto(reply.to_wire(), source)


async def test_a_txt_record_by_plain_dns(nursery: trio.Nursery) -> None:
    """A yes with its time to live, and both kinds of no."""
    server = NameServer(['"v=spf1 -all"', f'"datkey={KEY.hex()}"'])
    port: int = await nursery.start(server.run)
    source = PlainTxt(["127.0.0.1"], port)
    assert await source.ask("example.org") == Found(KEY, 77)
    server.records = []
    with pytest.raises(NoSuchName, match="no TXT record"):
        await source.ask("example.org")
    server.records = None
    with pytest.raises(NoSuchName, match="no host"):
        await source.ask("example.org")


async def test_plain_dns_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer, within the time allowed."""
    monkeypatch.setattr(name_sources, "TIMEOUT", 0.2)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        with trio.fail_after(5), pytest.raises(OSError, match="no name server answers"):
            await PlainTxt(["127.0.0.1"], silent.getsockname()[1]).ask("example.org")


# ---------------------------------------------------------------- resolving


class Told:
    """A source that says what it is told to, and counts how often it is asked."""

    name = "told"

    def __init__(self, answer: Found | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def ask(self, host: str) -> Found:
        """The answer, or the exception."""
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_500_000_000.0

    def __call__(self) -> float:
        return self.now


NO = NoSuchName("there is no record")
AWAY = OSError(101, "Network is unreachable")


async def test_dns_goes_before_the_web() -> None:
    """The second source is asked only if the first has no key."""
    first, second = Told(Found(KEY, 60)), Told(Found(OTHER, 60))
    assert await Resolver(NameCache(None), [first, second]).resolve("example.org") == Resolved(KEY, "told")
    assert second.asked == 0
    for answer in (NO, AWAY, trio.TooSlowError()):
        resolver = Resolver(NameCache(None), [Told(answer), second])
        assert (await resolver.resolve("example.org")).key == OTHER


async def test_a_key_is_remembered_for_its_time(tmp_path: Path) -> None:
    """Also by another process; then it is asked for again."""
    source, clock = Told(Found(KEY, 60)), Clock()
    path = tmp_path / "cache" / "names.json"
    for _ in range(3):
        resolver = Resolver(NameCache(path), [source], clock=clock)
        assert (await resolver.resolve("example.org")).key == KEY
    assert source.asked == 1
    clock.now += 61
    source.answer = Found(OTHER, 60)
    assert (await resolver.resolve("example.org")).key == OTHER
    assert source.asked == 2


async def test_a_life_of_zero_is_not_kept(tmp_path: Path) -> None:
    """Its owner wants it asked for every time."""
    source = Told(Found(KEY, 0))
    resolver = Resolver(NameCache(tmp_path / "names.json"), [source])
    for asked in (1, 2):
        await resolver.resolve("example.org")
        assert source.asked == asked


@pytest.mark.parametrize("trouble", [AWAY, trio.TooSlowError()])
async def test_a_name_that_resolved_once_works_offline(tmp_path: Path, trouble: Exception) -> None:
    """Long after its time, if nobody can be asked, or nobody may be."""
    clock, path = Clock(), tmp_path / "names.json"
    await Resolver(NameCache(path), [Told(Found(KEY, 60))], clock=clock).resolve("example.org")
    clock.now += 365 * 24 * 3600
    stale = Resolved(KEY, "cache", stale=True)
    assert await Resolver(NameCache(path), [Told(trouble)], clock=clock).resolve("example.org") == stale
    unasked = Told(Found(OTHER, 60))
    assert await Resolver(NameCache(path), [unasked], offline=True, clock=clock).resolve("example.org") == stale
    assert unasked.asked == 0


async def test_a_clear_no_is_believed(tmp_path: Path) -> None:
    """The old key is forgotten; the no is remembered for a minute."""
    clock, path = Clock(), tmp_path / "names.json"
    source = Told(Found(KEY, 60))
    resolver = Resolver(NameCache(path), [source], clock=clock)
    await resolver.resolve("example.org")
    clock.now += 61
    source.answer = NO
    for _ in range(2):
        with pytest.raises(BadLink, match="not the name of a drive: there is no record"):
            await resolver.resolve("example.org")
    assert source.asked == 2
    clock.now += MISS_LIFE + 1
    source.answer = AWAY
    with pytest.raises(NoPeers):
        await resolver.resolve("example.org")


async def test_a_host_that_is_none_needs_no_second_question() -> None:
    """The web server of a host that does not exist is not looked for."""
    second = Told(AWAY)
    resolver = Resolver(NameCache(None), [Told(NoSuchName("there is no host example.org", no_host=True)), second])
    with pytest.raises(BadLink, match="there is no host"):
        await resolver.resolve("example.org")
    assert second.asked == 0


async def test_nobody_to_ask() -> None:
    """Each source's trouble is told, and offline that there was none asked."""
    resolver = Resolver(NameCache(None), [Told(AWAY), Told(trio.TooSlowError())])
    with pytest.raises(NoPeers, match=r"told: Network is unreachable; told: no answer\); is there network"):
        await resolver.resolve("example.org")
    with pytest.raises(NoPeers, match="offline"):
        await Resolver(NameCache(None), [], offline=True).resolve("example.org")


async def test_links_become_links_with_keys() -> None:
    """Version and path stay; a link with a key is nobody's business here; an old key is told of."""
    clock, cache = Clock(), NameCache(None)
    source = Told(Found(KEY, 60))
    resolver = Resolver(cache, [source], clock=clock)
    notes: list[str] = []
    assert await resolve_link(NamedLink("example.org", 7, "a/b"), resolver, notes.append) == Link(KEY, 7, "a/b")
    assert notes == []
    clock.now += 61
    source.answer = AWAY
    assert await resolve_link(NamedLink("example.org"), resolver, notes.append) == Link(KEY)
    assert len(notes) == 1


# ---------------------------------------------------------------- the memory


def test_a_clock_that_was_wrong_does_not_keep_a_name_for_ever() -> None:
    """A key that was stored with a time far in the future is asked for again."""
    clock, cache = Clock(), NameCache(None)
    cache.put("example.org", OTHER, clock.now + 2 * LIFE_MOST)
    resolver = Resolver(cache, [Told(Found(KEY, 60))], clock=clock)
    assert trio.run(resolver.resolve, "example.org").key == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"example.org": 7}',
        b'{"example.org": {"key": "00", "until": 1}}',
        b'{"example.org": {"key": 7, "until": 1}}',
        b'{"example.org": {"key": "' + KEY.hex().encode() + b'", "until": "soon"}}',
        b'{"example.org": {"key": "' + KEY.hex().encode() + b'", "until": NaN}}',
    ],
)
def test_a_broken_memory_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    """It is read without complaint, and written anew."""
    path = tmp_path / "names.json"
    path.write_bytes(content)
    cache = NameCache(path)
    assert cache.get("example.org") is None
    cache.put("example.org", KEY, 5.0)
    assert NameCache(path).get("example.org") == (KEY, 5.0)


def test_the_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends first goes first."""
    monkeypatch.setattr(name_cache, "NAMES_MOST", 10)
    cache = NameCache(tmp_path / "names.json")
    for n in range(15):
        cache.put(f"{n}.example", KEY, float(n))
    assert [cache.get(f"{n}.example") is not None for n in range(15)] == [False] * 5 + [True] * 10


def test_a_memory_that_cannot_be_written(tmp_path: Path) -> None:
    """A disk that is full or not ours is no reason to fail; the name works in this process."""
    (tmp_path / "file").write_bytes(b"")
    cache = NameCache(tmp_path / "file" / "names.json")
    cache.put("example.org", KEY, 5.0)
    cache.drop("example.com")


def test_nothing_is_left_beside_the_memory(tmp_path: Path) -> None:
    """It is written whole under another name first, which goes away."""
    NameCache(tmp_path / "names.json").put("example.org", KEY, 5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["names.json"]


async def test_a_get_reads_no_more_than_allowed() -> None:
    """The rest of an endless answer is never fetched."""
    trio.socket.set_custom_hostname_resolver(AllHere())
    async with https_server(lambda host, target: Reply(body=b"x" * 10_000_000)) as web:
        answer = await https.get(
            "example.org", "/", accept="*/*", most=1000, timeout=10, port=web.port, trust=web.trust
        )
    assert answer == https.Answer(200, b"x" * 1000)
