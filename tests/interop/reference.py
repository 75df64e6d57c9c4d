"""The reference implementation (hyperdrive 9 under Node) as a peer, a maker of drives, and a judge of stores.

Owns the processes of the scripts beside this file: each ends with the context or call that began it, and
every wait has an end. Blocking; from a trio test call them through ``trio.to_thread.run_sync``. What the
scripts can do is said by ``node tests/interop/serve.js --help``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

HERE = Path(__file__).parent
START_SECONDS = 20.0
"""How long a peer may take until it listens: Node itself needs half a second on a busy machine."""

FILL_PIECE = 1 << 20

Layout = Literal["raf", "sleep", "dat"]
Operation = Mapping[str, object]
Event = dict[str, Any]


class ReferenceFailure(Exception):
    """A script could not run, or ended in a way not asked for; its output is in the text."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Node to run the scripts with. ``node_path``: a folder of more packages, for native cryptography."""

    node: str
    node_path: Path | None = None

    def environment(self) -> dict[str, str]:
        """The variables to start it with."""
        more = {} if self.node_path is None else {"NODE_PATH": str(self.node_path)}
        return {**os.environ, **more}


@functools.cache
def default_runtime() -> Runtime:
    """The ``node`` on PATH (or ``$DATFS_NODE``), with the packages of this folder in place.

    Raises :class:`ReferenceFailure` if either is missing: such a test fails, it is not skipped.
    """
    node = os.environ.get("DATFS_NODE") or shutil.which("node")
    if node is None:
        raise ReferenceFailure("no 'node' on PATH: run the tests with ./dev test, which installs it")
    if not (HERE / "node_modules" / "hyperdrive").is_dir():
        raise ReferenceFailure("tests/interop/node_modules is missing: run the tests with ./dev test, which fills it")
    return Runtime(node)


def fill(label: str, size: int) -> bytes:
    """The ``size`` bytes that ``{"op": "put", "size": ..., "fill": label}`` stores (the label is the path if
    not given).
    """
    pieces = (
        hashlib.shake_128(f"{label}:{at // FILL_PIECE}".encode()).digest(min(FILL_PIECE, size - at))
        for at in range(0, size, FILL_PIECE)
    )
    return b"".join(pieces)


