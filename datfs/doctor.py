"""Is this machine fit for datfs? One finding for each thing that can be wrong, with a verdict and what to do about it.

Every check ends within its deadline and changes nothing: what it opens it closes, what it writes it removes. Nothing
is asked of the network but whether it answers: the drive that is looked for is a random one.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import trio

from datfs.errors import MountError
from datfs.mount import check_fuse
from datfs.net.discovery import Discovery, packets
from datfs.net.discovery.multicast import MulticastSocket
from datfs.net.discovery.ways import Ways
from datfs.text import show_size

FUSE_CONF = Path("/etc/fuse.conf")
MOUNT_HELPERS = (Path("/sbin/mount.datfs"), Path("/usr/sbin/mount.datfs"))
ROOM_LEAST = 1_000_000_000  # bytes: less is soon full
MULTICAST_SECONDS = 2.0
SERVER_SECONDS = 17.0  # a name of 5 s, and a question of 7.5 s at one port; the second port is on the same host
DHT_SECONDS = 20.0
NETWORK_OFF = "not asked (--discovery)"
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_TIME_ERROR = 5  # what adjtimex(2) returns while nobody keeps the clock right


class Verdict(enum.Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # works, with a limit that one should know
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """``subject``: what was looked at. ``text``: what is so. ``fix``: what to do, empty if there is nothing to do."""

    subject: str
    verdict: Verdict
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What to look at: the place of the cache, the TCP port for peers, and the ways of finding them."""

    cache_dir: Path
    port: int
    ways: Ways


class _Watched(Discovery, Protocol):
    """A way of finding peers that knows whether it ever worked."""

    works: bool


async def examine(question: Question, tell: Callable[[Finding], None]) -> bool:
    """Looks at everything, telling each finding in a fixed order; returns whether nothing is bad.

    Checks run at the same time: the whole lasts as long as the slowest, 20 s at most.
    """
    checks: list[Callable[[], Awaitable[list[Finding]]]] = [
        _now(fuse),
        _now(permissions),
        _now(lambda: port(question.port)),
        lambda: network(question.ways),
        _now(lambda: disk(question.cache_dir)),
        _now(clock),
    ]
    found: dict[int, list[Finding]] = {}
    ended = [trio.Event() for _ in checks]

    async def run(number: int) -> None:
        found[number] = await checks[number]()
        ended[number].set()

    well = True
    async with trio.open_nursery() as nursery:
        for number in range(len(checks)):
            nursery.start_soon(run, number)
        for number, event in enumerate(ended):
            await event.wait()
            for finding in found[number]:
                well = well and finding.verdict is not Verdict.BAD
                tell(finding)
    return well


def _now(check: Callable[[], list[Finding]]) -> Callable[[], Awaitable[list[Finding]]]:
    """A check that does not wait, as one that may: in a thread, since a disk can be slow."""
    return lambda: trio.to_thread.run_sync(check)


def fuse() -> list[Finding]:
    """Can drives be mounted?"""
    try:
        check_fuse()
    except MountError as error:
        text, fix = re.split("[:;] ", str(error), maxsplit=1)
        return [Finding("FUSE", Verdict.BAD, text, fix)]
    return [Finding("FUSE", Verdict.OK, f"pyfuse3 {version('pyfuse3')} is here, and /dev/fuse can be used")]


def permissions() -> list[Finding]:
    """Who may mount, and for whom?"""
    findings = []
    helper = next((path for path in MOUNT_HELPERS if path.exists()), None)
    if os.geteuid() == 0:
        findings.append(Finding("permissions", Verdict.OK, "root: mounts anywhere, also for others (--allow-other)"))
    elif _others_allowed():
        findings.append(Finding("permissions", Verdict.OK, "mounts on folders of your own, also for others"))
    else:
        findings.append(
            Finding(
                "permissions",
                Verdict.NOTE,
                "mounts on folders of your own, for yourself only: --allow-other is refused",
                "to allow it, as root: echo user_allow_other >> /etc/fuse.conf",
            )
        )
    if helper is None:
        installed = Path(sys.executable).with_name("mount.datfs")
        findings.append(
            Finding(
                "mount -t datfs",
                Verdict.NOTE,
                "mount(8) and fstab do not find mount.datfs",
                f"if you want it, as root: ln -s {installed} {MOUNT_HELPERS[0]}",
            )
        )
    else:
        findings.append(Finding("mount -t datfs", Verdict.OK, f"{helper} is there"))
    return findings


def _others_allowed() -> bool:
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def port(number: int) -> list[Finding]:
    """Can peers connect to the usual port? Whether a router lets them is not known from here."""
    subject = f"port {number}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", number))
            sock.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                fix = "nothing need be done; to see who has it: ss -ltnp"
                return [Finding(subject, Verdict.NOTE, "in use: peers are served on a free port instead", fix)]
            fix = "choose another one with --listen"
            return [Finding(subject, Verdict.BAD, f"cannot be listened on: {error.strerror}", fix)]
    return [Finding(subject, Verdict.OK, "free; a router in between must let it through for peers from outside")]


async def network(ways: Ways) -> list[Finding]:
    """Can peers be found? Each way for itself; that one does not work is bad only if no other one does."""
    found: dict[str, list[Finding]] = {}

    async def run(name: str, check: Callable[[Ways], Awaitable[list[Finding]]]) -> None:
        found[name] = await check(ways)

    async with trio.open_nursery() as nursery:
        for name, check in (("mdns", multicast), ("dns", servers), ("dht", dht)):
            nursery.start_soon(run, name, check)
    findings = [*found["mdns"], *found["dns"], *found["dht"]]
    if ways.names and not any(finding.verdict is Verdict.OK for finding in findings):
        fix = "is there a network? Without: name peers with --peer, or go on with what is here (--offline)"
        findings.append(Finding("finding peers", Verdict.BAD, "none of the ways works", fix))
    return findings


