"""``datfs debug``: what is in the files and on the wire, for people who build other clients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from datfs import capture
from datfs.bitfield import Bitfield
from datfs.cli.options import TargetType, absolute_target
from datfs.cli.output import json_text, path_text
from datfs.cli.sleep_dump import sleep_lines
from datfs.crypto import root_checksum, verify
from datfs.drive_pb2 import Stat as WireStat  # noqa: F401
from datfs.errors import BadMetadata, DatfsError, NotADrive, NotFound
from datfs.link import Link, discovery_key, parse_link
from datfs.local import LocalDrive, open_local
from datfs.metadata import Stat, decode_header, decode_record
from datfs.register import Register
from datfs.store import default_cache_dir
from datfs.text import show
