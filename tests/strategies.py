"""Hypothesis strategies for what travels between peers."""

from __future__ import annotations

from hypothesis import strategies as st

from datfs.crypto import TreeNode
from datfs.net.messages import (
    HASH_BYTES,
    KEY_BYTES,
    MAX_NUMBER,
    MAX_WANT,
    NONCE_BYTES,
    SIGNATURE_BYTES,
    Cancel,
    Data,
    Extension,
    Feed,
    Handshake,
    Have,
    Info,
    Message,
    Request,
    Unhave,
    Unwant,
    Want,
)


def exactly(length: int) -> st.SearchStrategy[bytes]:
    """Byte strings of one length."""
    return st.binary(min_size=length, max_size=length)


numbers = st.integers(0, 300) | st.integers(0, MAX_NUMBER)
half_numbers = st.integers(0, 300) | st.integers(0, MAX_NUMBER // 2)  # the sum of two is a number too
wants = st.sampled_from([0, 8192, 2**20]) | st.integers(0, MAX_WANT)
nodes = st.builds(TreeNode, numbers, exactly(HASH_BYTES), numbers)
names = st.text(st.characters(codec="utf-8"), max_size=10)

feeds = st.builds(Feed, exactly(KEY_BYTES), st.none() | exactly(NONCE_BYTES))
handshakes = st.builds(
    Handshake,
    st.binary(max_size=40),
    st.booleans(),
    st.none() | st.binary(max_size=40),
    st.lists(names, max_size=5).map(lambda some: tuple(sorted(some))),
    st.booleans(),
)
datas = st.builds(
    Data,
    numbers,
    st.none() | st.binary(max_size=300),
    st.lists(nodes, max_size=5).map(tuple),
    st.none() | exactly(SIGNATURE_BYTES),
)
extensions = st.builds(Extension, numbers, st.binary(max_size=100))

register_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Info, st.booleans(), st.booleans()),
    st.builds(Have, half_numbers, half_numbers, st.none() | st.binary(max_size=100), st.booleans()),
    st.builds(Unhave, half_numbers, half_numbers),
    st.builds(Want, numbers, wants),
    st.builds(Unwant, numbers, numbers),
    st.builds(Request, numbers, numbers, st.booleans(), st.integers(0, 2**64 - 1)),
    st.builds(Cancel, numbers, numbers, st.booleans()),
    datas,
)
"""What may be sent on an open channel, without extensions, which need to be announced."""

messages: st.SearchStrategy[Message] = st.one_of(feeds, handshakes, extensions, register_messages)
