"""Two network namespaces joined by a veth pair: two machines on one network, with nothing else around.

Owns the namespaces and the processes started in them; both end with the context that began them.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NETWORK = "10.77.0.0/24"


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace with one address."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs in it."""
        return ["ip", "netns", "exec", self.namespace, *words]


def why_not() -> str | None:
    """Why network namespaces cannot be made here; None if they can."""
    if shutil.which("ip") is None:
        return "there is no command 'ip' (Debian package iproute2)"
    name = f"datfs-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextmanager
def two_machines(*, multicast: bool) -> Iterator[tuple[Machine, Machine]]:
    """Two machines. Without ``multicast`` they cannot find each other by mDNS."""
    pid = os.getpid()
    machines = tuple(Machine(f"datfs-{pid}-{n}", f"10.77.0.{n}") for n in (1, 2))
    devices = (f"dfs{pid}a", f"dfs{pid}b")
    with ExitStack() as stack:
        for machine in machines:
            _ip("netns", "add", machine.namespace)
            stack.callback(_ip, "netns", "del", machine.namespace)
        _ip(
            *("link", "add", devices[0], "netns", machines[0].namespace, "type", "veth"),
            *("peer", "name", devices[1], "netns", machines[1].namespace),
        )
        for machine, device in zip(machines, devices, strict=True):
            inside = ("-n", machine.namespace)
            _ip(*inside, "addr", "add", f"{machine.address}/24", "dev", device)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", device, "up")
            # The reference sends multicast by the default route.
            _ip(*inside, "route", "add", "default", "dev", device)
            if not multicast:
                _ip(*inside, "link", "set", device, "multicast", "off")
                _ip(*inside, "route", "add", "prohibit", "224.0.0.0/4")
        yield machines[0], machines[1]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Running:
    """A process in a machine, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first match in a line that it says, now or within ``seconds``; fails with all that it said otherwise."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"waited in vain for {pattern!r}; it said:\n{''.join(self._said)}")
            self._said.append(line)
            match = re.search(pattern, line)
            if match is not None:
                return match

    def stop(self) -> None:
        """Closes its input, or kills it; waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(
    machine: Machine, words: Sequence[str], *, more: Mapping[str, str] | None = None, terminate: bool = True
) -> Iterator[Running]:
    """A process in a machine for as long as the context lasts. ``terminate``: by a signal, not the end of its input."""
    process = subprocess.Popen(
        machine.command(*words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(more or {})},
    )
    started = Running(process)
    try:
        yield started
    finally:
        if terminate:
            process.terminate()
        started.stop()
