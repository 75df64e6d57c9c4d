"""The main job on an embedded sample: make a drive, serve it, mount it, read everything back, compare, unmount.

Run as ``python -m datfs.demo``. Every step is the real thing: a second process serves the drive over TCP on loopback,
the mount goes through the kernel. Where there is no ``/dev/fuse`` the same is shown with ``datfs ls`` and ``cat``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datfs.crypto import key_pair
from datfs.storage import directory_storage
from datfs.text import show_size
from datfs.writer import DriveWriter, chunks_of

BIG_BYTES = 32 * 1024 * 1024
DATFS = (sys.executable, "-m", "datfs")


def sample_files() -> dict[str, bytes]:
    """The sample: a few folders, small texts, and one file of 32 MiB."""
    rng = random.Random(2017)
    return {
        "README.md": b"# A sample drive\n\nMade by the datfs demo.\n",
        "dat.json": json.dumps({"title": "A sample drive", "description": "made by the datfs demo"}).encode(),
        "species/animalia/felis-silvestris.txt": b"the wildcat\n",
        "species/fungi/amanita-muscaria.txt": b"fly agaric\n",
        "measurements/2017/january.csv": "".join(
            f"2017-01-{day:02},{rng.uniform(-9, 5):.1f}\n" for day in range(1, 32)
        ).encode(),
        "measurements/big.bin": rng.randbytes(BIG_BYTES),
        "empty": b"",
    }


def make_sample(folder: Path) -> dict[str, str]:
    """Writes the sample drive into ``folder``; returns the SHA-256 of each file by path."""
    folder.mkdir(parents=True)
    writer = DriveWriter.create(directory_storage(folder), key_pair(hashlib.sha256(b"datfs demo").digest()))
    hashes = {}
    for number, (path, data) in enumerate(sample_files().items()):
        parts = tuple(part.encode() for part in path.split("/"))
        writer.put(parts, chunks_of(data), mtime=1_500_000_000_000 + number * 1000)
        hashes[path] = hashlib.sha256(data).hexdigest()
    writer.close()
    return hashes


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """Serves the drive from a process of its own; yields its link and address."""
    command = [*DATFS, "share", str(folder), "--listen", "127.0.0.1:0", "--json", "--discovery", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout is not None
            facts = json.loads(peer.stdout.readline())
            yield facts["link"], facts["listening"][0]
        finally:
            peer.terminate()
            peer.wait(timeout=10)


def received_bytes(mounted: Path) -> int:
    """Bytes that came over the wire for a mount, as it counts them itself."""
    return int(os.getxattr(mounted, "user.dat.bytes_received"))


def show_command(*words: str) -> None:
    """Prints a command as a person would type it."""
    print(f"\n$ {' '.join(words)}", flush=True)


def check(read: dict[str, str], made: dict[str, str]) -> None:
    """Compares hashes; ends the demo with an error if one differs."""
    for path, digest in made.items():
        if read.get(path) != digest:
            sys.exit(f"demo: {path} does not have the bytes that were written")
    print(f"All {len(made)} files read back with the SHA-256 they were written with.")


def with_mount(link: str, address: str, work: Path, made: dict[str, str]) -> None:
    """Mounts the drive and reads it through the kernel."""
    mountpoint = work / "mnt"
    mountpoint.mkdir()
    options = ["--peer", address, "--cache-dir", str(work / "cache")]
    show_command("datfs mount", link, "mnt", "--peer", address)
    started = time.monotonic()
    subprocess.run([*DATFS, "mount", link, str(mountpoint), *options], check=True)
    try:
        print(f"mounted after {time.monotonic() - started:.2f} s, {show_size(received_bytes(mountpoint))} received")
        show_command("ls -lR mnt")
        subprocess.run(["ls", "-lR", "."], cwd=mountpoint, check=True)
        print(f"\n(so far {show_size(received_bytes(mountpoint))} came over the wire)")
        show_command("cat mnt/species/animalia/felis-silvestris.txt")
        subprocess.run(["cat", "species/animalia/felis-silvestris.txt"], cwd=mountpoint, check=True)
        show_command("sha256sum of every file in mnt")
        started = time.monotonic()
        read = {path: hashlib.sha256((mountpoint / path).read_bytes()).hexdigest() for path in made}
        seconds = time.monotonic() - started
        check(read, made)
        received = received_bytes(mountpoint)
        print(
            f"{show_size(received)} came over the wire, each chunk checked against the signed tree ({seconds:.2f} s)."
        )
    finally:
        show_command("datfs umount mnt")
        subprocess.run([*DATFS, "umount", str(mountpoint)], check=True)


def without_mount(link: str, address: str, work: Path, made: dict[str, str]) -> None:
    """The same through ``datfs ls`` and ``datfs cat``."""
    options = ["--peer", address, "--cache-dir", str(work / "cache")]
    show_command("datfs ls -lR", link, "--peer", address)
    subprocess.run([*DATFS, "ls", "-lR", link, *options], check=True)
    read = {}
    for path in made:
        show_command("datfs cat", link, path, "| sha256sum")
        data = subprocess.run([*DATFS, "cat", link, path, *options], check=True, capture_output=True).stdout
        read[path] = hashlib.sha256(data).hexdigest()
        print(read[path])
    check(read, made)


def cannot_mount() -> str | None:
    """Why this machine cannot mount; None if it can."""
    if not os.path.exists("/dev/fuse"):
        return "this machine has no /dev/fuse"
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed (pip install 'datfs[fuse]')"
    return None


def main() -> None:
    """Runs the demo in a temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="datfs-demo-") as temporary:
        work = Path(temporary)
        print(f"Making a sample drive in {work / 'sample'} ...", flush=True)
        made = make_sample(work / "sample")
        with served(work / "sample") as (link, address):
            print(f"A peer process serves {link} on {address}.")
            reason = cannot_mount()
            if reason is None:
                with_mount(link, address, work, made)
            else:
                print(f"No mount: {reason}. The same without it:")
                without_mount(link, address, work, made)
    print("\nDone; everything that was made has been removed.")


if __name__ == "__main__":
    main()
