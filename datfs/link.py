"""dat:// links, register keys and discovery keys (spec README, register.md section 3; dat-cli.md section 9)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from datfs.errors import BadLink

KEY_BYTES = 32
_LINK = re.compile(r"(?:(?:dat:)?//)?([^/+]+)(?:\+([^/]*))?(/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Link:
    """A parsed ``dat://<key>[+version][/path]``.

    ``key``: 32 bytes. ``version``: a drive version (metadata chunk number) or None for the newest.
    ``path``: what follows the key, without slashes at the ends; empty for the root.
    """

    key: bytes
    version: int | None = None
    path: str = ""

    def __str__(self) -> str:
        version = "" if self.version is None else f"+{self.version}"
        path = f"/{self.path}" if self.path else ""
        return f"dat://{self.key.hex()}{version}{path}"


def parse_key(text: str) -> bytes:
    """The 32 bytes of a key written as 64 hex digits. Raises BadLink, naming what is wrong with it."""
    if re.fullmatch(r"[0-9a-fA-F]*", text) is None:
        raise BadLink(f"{text!r} is not a dat key: a key is 64 hexadecimal digits, 0-9 and a-f")
    if len(text) != 2 * KEY_BYTES:
        raise BadLink(f"{text!r} has {len(text)} hexadecimal digits, a dat key has 64: was it cut off?")
    return bytes.fromhex(text)


def parse_link(text: str) -> Link:
    """Parses ``dat://<64 hex>[+N][/path]``, the same without ``dat:``, and the bare key. Raises BadLink."""
    match = _LINK.fullmatch(text.strip())
    if match is None:
        raise BadLink(f"{text!r} is not a dat link: expected dat:// and 64 hexadecimal digits")
    host, version, path = match.groups()
    key = parse_key(host)
    if version is not None and re.fullmatch(r"[0-9]{1,16}", version) is None:
        raise BadLink(f"{text!r}: the version after '+' must be a whole number, not {version!r}")
    return Link(key, None if version is None else int(version), (path or "").strip("/"))


def discovery_key(key: bytes) -> bytes:
    """What may be shown to strangers: BLAKE2b-256 of ``hypercore`` keyed with the key (register.md section 3)."""
    return hashlib.blake2b(b"hypercore", digest_size=32, key=key).digest()
