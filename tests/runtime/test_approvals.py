"""What boxes ask of a person, with unchanged programs in them: they wait, and happen when one has said so."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
from kibo import Allow, aio
from kibo.effects.records import Effect
from kibo.model.errors import ActionRaised, EffectUnknown, WrongState
from patience import eventually
from payer_boxes import Payer
from running_till import Till

pytestmark = pytest.mark.runtime


@pytest.fixture(scope="module")
def payer(till: Till) -> type[Payer]:
    class Careful(Payer):
        """Pays at the shop what a person approves."""

        egress = [Allow("shop.example", to=till.address, approve=True)]

    return Careful


def asked(branch: kibo.Branch) -> Effect:
    """Waits until something of a branch waits for a person."""
    eventually(lambda: any(effect.waits_for_person for effect in branch.effects()))
    return next(effect for effect in branch.effects() if effect.waits_for_person)


def refusal(call: Future[Any]) -> str:
    error = call.exception(20)
    assert isinstance(error, ActionRaised)
    return str(error)


def test_in_a_root_a_call_waits_for_a_person_who_approves_or_refuses_what_it_asks(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    paying = calls.submit(box.pay)
    effect = asked(main)
    assert (effect.state, effect.approve_within_s) == ("asking", 3600.0)
    assert shop.paid == []
    with pytest.raises(WrongState, match="another digest"):
        kibo.approve(effect.id, digest="0" * 64)
    assert kibo.approve(effect.id, digest=effect.digest).state == "released"
    assert paying.result(20) == "receipt 1 for /pay"
    paying = calls.submit(box.pay)
    assert kibo.deny(asked(main).id, why="too dear").state == "dropped"
    assert "HTTP Error 403" in refusal(paying)
    assert [each.state for each in main.effects()] == ["done", "dropped"]
    assert shop.paid == ["/pay"]
    with pytest.raises(EffectUnknown):
        kibo.deny("eff_unknown")


def test_outside_of_branches_a_call_waits_too(
    payer: type[Payer], shop: Till, calls: ThreadPoolExecutor, main: kibo.Branch
) -> None:
    with payer().spawn() as box:
        paying = calls.submit(box.pay)
        ledger = kibo.wiring.runtime().records().ledger
        eventually(lambda: any(each.instance == box.id for each in ledger.listed()))
        (effect,) = (each for each in ledger.listed() if each.instance == box.id)
        kibo.approve(effect.id, digest=effect.digest)
        assert paying.result(20) == "receipt 1 for /pay"


def test_a_commit_is_done_and_says_what_waits_for_a_person_who_may_also_have_been_there_before(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    for before in (True, False):
        (fork,) = main.fork()
        paying = calls.submit(fork[box].pay)
        eventually(fork.waits_at_boundary)
        effect = asked(fork)
        if before:
            assert kibo.approve(effect.id, digest=effect.digest).state == "held"
        done = fork.commit()
        assert fork.status == "committed"
        assert [each.state for each in done.effects] == ["done" if before else "asking"]
        if not before:
            assert [each.state for each in main.effects()] == ["done", "asking"]
            kibo.approve(effect.id, digest=effect.digest)
        assert paying.result(20) == f"receipt {2 - before} for /pay"


def test_coroutines_approve_and_refuse(payer: type[Payer], shop: Till) -> None:
    async def program() -> None:
        async with aio.branch() as main, anyio.create_task_group() as tasks:
            box = await main.spawn(payer())
            for yes in (True, False):
                tasks.start_soon(pay, box, yes)
                while not (found := [each for each in await main.effects() if each.waits_for_person]):
                    await anyio.sleep(0.01)
                if yes:
                    await aio.approve(found[0].id, digest=found[0].digest)
                else:
                    await aio.deny(found[0].id)
                while (await main.effects())[-1].state not in ("done", "dropped"):
                    await anyio.sleep(0.01)
            assert [each.state for each in await main.effects()] == ["done", "dropped"]

    async def pay(box: Any, yes: bool) -> None:
        if yes:
            await box.pay()
        else:
            with pytest.raises(ActionRaised):
                await box.pay()

    anyio.run(program)
    assert shop.paid == ["/pay"]


def test_a_box_sees_neither_the_ledger_nor_a_bell(
    main: kibo.Branch, payer: type[Payer], home: Path, shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    paying = calls.submit(box.pay)
    effect = asked(main)
    assert list((home / "gateways").glob("*.bell"))
    seen = box.exec(
        f"ls -d {home}/history.db {home}/gateways; find / -name '*.bell' 2>/dev/null; true"
    ).stdout
    assert seen == ""
    kibo.deny(effect.id)
    refusal(paying)
