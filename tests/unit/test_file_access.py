"""Conversations with file servers: how they end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.fileaccess import FileAccess
from kibo.runtime.files import FileStream
from kibo.runtime.handle import Handle
from kibo.runtime.waiting import Blocking, run
from patience import eventually


def test_ended_under_one_who_waits_on_it_the_descriptor_is_closed_only_once_he_is_gone() -> None:
    channel, theirs = Channel.pair()
    access = FileAccess(cast(Handle, SimpleNamespace(waiting=Blocking())))
    access._stream = FileStream(channel)
    caught: list[str] = []

    def wait() -> None:
        try:
            run(channel.receive(Blocking()))
        except wire.Closed:
            caught.append("closed")

    waiter = threading.Thread(target=wait)
    waiter.start()
    eventually(lambda: channel._users == 1)
    access.hang_up()
    waiter.join(20)
    assert len(caught) == 1
    assert channel.sock.fileno() < 0
    assert access._stream is None
    theirs.close()
