"""Runs: actions that are done under a policy, in a branch of their own, whatever goes wrong on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
import leftovers
from kibo import Abandon, Allow, Budget, Fork, Policy, Retry, aio, wiring
from kibo.model.errors import (
    InvalidArguments,
    RunCancelled,
    RunFailed,
    RunInvalid,
    RunRepeated,
    RunUnfinished,
    RunUnknown,
    UnknownAction,
    WrongState,
)
from kibo.wiring.run_branches import branch_of
from patience import eventually
from run_boxes import Clerk, Receipt, Worker
from running_till import Till

pytestmark = pytest.mark.runtime

AT_ONCE = Retry(1, backoff_s=0)


@pytest.fixture(scope="module")
def clerk(till: Till) -> Clerk:
    class Paying(Clerk):
        """Pays at the shop of this test."""

        egress = [Allow("shop.example", to=till.address)]

    return Paying()


def kinds(run: kibo.Run) -> list[str]:
    return [each.kind for each in run.events()]


def effects_of(run: kibo.Run) -> list[tuple[str, str]]:
    records = wiring.runtime().records()
    below = {each.id for each in records.history.tree(branch_of(run.id))}
    return [
        (each.method, each.state) for each in records.ledger.listed() if {each.branch, each.origin} & below
    ]


def test_a_run_comes_to_what_its_action_returns_and_tells_how_it_went():
    run = kibo.submit(Worker(times=3), "double", 7, name="twice", priority=2)
    assert run.result(30) == Receipt("42", [])
    assert run.status == "done"
    assert kinds(run) == ["submit", "place", "begin", "commit", "succeed"]
    assert [each.kind for each in run.events(follow=True)] == kinds(run)
    assert run.record().request.name == "twice"


def test_what_a_run_leaves_is_in_its_branch():
    run = kibo.submit(Worker(), "double", 4)
    run.result(30)
    with kibo.checkout(branch_of(run.id), Worker()) as branch:
        (worker,) = branch.instances.values()
        assert worker.files.read("number") == b"4"


def test_a_payment_is_made_once_by_the_attempt_that_succeeds(clerk: Clerk, shop: Till):
    run = kibo.submit(clerk, "pay", "/one")
    assert run.result(30) == Receipt("receipt 1 for /one", [])
    assert shop.paid == ["/one"]
    assert effects_of(run) == [("CALL", "done"), ("POST", "done")]
    assert [each.phase for each in run.timeline().spans] == [
        "queued",
        "starting",
        "running",
        "held",
        "running",
    ]
    assert [each.what for each in run.timeline().marks] == ["commit", "succeed"]
    assert run.explain().verdict == "ended"


@pytest.mark.parametrize("fail", ["exit", "no card"])
def test_what_a_failed_attempt_did_is_seen_nowhere(clerk: Clerk, shop: Till, fail: str):
    run = kibo.submit(clerk, "pay", "/never", policy=Policy(retry=AT_ONCE), fail=fail)
    with pytest.raises(RunFailed) as failed:
        run.result(30)
    assert failed.value.details["failure"] == ("action.exited" if fail == "exit" else "action.raised")
    assert kinds(run).count("place") == 2
    assert shop.paid == []
    with kibo.checkout(branch_of(run.id)) as branch:
        assert branch.instances == {}


def test_a_run_that_fails_goes_on_as_several_and_the_first_that_succeeds_counts():
    policy = Policy(on_failure=Fork(n=2, vary=("right", "left")) | Abandon())
    run = kibo.submit(Worker(), "choose", policy=policy, budget=Budget(branches=4))
    assert run.result(30) == "went left"
    forks = [each for each in kibo.runs() if each.record().parent == run.id]
    eventually(lambda: all(each.record().ended for each in forks))
    assert [each.status for each in forks].count("done") == 1
    assert len(forks) == 2


def test_a_run_that_takes_too_long_is_ended_and_fails_by_its_policy():
    run = kibo.submit(Worker(), "work", policy=Policy(timeout_s=0.2))
    with pytest.raises(RunFailed) as failed:
        run.result(30)
    assert failed.value.details["failure"] == "run.action_timeout"


def test_a_cancelled_run_is_over_with_all_that_runs_of_it():
    kibo.submit(Worker(), "double", 1).result(30)  # its state stays
    before = set(leftovers.descendants(os.getpid()))
    run = kibo.submit(Worker(), "work")
    part = kibo.submit(Worker(), "work", parent=run)
    eventually(lambda: (run.status, part.status) == ("running", "running"))
    assert set(leftovers.descendants(os.getpid())) - before  # of which some may just have ended
    assert run.cancel()
    for each in (run, part):
        with pytest.raises(RunCancelled):
            each.result(10)
    # A fork of its state may wait for a moment for whoever asks next.
    eventually(lambda: set(leftovers.descendants(os.getpid())) <= before)
    assert not run.cancel()
    assert run.status == "cancelled"


def test_what_a_cancelled_run_waited_to_ask_for_is_never_sent(till: Till, shop: Till):
    class Asking(Clerk):
        """Pays once a person has said so."""

        egress = [Allow("shop.example", to=till.address, approve=True)]

    run = kibo.submit(Asking(), "pay", "/asked")
    eventually(lambda: run.status == "running")
    eventually(lambda: ("POST", "asking") in effects_of(run))
    (asking,) = [each for each in kibo.explain(run).reasons if each.what == "asking"]
    assert "kibo approve" in asking.detail
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(10)
    eventually(lambda: ("POST", "asking") not in effects_of(run))
    assert ("POST", "done") not in effects_of(run)
    assert shop.paid == []


def test_a_run_comes_after_others_and_not_where_one_has_failed():
    first = kibo.submit(Worker(), "double", 1)
    wrong = kibo.submit(Worker(), "choose")
    then = kibo.submit(Worker(), "double", 2, after=[first])
    never = kibo.submit(Worker(), "double", 3, after=[first, wrong])
    assert then.result(30) == Receipt("4", [])
    with pytest.raises(RunFailed) as failed:
        never.result(30)
    assert failed.value.details["failure"] == "run.dependency_failed"
    assert kinds(never) == ["submit", "fail"]


def test_a_run_says_where_it_is_and_what_keeps_it():
    one = kibo.submit(Worker(), "work", limits={"seat": 1})
    two = kibo.submit(Worker(), "work", limits={"seat": 1}, name="second")
    then = kibo.submit(Worker(), "double", 2, after=[two])
    eventually(lambda: one.status == "running")
    here = one.explain()
    assert (here.verdict, here.state) == ("here", "running")
    assert {each.what for each in here.reasons} == {"free", "near"}
    assert here.then == "is stopped, if its action has not returned by then"
    (kept,) = kibo.explain(two.id[:16]).reasons
    assert (kept.what, kept.about) == ("limit", "seat")
    assert one.id in kept.detail
    assert [(each.what, each.about) for each in then.explain().reasons] == [("after", two.id)]
    two.cancel()
    one.cancel()
    with pytest.raises(RunUnknown):
        kibo.explain("run_" + "0" * 24)


def test_the_same_key_is_the_same_run():
    run = kibo.submit(Worker(), "double", 5, key="five")
    assert kibo.submit(Worker(), "double", 5, key="five").id == run.id
    with pytest.raises(RunRepeated):
        kibo.submit(Worker(), "double", 6, key="five")
    assert run.result(30) == Receipt("10", [])


def test_runs_are_found_and_listed():
    run = kibo.submit(Worker(), "double", 1, tenant="somebody")
    assert [each.id for each in kibo.runs(tenant="somebody")] == [run.id]
    run.result(30)
    assert kibo.runs(tenant="somebody", ended=False) == []
    found = kibo.get_run(run.id[:20])
    assert (found.id, found.result()) == (run.id, Receipt("2", []))
    for ref in ("run_", "run_zz", "run_" + "0" * 24, "nothing"):
        with pytest.raises(RunUnknown):
            kibo.get_run(ref)


def test_waiting_ends_without_the_run():
    run = kibo.submit(Worker(), "work")
    with pytest.raises(RunUnfinished):
        run.result(0.01)
    assert run.cancel()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (UnknownAction, ("nap", [], {})),
        (InvalidArguments, ("double", ["seven"], {})),
        (InvalidArguments, ("double", [], {"nombre": 7})),
        (RunInvalid, ("count", [], {})),
        (RunInvalid, ("double", [1], {"policy": Policy(on_failure=Fork(n=1, vary=("left",)))})),
        (RunInvalid, ("double", [1], {"budget": Budget(tokens=5)})),
        (RunInvalid, ("choose", ["x" * (1 << 20)], {})),
        (RunInvalid, ("double", [1], {"priority": 1000})),
        (RunUnknown, ("double", [1], {"after": ["run_" + "0" * 24]})),
        (RunUnknown, ("double", [1], {"parent": "run_" + "0" * 24})),
    ],
)
def test_what_cannot_be_a_run_is_refused_at_once(error: type[Exception], call: tuple[str, Any, Any]):
    action, args, kwargs = call
    before = [each.id for each in kibo.runs(most=10_000)]
    with pytest.raises(error):
        kibo.submit(Worker(), action, *args, **kwargs)
    assert [each.id for each in kibo.runs(most=10_000)] == before


def test_runs_of_coroutines():
    async def main() -> None:
        run = await aio.submit(Worker(), "double", 21)
        assert await run.result(30) == Receipt("42", [])
        assert await run.status() == "done"
        assert [each.kind for each in await run.events()][-1] == "succeed"
        assert (await run.timeline()).state == "done"
        assert (await run.explain()).state == (await aio.explain(run)).state == "done"
        found = await aio.get_run(run.id)
        assert await found.result() == Receipt("42", [])
        assert run.id in [each.id for each in await aio.runs()]
        other = await aio.submit(Worker(), "work")
        with anyio.move_on_after(0.05) as scope:
            await other.result()
        assert scope.cancelled_caught
        assert await other.cancel()

    anyio.run(main)


SCRIPT = '''
import sys, kibo

class Adder(kibo.Box):
    """Adds."""
    step: int = {step}  # no two tests have one definition

    @kibo.action
    def add(self, number: int) -> int:
        """Add."""
        return number + self.step

if __name__ == "__main__":
    from kibo.wiring.runs import submit_call
    print(submit_call(Adder(), "add", [int(sys.argv[1])], {{}}, carry=False).id)
'''


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "adder_script.py"
    yield path
    sys.modules.pop("adder_script", None)


def submitted(script: Path, step: int, number: int, before: str = "") -> kibo.Run:
    wiring.runtime().scheduling().close()  # until somebody waits for the run
    script.write_text(before + SCRIPT.format(step=step))
    done = subprocess.run(
        [sys.executable, script, str(number)], capture_output=True, text=True, check=True, timeout=60
    )
    return kibo.get_run(done.stdout.strip())


def test_a_run_of_a_script_that_has_ended_is_carried_out_by_another_process(script: Path):
    assert submitted(script, 2, 40).result(30) == 42


def test_runs_of_one_module_that_is_slow_to_import_all_find_their_definition(script: Path):
    runs = [submitted(script, 6, number, "import time; time.sleep(0.2)") for number in (1, 2)]
    assert [each.result(30) for each in runs] == [7, 8]


def test_a_run_whose_definition_is_another_by_now_is_not_done(script: Path):
    run = submitted(script, 3, 1)
    script.write_text(SCRIPT.format(step=4))
    with pytest.raises(RunFailed) as failed:
        run.result(30)
    assert failed.value.details["failure"] == "run.definition"


def test_a_script_that_submits_where_it_is_imported_is_told_so(script: Path):
    run = submitted(script, 5, 1)
    script.write_text(SCRIPT.format(step=5) + "\nkibo.submit(Adder(), 'add', 5)\n")
    before = len(kibo.runs(most=10_000))
    with pytest.raises(RunFailed) as failed:
        run.result(30)
    assert "submitted while" in str(failed.value)
    assert len(kibo.runs(most=10_000)) == before


def test_nobody_is_asked_who_was_not():
    run = kibo.submit(Worker(), "double", 1)
    run.result(30)
    with pytest.raises(WrongState):
        run.answer("retry", person="ada")


def test_a_person_has_a_run_tried_again_or_given_up():
    run = kibo.submit(Worker(), "choose", policy=Policy(on_failure=kibo.AskPerson("Which way?")))
    eventually(lambda: run.status == "asking")
    run.answer("retry", person="ada")
    eventually(lambda: kinds(run).count("place") == 2 and run.status == "asking")
    run.answer("abandon", person="ada")
    with pytest.raises(RunFailed):
        run.result(10)
    assert run.status == "abandoned"
