"""``datfs verify``: hashes again everything that is held, against the signed roots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datfs.cli.options import TargetType, absolute_target, json_option, notice
from datfs.cli.output import print_json
from datfs.errors import DatfsError
from datfs.link import Link
from datfs.local import LocalDrive, open_local
from datfs.register import AuditReport, BadChunk, Register
from datfs.store import default_cache_dir
from datfs.text import show_path, show_size

EXIT_BAD = 6
SHOWN_MOST = 20  # bad tree nodes named one by one


@dataclass(slots=True)
class Verdict:
    """What was found in one register. ``error``: why the check could not be finished."""

    name: str
    length: int = 0
    report: AuditReport = field(default_factory=AuditReport)
    error: str | None = None
    cleared: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything held is right."""
        return self.error is None and self.report.ok

    @property
    def mended(self) -> bool:
        """Whether nothing wrong is left: there was nothing, or it was cleared."""
        report = self.report
        left = self.error is not None or bool(report.bad_nodes) or not report.signature_ok
        return not left and self.cleared == len(report.bad_chunks)

    def facts(self) -> dict[str, Any]:
        """As ``docs/json.md`` has it."""
        return {
            "register": self.name,
            "ok": self.ok,
            "length": self.length,
            "chunks": self.report.chunks,
            "bytes": self.report.bytes,
            "bad_chunks": [_chunk_facts(bad) for bad in self.report.bad_chunks],
            "bad_nodes": self.report.bad_nodes,
            "signature_ok": self.report.signature_ok,
            "cleared": self.cleared,
            "error": self.error,
        }


def _chunk_facts(bad: BadChunk) -> dict[str, int]:
    return {"index": bad.index, "offset": bad.offset, "size": bad.size}


@click.command()
@click.argument("link", type=TargetType(), metavar="LINK|FOLDER")
@click.option("--repair", is_flag=True, help="Clear bad chunks, so that they are fetched again when needed.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where fetched chunks are kept.")
@json_option
def verify(link: Link | Path, repair: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Check all that is held of a drive against its signature.

    Hashes every chunk again. Needs no peer. Ends with exit code 6 if something is bad
    and --repair did not clear all of it.
    """
    if repair and not isinstance(link, Link):
        raise click.UsageError(f"{link}: a folder is never changed, so there is nothing that --repair could do in it")
    place = absolute_target(link)
    with open_local(place, cache_dir or default_cache_dir(), own=True, write=repair) as drive:
        verdicts = list(_check(drive))
        if repair:
            for verdict in verdicts:
                _clear(drive.registers.get(verdict.name), verdict)
        problems = [file.problem for file in drive.files.files if file.problem] if drive.files is not None else []
        if as_json:
            for verdict in verdicts:
                print_json(verdict.facts())
            for problem in problems:
                print_json({"register": "content", "ok": False, "error": problem})
        else:
            for verdict in verdicts:
                _show(verdict)
            for problem in problems:
                print(f"content: {problem}")
            if drive.files is not None:
                _show_edited(drive, verdicts)
        _advise(drive, verdicts)
    sys.exit(0 if all(verdict.mended for verdict in verdicts) and not problems else EXIT_BAD)


def _check(drive: LocalDrive) -> Iterator[Verdict]:
    for name, error in drive.failures.items():
        yield Verdict(name, error=str(error))
    for name, register in drive.registers.items():
        verdict = Verdict(name, register.length)
        with _progress(name, register) as advance:
            try:
                verdict.report = register.audit(advance)
            except DatfsError as error:
                verdict.error = str(error)
        yield verdict


@contextmanager
def _progress(name: str, register: Register) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; takes the bytes of each chunk."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chunks"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    if not bar.console.is_terminal:
        yield lambda size: None
        return
    with bar:
        task = bar.add_task(name, total=register.data_bits.count(0, register.length))
        yield lambda size: bar.advance(task)


def _clear(register: Register | None, verdict: Verdict) -> None:
    if register is None:
        return
    for bad in verdict.report.bad_chunks:
        register.clear(bad.index, bad.index + 1)
        verdict.cleared += 1


def _show(verdict: Verdict) -> None:
    report = verdict.report
    done = " (cleared: it will be fetched again)" if verdict.cleared else ""
    for bad in report.bad_chunks:
        print(
            f"{verdict.name}: chunk {bad.index} is bad: bytes {bad.offset} to {bad.offset + bad.size - 1}"
            f" are not those that were signed{done}"
        )
    for number in report.bad_nodes[:SHOWN_MOST]:
        print(f"{verdict.name}: tree node {number} does not follow from its children")
    if len(report.bad_nodes) > SHOWN_MOST:
        print(f"{verdict.name}: and {len(report.bad_nodes) - SHOWN_MOST} more tree nodes")
    if not report.signature_ok:
        print(f"{verdict.name}: the signature of length {verdict.length} does not verify")
    if verdict.error is not None:
        print(f"{verdict.name}: {verdict.error}")
    if verdict.error is None or report.chunks:
        wrong = len(report.bad_chunks)
        summary = "all right" if verdict.ok else f"{wrong} bad" if wrong else "not all right"
        print(
            f"{verdict.name}: {report.chunks} of {verdict.length} chunks are here"
            f" ({show_size(report.bytes)}), {summary}"
        )


def _show_edited(drive: LocalDrive, verdicts: list[Verdict]) -> None:
    """Names the files that the bad chunks of a working folder are in."""
    assert drive.files is not None
    bad = [chunk.index for verdict in verdicts if verdict.name == "content" for chunk in verdict.report.bad_chunks]
    for file in drive.files.files:
        if any(file.first <= index < file.first + file.blocks for index in bad):
            print(f"content: {show_path(file.path)} was changed after it was added to the drive")


def _advise(drive: LocalDrive, verdicts: list[Verdict]) -> None:
    if drive.files is not None or all(verdict.mended for verdict in verdicts):
        return
    damaged = any(v.error is not None or v.report.bad_nodes or not v.report.signature_ok for v in verdicts)
    if drive.read_only and not damaged and drive.cached:
        notice("--repair clears the bad chunks, so that they are fetched again")
    elif damaged and drive.cached:
        notice(f"what is wrong with the tree cannot be mended: remove {drive.folder} to fetch the drive again")


COMMANDS = (verify,)
