"""Recordings against whatever may be in their files, and what is taken out of them against a model."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import recording_files as made
from kibo.effects.decoding import CodingError, decoder
from kibo.effects.http_head import SecretValue
from kibo.effects.matching import Matching
from kibo.effects.notations import Replacing, notations, replaced, table_of
from kibo.effects.recording_file import BEGIN, Recorded, Stored
from kibo.effects.recordings import Recordings
from kibo.model.errors import KiboError, RecordingInvalid

pytestmark = pytest.mark.property


def load(data: bytes) -> Stored:
    """Reads and verifies a recording as anybody's."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        stored = Stored.read(file.fileno(), "it")
        stored.verify("it")
        return stored


BODIES = [b"one", b"two", b"asked"]
EXCHANGES = [made.exchange(1, b"/a", b"one"), made.exchange(2, b"/b", b"two", b"asked")]
WHOLE = made.packed(made.index(EXCHANGES, BODIES), BODIES)


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_whatever_bit_is_flipped_a_recording_is_refused(bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordingInvalid):
        load(bytes(damaged))


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=64))
def test_one_that_is_cut_short_or_has_something_else_at_its_end_is_refused(kept: int, more: bytes) -> None:
    if WHOLE[:kept] + more != WHOLE:
        with pytest.raises(RecordingInvalid):
            load(WHOLE[:kept] + more)


@given(st.binary(max_size=400))
def test_anything_at_all_is_no_recording_and_no_other_error(data: bytes) -> None:
    for each in (data, BEGIN + data, BEGIN + data + WHOLE[-84:]):
        with pytest.raises(RecordingInvalid):
            load(each)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def altered(draw: st.DrawFn, value: Any) -> Any:
    """Puts something else in one place of an index."""
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], altered(draw, value[at]), *value[at + 1 :]]
    return draw(anything)


@st.composite
def indexes(draw: st.DrawFn) -> Any:
    import msgspec

    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(made.index(EXCHANGES, BODIES)))
    return altered(draw, plain)


@given(indexes())
def test_an_index_with_digests_that_hold_is_read_or_refused_and_what_is_read_can_be_replayed(
    index: Any,
) -> None:
    try:
        stored = load(made.packed(index, BODIES))
    except RecordingInvalid:
        return
    matching = Matching(stored.index.exchanges)
    for each in stored.index.exchanges:
        assert isinstance(matching.take(each.question), Recorded | str)
        assert isinstance(matching.take(made.question(b"/elsewhere")), str)


@given(st.binary(max_size=200), st.text(max_size=12))
def test_whatever_is_imported_nothing_appears_outside_and_nothing_is_left_of_what_is_refused(
    data: bytes, name: str
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home, file = Path(directory) / "home", Path(directory) / "file"
        file.write_bytes(data or made.packed(made.index([], [], name)))
        try:
            called, _ = Recordings(home).receive(file)
        except KiboError:
            assert not home.exists() or not list((home / "recordings").iterdir())
        else:
            assert [path.name for path in (home / "recordings").iterdir()] == [f"{called}.recording"]
        assert sorted(path.name for path in Path(directory).iterdir()) in (["file"], ["file", "home"])


# -- what is taken out


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


few = st.text("ab/+", min_size=1, max_size=6).map(str.encode)


@given(
    st.dictionaries(few, few, min_size=1, max_size=4),
    st.lists(few, max_size=12),
    st.lists(st.integers(0, 99)),
)
def test_replacing_piece_by_piece_is_replacing_at_once(
    table: dict[bytes, bytes], words: list[bytes], places: list[int]
) -> None:
    data = b"".join(words)
    pattern = b"|".join(map(re.escape, sorted(table, key=len, reverse=True)))
    wanted = re.sub(pattern, lambda found: table[found[0]], data)
    replacing = Replacing(table)
    assert b"".join([*map(replacing.feed, cut(data, places)), replacing.end()]) == wanted


@given(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=8, max_size=40),
    st.binary(max_size=20),
    st.binary(max_size=9),
)
def test_no_notation_of_a_value_is_left(value: str, before: bytes, after: bytes) -> None:
    import base64
    import json
    import urllib.parse

    raw = value.encode()
    table = table_of([SecretValue("kibo-secret-X", value, ("shop.example",))])
    for written in (raw, urllib.parse.quote(value, safe="").encode(), json.dumps(value)[1:-1].encode()):
        assert written not in replaced(before + written + after, table) or written in b"kibo-secret-X"
    encoded = base64.b64encode(before + raw + after)
    assert replaced(encoded, table) != encoded
    assert max(map(len, notations(value))) < 40 * len(raw)


PACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"zstd": zstandard.compress,
}


@given(
    st.sampled_from([*PACKERS]),
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.integers(0, 300),
    st.lists(st.integers(0, 999)),
)
def test_what_was_packed_is_unpacked_wherever_it_is_cut(
    coding: bytes, parts: list[bytes], times: int, places: list[int]
) -> None:
    contents = [part * times for part in parts] if coding != b"deflate" else [parts[0] * times]
    packed = b"".join(map(PACKERS[coding], contents))
    unpacking = decoder(coding)
    assert unpacking is not None
    found = b"".join(piece for chunk in cut(packed, places) for piece in unpacking.feed(chunk))
    assert found == b"".join(contents)


@given(st.sampled_from([*PACKERS]), st.binary(max_size=100))
def test_what_cannot_be_unpacked_says_so(coding: bytes, data: bytes) -> None:
    unpacking = decoder(coding)
    assert unpacking is not None
    with contextlib.suppress(CodingError):
        for piece in unpacking.feed(data):
            assert len(piece) <= 1 << 23


# -- matching


@given(st.lists(st.tuples(st.sampled_from([b"/a", b"/b"]), st.sampled_from([None, b"1", b"2"])), max_size=12))
def test_what_was_recorded_is_given_in_order_when_it_is_asked_for_again(
    asked: list[tuple[bytes, bytes | None]],
) -> None:
    exchanges = [made.exchange(at, target, b"%d" % at, body) for at, (target, body) in enumerate(asked, 1)]
    matching = Matching(exchanges)
    assert [matching.take(made.question(*each)) for each in asked] == exchanges
    for each in asked:
        again = matching.take(made.question(*each))
        assert isinstance(again, str) == (each[1] is not None)
