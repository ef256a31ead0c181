"""Messages and events for coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import anyio
import pytest

import kibo
from kibo import aio
from kibo.model import errors
from letter_boxes import Listener, Plain, Reader, Stepper

pytestmark = pytest.mark.anyio
SOON_S = 20.0


# Trio is no dependency; where it is installed the same tests run on it.
@pytest.fixture(params=["asyncio", *(["trio"] if find_spec("trio") else [])])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def main(anyio_backend: str) -> AsyncIterator[aio.Branch]:
    async with aio.branch("to be tested") as branch:
        yield branch


async def handled(receipt: Any) -> list[str]:
    return [each.state for each in await receipt.wait(timeout_s=SOON_S)]


async def test_messages_events_and_requests(main: aio.Branch) -> None:
    a, b = await main.spawn(Reader(), name="a"), await main.spawn(Listener(), name="b")
    assert await handled(await b.send_message(a, "hello")) == ["consumed"]
    assert await a.read() == ["hello"]
    assert await b.request("a", {"return": 3}, timeout_s=SOON_S) == 3
    heard: list[Any] = []

    async def hear(event: kibo.Message) -> None:
        await anyio.sleep(0)
        heard.append(event.body)

    await a.on_event("order.>", hear)
    await a.on_event("order.*.paid", lambda event: heard.append(event.event), subscription="names")
    assert await handled(await a.publish_event("order.1.paid", 1)) == ["consumed"] * 3
    assert sorted(heard, key=str) == [1, "order.1.paid"]
    assert await b.hearing() == [["order.1.paid", 1]]


async def test_a_coroutine_that_takes_too_long_is_cancelled(main: aio.Branch) -> None:
    a = await main.spawn(Plain(), name="a")
    ended: list[str] = []

    async def hear() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ended.append("cancelled")

    await a.on_message(hear, timeout_s=0.1)
    receipt = await a.send_message(a, 1)
    with anyio.fail_after(SOON_S):
        while len(ended) < 2:
            await anyio.sleep(0.01)
    (delivery,) = await receipt.deliveries()
    assert "did not return within 0.1 s" in delivery.why


async def test_forks_have_mail_of_their_own_until_they_are_committed(main: aio.Branch) -> None:
    a, b = await main.spawn(Reader(), name="a"), await main.spawn(Reader(), name="b")
    first, second = await main.fork(2)
    assert await handled(await first[a].send_message(b, "one")) == ["consumed"]
    await second.board.post("seen")
    assert [posting.body for posting in await first.board.read()] == ["seen"]
    assert await second[b].read() == []
    await first.commit()
    assert await b.read() == ["one"]
    assert [message.body for message in await main.mail.sent()] == ["one"]
    assert main.mail.presence()["b"] in ("idle", "asleep")


async def test_waiting_for_a_message_can_be_cancelled_and_takes_none(main: aio.Branch) -> None:
    a, b = await main.spawn(Plain(), name="a"), await main.spawn(Plain(), name="b")
    with anyio.move_on_after(0.05):
        await b.mail.receive(timeout_s=None)
    await a.send_message(b, 1)
    message = await b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    await b.mail.done(message)
    with pytest.raises(errors.ReplyTimedOut):
        await a.request(b, 1, timeout_s=0.05)
    assert len(await b.mail.dead()) in (0, 1)
    assert await main.mail.dead() == await b.mail.dead()


async def test_a_delegation_is_watched_and_cancelled(main: aio.Branch) -> None:
    a, b = await main.spawn(Plain(), name="a"), await main.spawn(Stepper(), name="b")
    walking = await a.delegate(b, "walk", 2)
    assert [event.kind async for event in walking.events()] == ["begun", "progress", "progress", "done"]
    sleeping = await a.delegate(b, "sleep", 60)
    with anyio.fail_after(SOON_S):
        while main.mail.presence()["b"] != "busy":
            await anyio.sleep(0.01)
    assert await sleeping.cancel()
    assert await (await a.delegate(b, "add", 1, 2)).result(SOON_S) == 3


async def test_instances_in_no_branch_send_to_each_other(anyio_backend: str) -> None:
    async with aio.spawn(Reader()) as a, aio.spawn(Reader()) as b:
        assert await handled(await a.send_message(b, "hello")) == ["consumed"]
        assert await b.read() == ["hello"]
