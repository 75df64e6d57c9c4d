"""The status of drives as people read it. What a drive or a peer says is escaped; widths are for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datfs.text import count, ranges_text, show, show_size

Facts = dict[str, Any]
RANGES_SHOWN = 20
FILES_SHOWN = 20  # of each drive; those with the oldest waiting reads


def status_text(facts: Facts) -> str:
    """Several lines about one drive."""
    where = facts.get("mountpoint")
    lines = [facts["link"] + (f" on {_shown(where)}" if where else "")]
    if where and (part := shown_part(facts)):
        lines.append(f"  the mount shows {part}")
    owner = f"pid {facts['pid']}" if facts["pid"] is not None else "no process has it open"
    lines.append(f"  version {facts['version']}, {owner}; store: {facts['store'] or 'memory'}")
    for name, register in facts["registers"].items():
        # A mount may have been begun by an older version, which did not tell the bytes.
        bytes_held = register.get("bytes_held")
        held = f"{show_size(bytes_held)} of " if bytes_held is not None else ""
        line = f"  {name}: {register['held']} of {count(register['length'], 'chunk')} here"
        line += f", {held}{show_size(register['bytes'])}"
        wants = facts.get("wants", {}).get(name)
        if wants:
            wanted = [f"{number} {level}" for level, number in wants.items() if number and level != "in_flight"]
            if wanted:
                line += f"; wanted: {', '.join(wanted)}, {wants['in_flight']} asked for".replace("_", " ")
        lines.append(line)
    if facts["pid"] is None:
        return "\n".join(lines)
    traffic = facts["traffic"]
    limits = "".join(f", {way} limit {show_size(rate)}/s" for way, rate in facts["limits"].items() if rate)
    lines.append(
        f"  received {show_size(traffic['received'])} ({show_size(traffic['receiving'])}/s),"
        f" sent {show_size(traffic['sent'])} ({show_size(traffic['sending'])}/s){limits}"
    )
    if facts["listening"]:
        lines.append(f"  listening on {', '.join(facts['listening'])}")
    lines += [f"  looking by {way['name']}: {_shown(way['problem'])}" for way in facts["ways"] if way["problem"]]
    connected = sum(peer["connected"] is not None for peer in facts["peers"])
    lines.append(f"  {count(connected, 'peer')} connected" + (":" if facts["peers"] else ""))
    lines += [f"    {_peer_line(peer)}" for peer in facts["peers"]]
    files = facts.get("files", [])
    if files:
        lines.append(f"  {count(len(files), 'file')} open and not here whole:")
    for file in sorted(files, key=_longest_wait, reverse=True)[:FILES_SHOWN]:
        held, chunks = file["chunks_held"], file["chunks"]
        line = f"    {_shown(file['path'])}: {held} of {count(chunks, 'chunk')} here"
        if chunks:
            line += f" ({100 * held // chunks} %)"
        if file.get("bytes_held") is not None:
            line += f", {show_size(file['bytes_held'])} of {show_size(file['size'])}"
        line += f", {show_size(file.get('receiving', 0))}/s"
        for read in file["reads"]:
            line += f"\n      a read of {read['size']} bytes at {read['offset']} waits for {read['seconds']:.1f} s"
        lines.append(line)
    if len(files) > FILES_SHOWN:
        lines.append(f"    and {count(len(files) - FILES_SHOWN, 'more file')}; --json tells all")
    return "\n".join(lines)


def shown_part(facts: Facts) -> str:
    """What of its drive a mount shows, if that is not all of the newest version."""
    parts = []
    if facts.get("shown_version") not in (None, facts["version"]):
        parts.append(f"version {facts['shown_version']}")
    if facts.get("shown_path", "/") != "/":
        parts.append(f"only {_shown(facts['shown_path'])}")
    return ", ".join(parts)


def _longest_wait(file: Facts) -> float:
    return max((float(read["seconds"]) for read in file["reads"]), default=-1.0)


def statuses_text(facts: Facts) -> str:
    """The same of what one process tells, which may have several drives open."""
    if "drives" not in facts:
        return status_text(facts)
    lines = (
        [f"all drives on {_shown(facts['mountpoint'])}, {len(facts['drives'])} open"] if "mountpoint" in facts else []
    )
    lines += [f"  {_shown(facts['problem'])}"] if facts["problem"] else []
    return "\n".join([*lines, *map(status_text, facts["drives"])])


def peers_text(peers: Sequence[Facts]) -> str:
    """A line for each peer."""
    return "\n".join(f"{peer['link'][6:14]}…  {_peer_line(peer)}" for peer in peers) or "no peers are known"


def _peer_line(peer: Facts) -> str:
    parts = [f"{_shown(peer['address'])} ({peer['direction']}, {_shown(peer['source'])}) {peer['state']}"]
    traffic = peer["traffic"]
    if peer["connected"] is not None:
        parts.append(f"for {peer['connected']:.0f} s")
    if traffic["received"] or traffic["sent"]:
        parts.append(f"down {show_size(traffic['received'])} ({show_size(traffic['receiving'])}/s)")
        parts.append(f"up {show_size(traffic['sent'])} ({show_size(traffic['sending'])}/s)")
    parts += [f"has {held['chunks']} of {held['length']} {name}" for name, held in peer["holds"].items()]
    if peer["error"]:
        parts.append(_shown(peer["error"]))
    if peer["next_try"] is not None:
        parts.append(f"next try in {peer['next_try']:.0f} s")
    return ", ".join(parts)


def why_text(path: str, found: Facts) -> str:
    """What keeps a file, or the lookup of a path, in plain words."""
    lacking, missing = found["missing_chunks"], found["missing"]
    if found["register"] == "metadata":
        if not lacking and not found["hopeless"]:
            return f"{path}: what is needed to look it up is here"
        waits = f"waits for metadata: chunk {_ranges(missing)}" if lacking else "fails"
        lines = [f"{path}: looking it up {waits}"]
    elif not lacking:
        return f"{path}: {_all(found['chunks'])} here"
    else:
        lines = [f"{path}: {lacking} of {count(found['chunks'], 'chunk')} missing: {_ranges(missing)}"]
        if found["readers_wait_for"]:
            lines.append(f"  readers wait for {_ranges(found['readers_wait_for'])}")
    if found["hopeless"]:
        lines.append(f"  nobody will bring that now: {_shown(found['hopeless'])}")
    lines += [f"  {line}" for line in _failure_lines(found)]
    lines += [f"  {_holder_line(peer)}" for peer in found["peers"]]
    for peer in found["not_connected"]:
        why = f": {_shown(peer['error'])}" if peer["error"] else ""
        lines.append(f"  {_shown(peer['address'])} is not connected ({peer['state']}){why}")
    if not found["peers"] and not found["not_connected"] and not found["hopeless"]:
        lines.append("  no peer is known: name one with --peer HOST:PORT")
    lines += [f"  looking by {way['name']}: {_shown(way['problem'])}" for way in found["looking"] if way["problem"]]
    if found.get("availability") == "gone":
        lines.append("  nobody who can be asked has anything of it: of an old version, reading it fails (ENODATA)")
    elif found.get("availability") == "partly":
        lines.append("  some of what is missing is at nobody who can be asked")
    elif not found["hopeless"] and not found["readers_wait_for"]:
        lines.append("  nobody reads it now; what is missing is fetched when it is read")
    return "\n".join(lines)


def _failure_lines(found: Facts) -> list[str]:
    failure = found.get("failure")
    if not failure:
        return []
    lines = [f"failed {failure['seconds_ago']:.0f} s ago: {_shown(failure['error'])}"]
    if failure["in_vain"]:
        lines.append(f"for {failure['in_vain']:.0f} s more it fails at once, unless something comes")
    return lines


def _holder_line(peer: Facts) -> str:
    """A connected peer: what it has of what is missing, and what came of asking it."""
    parts = [f"says it has {_ranges(peer['has'])}" if peer["has"] else "has none of them"]
    if peer["asked_for"]:
        since = f" (no answer for {peer['waiting']:.0f} s)" if peer.get("waiting") else ""
        parts.append(f"asked for {_ranges(peer['asked_for'])}{since}")
    if peer.get("late"):
        parts.append(f"did not answer in time for {_ranges(peer['late'])}")
    if peer.get("error"):
        parts.append(f"was lost before: {_shown(peer['error'])}")
    return f"{_shown(peer['address'])} {', '.join(parts)}"


def _all(chunks: int) -> str:
    return "the one chunk is" if chunks == 1 else f"all {chunks} chunks are"


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    text = ranges_text(ranges[:RANGES_SHOWN])
    return f"{text}, and more" if len(ranges) > RANGES_SHOWN else text


def _shown(text: str) -> str:
    return show(text.encode("utf-8", "surrogateescape"))
