"""``datfs doctor``: what on this machine keeps datfs from working, and the fix."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
import trio

from datfs.cli.options import AddressType, json_option
from datfs.cli.output import colours, print_json
from datfs.doctor import Finding, Question, Verdict, examine
from datfs.net.discovery.ways import Ways, default_ways, parse_ways
from datfs.net.transport import Address
from datfs.store import default_cache_dir

DEFAULT_PORT = 3282
COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BAD: "red"}


@click.command()
@click.option("--discovery", envvar="DATFS_DISCOVERY", metavar="WAYS", help="Which of mdns,dns,dht to try, or none.")
@click.option("--dns-server", "dns_servers", multiple=True, metavar="HOST[:PORT]", help="A discovery server to try.")
@click.option("--dht-bootstrap", type=AddressType(6881), multiple=True, help="A node of the DHT to begin with.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="For peers.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="The place of the cache.")
@json_option
def doctor(
    discovery: str | None,
    dns_servers: tuple[str, ...],
    dht_bootstrap: tuple[Address, ...],
    port: int,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Look at what datfs needs here, and say what to do about what is missing.

    FUSE, permissions, the port for peers, multicast, discovery servers, the DHT, the disk, the clock. Takes 20 seconds
    at most, and changes nothing. Exit code 1 if something keeps datfs from working; a note is no such thing.
    """
    names = default_ways() if discovery is None else parse_ways(discovery)
    question = Question(cache_dir or default_cache_dir(), port, Ways(names, dns_servers, dht_bootstrap))
    well = trio.run(partial(examine, question, _print_json if as_json else _print))
    if not well:
        sys.exit(1)


def _print(finding: Finding) -> None:
    verdict = f"{finding.verdict.value:<4}"
    if sys.stdout.isatty() and colours():
        verdict = click.style(verdict, fg=COLOURS[finding.verdict], bold=True)
    print(f"{verdict}  {finding.subject}: {finding.text}")
    if finding.fix:
        print(f"      {finding.fix}")
    sys.stdout.flush()


def _print_json(finding: Finding) -> None:
    print_json(
        {"subject": finding.subject, "verdict": finding.verdict.value, "text": finding.text, "fix": finding.fix or None}
    )
    sys.stdout.flush()


COMMANDS = (doctor,)