def run_script(
    script: str, *arguments: str, stdin: str = "", timeout: float = 120.0, runtime: Runtime | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, in at most ``timeout`` seconds; the exit code is for the caller to judge."""
    runtime = runtime or default_runtime()
    try:
        return subprocess.run(
            [runtime.node, str(HERE / script), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=runtime.environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise ReferenceFailure(f"{script} {' '.join(arguments)} took longer than {timeout} s") from error


def run_node(*arguments: str, timeout: float = 60.0) -> str:
    """What Node prints, run with words of its own. Raises ReferenceFailure if it fails."""
    runtime = default_runtime()
    ended = subprocess.run([runtime.node, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    if ended.returncode != 0:
        raise ReferenceFailure(f"node {arguments[0]} failed:\n{ended.stderr}")
    return ended.stdout


# ---------------------------------------------------------------- making drives


@dataclass(frozen=True, slots=True)
class MadeEntry:
    """A path of the newest version. For folders everything after ``directory`` is 0 or empty."""

    directory: bool
    size: int = 0
    first_chunk: int = 0
    chunks: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class MadeDrive:
    """A drive on disk. Keys are 64 hex digits; ``entries`` is empty if it was made with ``listed=False``."""

    path: Path
    key: str
    content_key: str
    version: int
    metadata_length: int
    content_length: int
    content_bytes: int
    entries: Mapping[str, MadeEntry] = field(repr=False)

    @property
    def link(self) -> str:
        """``dat://`` and the key."""
        return f"dat://{self.key}"

    @property
    def files(self) -> dict[str, MadeEntry]:
        """The entries that are not folders."""
        return {path: entry for path, entry in self.entries.items() if not entry.directory}


def make_drive(
    path: Path,
    plan: Sequence[Operation] = (),
    *,
    layout: Layout = "sleep",
    seed: str | None = None,
    big: int = 0,
    fanout: int = 50,
    secret: bool = True,
    listed: bool = True,
    timeout: float = 300.0,
    runtime: Runtime | None = None,
) -> MadeDrive:
    """Makes a drive in the new folder ``path`` from a list of operations (common.js tells which there are).

    ``seed``: 64 hex digits; the same seed and plan give the same bytes. ``big``: that many small files first,
    with at most ``fanout`` names in a folder. ``secret``: leave the secret key, so that the peer can append.
    ``listed``: read everything back for :attr:`MadeDrive.entries` (slow for very many files).
    """
    arguments = ["--out", str(path), "--layout", layout, "--plan", "-"]
    if seed is not None:
        arguments += ["--seed", seed]
    if big:
        arguments += ["--big", str(big), "--fanout", str(fanout)]
    if not secret:
        arguments.append("--no-secret")
    if not listed:
        arguments.append("--no-list")
    made = run_script("make.js", *arguments, stdin=json.dumps(list(plan)), timeout=timeout, runtime=runtime)
    if made.returncode != 0:
        raise ReferenceFailure(f"make.js failed:\n{made.stderr}")
    out = json.loads(made.stdout)
    return MadeDrive(
        path=path,
        key=out["key"],
        content_key=out["contentKey"],
        version=out["version"],
        metadata_length=out["metadataLength"],
        content_length=out["contentLength"],
        content_bytes=out["contentBytes"],
        entries={row["path"]: _made_entry(row) for row in out.get("entries", [])},
    )


def _made_entry(row: Event) -> MadeEntry:
    if row["directory"]:
        return MadeEntry(directory=True)
    return MadeEntry(False, row["size"], row["offset"], row["blocks"], row["sha256"])


# ---------------------------------------------------------------- serving


@dataclass(frozen=True, slots=True)
class Request:
    """A Request message as the reference got it. ``index`` counts chunks; ``byte`` is the byte asked for, or
    0.
    """

    connection: int
    register: Literal["metadata", "content"]
    index: int
    byte: int
    hash_only: bool
    nodes: int
    answered: bool
    at: float
    """Seconds, of the peer's clock."""


class ReferencePeer:
    """A running ``serve.js``; made by :func:`serve`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        self.host = ""
        self.port = 0
        self.key = ""

    def _started(self) -> Self:
        for reader in self._readers:
            reader.start()
        listening = self.wait_for("listening", timeout=START_SECONDS)
        self.host, self.port, self.key = listening["host"], listening["port"], listening["key"]
        return self

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:  # the process is gone: whoever waits must look again
            self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    @property
    def address(self) -> str:
        """``HOST:PORT``, as ``--peer`` takes it."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process number of Node."""
        return self._process.pid

    def events(self, name: str | None = None) -> list[Event]:
        """What the peer has said so far, in order: all, or the events called ``name``."""
        with self._changed:
            return [event for event in self._events if name in (None, event["event"])]

    def wait_for(self, name: str, *, count: int = 1, timeout: float = 10.0) -> Event:
        """The ``count``-th event called ``name``, waiting up to ``timeout`` seconds for it.

        Raises :class:`ReferenceFailure` with what was said instead.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(found := [event for event in self._events if event["event"] == name]) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._readers[0].is_alive():
                    said = "\n".join(map(str, self._events[-20:])) + "".join(self._errors)
                    raise ReferenceFailure(
                        f"the reference peer did not say {name!r} ({count} times); its last words:\n{said}"
                    )
                self._changed.wait(left)
        return found[count - 1]

    def requests(self, register: Literal["metadata", "content"] | None = None) -> list[Request]:
        """The requests received so far, in order, of both registers or one."""
        return [
            Request(
                connection=event["connection"],
                register=event["register"],
                index=event["index"],
                byte=event["bytes"],
                hash_only=event["hash"],
                nodes=event["nodes"],
                answered=event["answered"],
                at=event["at"] / 1000,
            )
            for event in self.events("request")
            if register in (None, event["register"])
        ]

    def bytes_sent(self, *, timeout: float = 10.0) -> int:
        """Bytes sent over all connections. Waits until each is closed: that is when they are counted."""
        opened = len(self.events("connection"))
        if opened:
            self.wait_for("close", count=opened, timeout=timeout)
        return sum(event["bytesOut"] for event in self.events("close"))

    def apply(self, operation: Operation, *, timeout: float = 20.0) -> Event:
        """Changes the drive being served (in memory only) and returns its new description, ``version`` in it.

        Raises :class:`ReferenceFailure` if the operation failed, or there is no secret key (give ``--seed``).
        """
        done = len(self.events("applied")) + len(self.events("failed"))
        self._tell(operation)
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(answers := [e for e in self._events if e["event"] in ("applied", "failed")]) <= done:
                left = deadline - time.monotonic()
                if left <= 0 or not self._readers[0].is_alive():
                    raise ReferenceFailure(f"no answer to {operation}: {''.join(self._errors)}")
                self._changed.wait(left)
        if answers[done]["event"] == "failed":
            raise ReferenceFailure(f"{operation} failed: {answers[done]['message']}")
        return answers[done]

    def hang_up(self) -> None:
        """Closes every connection; the peer goes on listening."""
        self.apply({"op": "hangup"})

    def _tell(self, operation: Operation) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(operation)) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Ends the peer at once, without a word on the wire."""
        self._process.kill()
        self._process.wait(10)


@contextmanager
def serve(path: Path, *flags: str, runtime: Runtime | None = None) -> Iterator[ReferencePeer]:
    """Serves the drive in ``path`` on a free loopback port until the block ends. ``flags`` are those of
    serve.js.

    Raises :class:`ReferenceFailure` if the peer does not start.
    """
    with _running("serve.js", str(path), *flags, runtime=runtime) as peer:
        yield peer


@contextmanager
def _running(script: str, *arguments: str, runtime: Runtime | None = None) -> Iterator[ReferencePeer]:
    runtime = runtime or default_runtime()
    process = subprocess.Popen(
        [runtime.node, str(HERE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=runtime.environment(),
    )
    peer = ReferencePeer(process)
    try:
        yield peer._started()
    finally:
        process.kill()
        process.wait(10)
        for reader in peer._readers:
            reader.join(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass  # an operation was still in the buffer when the peer died


# ---------------------------------------------------------------- cloning and judging


@dataclass(frozen=True, slots=True)
class Clone:
    """What ``clone.js`` said. ``outcome``: done, timeout, refused (by the reference), or closed (by the other
    side).
    """

    outcome: Literal["done", "timeout", "refused", "closed"]
    message: str
    files: Mapping[str, str]
    """path to SHA-256"""
    versions: tuple[int, ...]
    """the versions seen, with ``live``"""
    checkouts: Mapping[int, Mapping[str, str]]
    """version to its files, with ``each``"""
    last: Event = field(repr=False)
    """the last event: seconds, bytes, wireIn, contentChunks, ..."""


def clone(
    key: str,
    port: int,
    *,
    host: str = "127.0.0.1",
    store: Path | None = None,
    paths: Sequence[str] = (),
    version: int | None = None,
    each: bool = False,
    out: Path | None = None,
    live: int | None = None,
    timeout: float = 60.0,
) -> Clone:
    """Downloads the drive ``key`` with the reference from ``host:port``, in at most ``timeout`` seconds.

    ``store``: keep it in that folder, sleep layout. ``paths``: only these files. ``each``: all versions too.
    ``out``: write what the version holds there, as files. ``live``: wait for that version. Never raises for
    what the other side does: see :attr:`Clone.outcome`.
    """
    arguments = ["--key", key, "--host", host, "--port", str(port), "--timeout", str(timeout)]
    if store is not None:
        arguments += ["--store", str(store)]
    for path in paths:
        arguments += ["--path", path]
    if version is not None:
        arguments += ["--version", str(version)]
    if each:
        arguments.append("--each")
    if out is not None:
        arguments += ["--out", str(out)]
    if live is not None:
        arguments += ["--live", str(live)]
    ended = run_script("clone.js", *arguments, timeout=timeout + 10)
    events: list[Event] = [json.loads(line) for line in ended.stdout.splitlines()]
    if not events or events[-1]["event"] not in ("done", "timeout", "refused", "closed"):
        raise ReferenceFailure(f"clone.js broke:\n{ended.stdout}{ended.stderr}")
    return _clone_of(events)


@contextmanager
def listening_clone(key: str, *, timeout: float = 30.0) -> Iterator[ReferencePeer]:
    """A ``clone.js`` that waits for the other side to connect; :func:`finished` waits for what it got."""
    with _running("clone.js", "--listen", "--key", key, "--timeout", str(timeout)) as peer:
        yield peer


def finished(peer: ReferencePeer, *, timeout: float = 30.0) -> Clone:
    """What a :func:`listening_clone` got, waiting for its end. Raises ReferenceFailure if it is not done."""
    peer.wait_for("done", timeout=timeout)
    return _clone_of(peer.events())


def _clone_of(events: Sequence[Event]) -> Clone:
    last = events[-1]
    return Clone(
        outcome=last["event"],
        message=last.get("message", ""),
        files={event["path"]: event["sha256"] for event in events if event["event"] == "file"},
        versions=tuple(event["version"] for event in events if event["event"] == "version"),
        checkouts={event["version"]: event["files"] for event in events if event["event"] == "checkout"},
        last=last,
    )


@dataclass(frozen=True, slots=True)
class StoredRegister:
    """A register as the reference finds it on disk. ``held``: SHA-256 of each chunk that is there and
    verifies.
    """

    key: str
    length: int
    byte_length: int
    held: Mapping[int, str]
    bad: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Store:
    """A store opened by the reference. ``content`` is None when chunk 0 of the metadata is not here."""

    layout: str
    key: str
    version: int
    metadata: StoredRegister
    content: StoredRegister | None


def open_store(path: Path) -> Store:
    """Opens the store in ``path`` with the reference and has it verify every chunk. Nothing on disk is
    changed.

    Raises :class:`ReferenceFailure` if the reference cannot open it; chunks that do not verify are in
    ``bad``.
    """
    ended = run_script("open-store.js", str(path))
    if ended.returncode not in (0, 6):
        raise ReferenceFailure(f"the reference cannot open {path}:\n{ended.stderr}")
    out = json.loads(ended.stdout)
    content = _stored_register(out["content"]) if "content" in out else None
    return Store(out["layout"], out["key"], out["version"], _stored_register(out["metadata"]), content)


def _stored_register(out: Event) -> StoredRegister:
    return StoredRegister(
        key=out["key"],
        length=out["length"],
        byte_length=out["byteLength"],
        held={row["index"]: row["sha256"] for row in out["chunks"]},
        bad={row["index"]: row["message"] for row in out["bad"]},
    )