async def multicast(ways: Ways) -> list[Finding]:
    """Does a packet to the group of multicast DNS come back to us?"""
    if "mdns" not in ways.names:
        return [Finding("multicast", Verdict.NOTE, NETWORK_OFF)]
    fix = "is there a network, and does a firewall let UDP port 5353 to 224.0.0.251 through?"
    query = packets.encode(0, packets.QUERY, questions=[packets.short_id(secrets.token_bytes(32))])
    try:
        with MulticastSocket() as group, trio.move_on_after(MULTICAST_SECONDS):
            await group.send(query)
            while (await group.receive())[0] != query:
                pass
            return [Finding("multicast", Verdict.OK, "works: drives on the local network are found")]
    except OSError as error:
        why = error.strerror or str(error)
    else:
        why = "nothing that was sent came back"
    return [Finding("multicast", Verdict.NOTE, f"peers on the local network are not found: {why}", fix)]


async def servers(ways: Ways) -> list[Finding]:
    """Do the discovery servers answer?"""
    if "dns" not in ways.names:
        return [Finding("discovery servers", Verdict.NOTE, NETWORK_OFF)]
    from datfs.net.discovery.dns_servers import DnsServer

    asked = [one for one in Ways(("dns",), ways.dns_servers).discoveries(None) if isinstance(one, DnsServer)]
    async with trio.open_nursery() as nursery:
        for server in asked:
            nursery.start_soon(_watch, server, SERVER_SECONDS)
    if not any(server.works for server in asked):
        why = "; ".join(server.problem or f"{server.name} does not answer" for server in asked)
        fix = "name one that answers with --dns-server, or a peer with --peer; the local network and the DHT do without"
        return [Finding("discovery servers", Verdict.NOTE, why, fix)]
    return [
        Finding(server.name, Verdict.OK, "answers")
        if server.works
        else Finding(server.name, Verdict.NOTE, server.problem or "does not answer", "another one does: nothing to do")
        for server in asked
    ]


async def dht(ways: Ways) -> list[Finding]:
    """Do nodes of the DHT answer?"""
    from datfs.net.discovery.dht import MainlineDht, is_available

    if not is_available():
        text = "the library libtorrent is not installed: peers are not looked for in the DHT"
        return [Finding("DHT", Verdict.NOTE, text, "pip install 'datfs[dht]'")]
    if "dht" not in ways.names:
        return [Finding("DHT", Verdict.NOTE, NETWORK_OFF)]
    node = Ways(("dht",), dht_bootstrap=ways.dht_bootstrap).discoveries(None)[0]
    assert isinstance(node, MainlineDht)
    await _watch(node, DHT_SECONDS)
    if node.works:
        return [Finding("DHT", Verdict.OK, "nodes answer")]
    fix = "does a firewall let UDP through? Other nodes to begin with: --dht-bootstrap HOST:PORT"
    return [Finding("DHT", Verdict.NOTE, node.problem or "no node answers", fix)]


async def _watch(way: _Watched, seconds: float) -> None:
    """Looks for a random drive until it is clear whether the way works."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_search, way)
            while not way.works and way.problem is None:  # noqa: ASYNC110  # what is watched has no events
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()


async def _search(discovery: Discovery) -> None:
    async with contextlib.aclosing(discovery.find(secrets.token_bytes(32))) as found:
        async for _ in found:
            pass


def disk(cache_dir: Path) -> list[Finding]:
    """Can the cache be written, is there room, and can chunks be taken out of it again?"""
    subject = "disk"
    place = cache_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".datfs-doctor-") as file:
            file.write(bytes(65536))
            file.flush()
            holes = _punch(file.fileno())
        room = shutil.disk_usage(place).free
    except OSError as error:
        fix = "give another place with --cache-dir, or use --memory"
        return [Finding(subject, Verdict.BAD, f"the cache {cache_dir} cannot be written: {error.strerror}", fix)]
    if room < ROOM_LEAST:
        fix = "free some room, or give another place with --cache-dir"
        return [Finding(subject, Verdict.NOTE, f"only {show_size(room)} are free for the cache {cache_dir}", fix)]
    if not holes:
        text = f"the file system of {cache_dir} cannot punch holes: cleared chunks go on taking room"
        return [Finding(subject, Verdict.NOTE, text, "give a place on ext4, xfs, btrfs or tmpfs with --cache-dir")]
    return [Finding(subject, Verdict.OK, f"the cache {cache_dir} can be written, {show_size(room)} are free")]


def _punch(fd: int) -> bool:
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return int(fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, 4096)) == 0


def clock() -> list[Finding]:
    """Is the time about right? Certificates of names and times of entries depend on it."""
    built = Path(__file__).stat().st_mtime
    now = time.time()
    if now < built - 86400:
        text = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}, before datfs was installed here"
        return [Finding("clock", Verdict.BAD, text, "set it: timedatectl set-ntp true")]
    # struct timex: 208 bytes with a zero mode, which only asks; its length differs between machines, never more.
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    if state == _TIME_ERROR:
        text = "nothing keeps the clock right; names by HTTPS fail when it is far off"
        return [Finding("clock", Verdict.NOTE, text, "timedatectl set-ntp true; in a container the host does it")]
    return [Finding("clock", Verdict.OK, time.strftime("%Y-%m-%d %H:%M:%S UTC, and kept right", time.gmtime(now)))]
