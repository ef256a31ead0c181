"""Calls out of boxes, as the warden hands them over: what many boxes do keeps no other from being answered."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import pytest

from kibo import Box
from kibo.box.plan import plan
from kibo.model.limits import CALLS_FOR_SURE, MAX_CALLS_AT_ONCE, MAX_CALLS_OF_ALL
from kibo.runtime import wire
from kibo.runtime.answering import Answering, Verb
from kibo.runtime.orders import Orders


class Nothing(msgspec.Struct):
    pass


class Face:
    """An instance as its user holds it."""


class Warden(Orders):
    """Takes the one order there is, and hands calls over."""

    def order(
        self, name: str, arguments: dict[str, Any], descriptors: list[int] | tuple[int, ...] = ()
    ) -> None:
        assert name == "doorways"
        self._socket = socket.socket(fileno=socket.dup(descriptors[0]))

    def call(self, box: str, verb: str) -> socket.socket:
        """Calls as a box does. Returns its end."""
        inside, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        inside.settimeout(30)
        with handed:
            inside.sendall(wire.pack([verb, {}]))  # before it is refused, where it is one too many
            wire.send_command(self._socket, ["call", box], [handed.fileno()])
        return inside

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def open_calls() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Lets this process open no files for the time of a block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def said(sock: socket.socket) -> list[Any]:
    length = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "little")
    answer: list[Any] = msgspec.msgpack.decode(sock.recv(length, socket.MSG_WAITALL))
    return answer


def test_boxes_that_have_all_calls_under_way_keep_no_other_from_two(open_calls: ExitStack) -> None:
    go_on, waiting = threading.Event(), threading.Semaphore(0)

    def wait(_caller: Any, _asked: Nothing) -> None:
        waiting.release()
        assert go_on.wait(60)

    verbs = {
        "wait": Verb(Nothing, None, wait),
        "who": Verb(Nothing, None, lambda caller, _asked: caller.id),
    }
    warden = Warden()
    answering = Answering(warden, verbs)
    open_calls.callback(warden.close)
    open_calls.callback(go_on.set)
    hostile = [f"hostile{number}" for number in range(MAX_CALLS_OF_ALL // MAX_CALLS_AT_ONCE)]
    faces = [Face() for _ in range(len(hostile) + 1)]
    for face, box in zip(faces, [*hostile, "honest"], strict=True):
        answering.admit(face, box, plan(Box()), asks=lambda work: work)

    for box in hostile:
        for _ in range(MAX_CALLS_AT_ONCE):
            open_calls.enter_context(warden.call(box, "wait"))
    for _ in range(MAX_CALLS_OF_ALL):
        assert waiting.acquire(timeout=60)

    for _ in range(CALLS_FOR_SURE - 1):
        open_calls.enter_context(warden.call("honest", "wait"))
        assert waiting.acquire(timeout=60)
    with warden.call("honest", "who") as sock:
        assert said(sock) == ["ok", "honest"]
    with warden.call(hostile[0], "who") as sock:
        kind, told = said(sock)
        assert (kind, told["code"]) == ("error", "limit")


def test_a_moment_without_descriptors_ends_the_calls_of_that_moment_alone(open_calls: ExitStack) -> None:
    warden = Warden()
    answering = Answering(warden, {"who": Verb(Nothing, None, lambda caller, _asked: caller.id)})
    open_calls.callback(warden.close)
    answering.admit(face := Face(), "box", plan(Box()), asks=lambda work: work)
    inside, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    inside.settimeout(30)
    with inside, handed, no_more_descriptors():
        wire.send_command(warden._socket, ["call", "box"], [handed.fileno()])
        handed.close()
        assert inside.recv(1) == b""
    with warden.call("box", "who") as sock:
        assert said(sock) == ["ok", "box"]
    assert face
