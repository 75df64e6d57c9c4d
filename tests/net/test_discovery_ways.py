"""What ``--discovery`` stands for."""

from __future__ import annotations

import pytest

from datfs.errors import BadLink, Unavailable
from datfs.net.discovery import dht
from datfs.net.discovery.ways import Ways, default_ways, parse_ways


@pytest.mark.parametrize(
    ("text", "names"),
    [("mdns", ("mdns",)), ("dht, mdns,dht", ("dht", "mdns")), ("mdns,dns,dht", ("mdns", "dns", "dht")), ("none", ())],
)
def test_ways_as_people_write_them(text: str, names: tuple[str, ...]) -> None:
    """Some of three words, each counted once; or none."""
    assert parse_ways(text) == names


@pytest.mark.parametrize("text", ["", "mdns,", "MDNS", "none,mdns", "bonjour"])
def test_ways_that_are_none(text: str) -> None:
    """Said so, with what is expected."""
    with pytest.raises(BadLink, match="expected some of mdns,dns,dht, or none"):
        parse_ways(text)


def test_each_server_is_a_search_of_its_own() -> None:
    """So that one that is away does not hold up the others."""
    ways = Ways(("mdns", "dns"), dns_servers=["one.example", "two.example:53"])
    assert [one.name for one in ways.discoveries(3282)] == ["mdns", "dns one.example", "dns two.example"]
    assert Ways().discoveries(3282) == []


def test_the_dht_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is left out without a word; who asks for it is told what is missing."""
    monkeypatch.setattr(dht, "is_available", lambda: False)
    assert default_ways() == ("mdns", "dns")
    with pytest.raises(Unavailable, match="libtorrent"):
        Ways(("dht",)).discoveries(None)
    monkeypatch.setattr(dht, "is_available", lambda: True)
    assert default_ways() == ("mdns", "dns", "dht")
    assert [one.name for one in Ways(("dht",)).discoveries(None)] == ["dht"]
