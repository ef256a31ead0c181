"""Values of secrets taken out of streams and of frames, however these are cut."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kibo.effects.http_head import SecretValue
from kibo.effects.notations import Overwriting, Replacing
from kibo.effects.websocket import FilledFrames, Frames
from web_socket_frames import frame, unframed

VALUE = b's3cret/v4lue+of "it"'
PLACE = b"kibo-secret-TOKEN"


@pytest.mark.parametrize("sent", [False, True])
@given(seed=st.integers(0, 1 << 32))
def test_however_messages_are_framed_and_cut_they_leave_with_values_and_arrive_without(
    sent: bool, seed: int
) -> None:
    find = PLACE if sent else VALUE
    dice = random.Random(seed)
    wanted, said = [], b""
    for _ in range(dice.randint(1, 4)):
        kind, size = dice.choice((1, 2)), dice.choice((0, 3, 200, 70_000))
        begins = dice.choice((b"", b"-", b" ["))
        message = begins + b"-" * size + find * dice.randint(0, 2) + b"-" * dice.randint(0, 3)
        cuts = sorted(dice.randint(0, len(message)) for _ in range(dice.randint(0, 3)))
        parts = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        for at, part in enumerate(parts):
            mask = dice.randbytes(4) if sent else b""
            said += frame((0x80 if at == len(parts) - 1 else 0) | (0 if at else kind), part, mask)
        written = PLACE
        if sent:
            json = parts[0].lstrip()[:1] == b"["
            written = PLACE if kind == 2 else VALUE.replace(b'"', b'\\"') if json else VALUE
        wanted.append((kind, message.replace(find, written)))
    secret = SecretValue(PLACE.decode(), VALUE.decode(), ("shop.example",))
    frames, got, at = FilledFrames([secret]) if sent else Frames({VALUE: PLACE}), b"", 0
    while at < len(said):
        step = dice.choice((1, 7, 1000, 65536, len(said)))
        got += b"".join(frames.feed(said[at : at + step]))
        at += step
    assert unframed(got) == wanted


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    st.text("abc", max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_a_stream_is_replaced_alike_however_it_is_cut(
    notations: list[str], text: str, places: list[int]
) -> None:
    table = {each.encode(): b"<%d>" % number for number, each in enumerate(notations)}
    data = text.encode()
    longest_first = b"|".join(sorted(table, key=len, reverse=True))
    wanted = re.sub(longest_first, lambda found: table[found[0]], data)
    replacing, got = Replacing(table), b""
    cuts = sorted(min(place, len(data)) for place in places)
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        got += replacing.feed(data[begin:end])
    assert got + replacing.end() == wanted


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    st.text("abc", max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 40),
)
def test_what_keeps_its_length_is_overwritten_alike_however_it_is_cut_and_wherever_reading_begins(
    notations: list[str], text: str, places: list[int], start: int
) -> None:
    data = text.encode()
    covered = {
        at + inside
        for each in notations
        for at in range(len(text))
        if text.startswith(each, at)
        for inside in range(len(each))
    }
    wanted = bytes(b"*"[0] if at in covered else byte for at, byte in enumerate(data))
    table = {each.encode(): PLACE for each in notations}
    overwriting, got = Overwriting(table), b""
    cuts = sorted(min(place, len(data)) for place in places)
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        got += overwriting.feed(data[begin:end])
    assert got + overwriting.end() == wanted
    context = max(map(len, notations)) - 1
    later = Overwriting(table)
    from_there = later.feed(data[start:]) + later.end()
    assert from_there[context:] == wanted[start:][context:]
