"""Calls out of boxes: what `me` and `kibo-box` do, for whom, and what is left of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import msgspec
import pytest
from examples.planner import demo

import kibo
from caller_boxes import Asking, Deaf, Planner, Worker
from kibo import MaySpawn, Quota, aio, me
from kibo.branch.branch import Branch
from kibo.model.errors import ActionRaised, InstanceEnded, WrongState, error_of
from kibo.runtime.attached import list_cells
from kibo.runtime.layers.home import state_home
from kibo.wiring.callouts import verbs
from letter_boxes import Listener, Reader
from patience import eventually


@pytest.fixture
def planner() -> Iterator[Any]:
    with Planner().spawn() as box:
        yield box


def instances() -> set[str]:
    """The instances that run now, by their ids."""
    return {cell.id for cell in list_cells(state_home()) if cell.id.startswith("inst_")}


def alone(box: Any) -> set[str]:
    """The same once one box is the only one: what a test before this has left to its end may still be ending."""
    eventually(lambda: instances() == {box.id})
    return instances()


def test_a_box_is_told_what_it_is(main: Branch) -> None:
    box = main.spawn(Planner(), name="boss")
    told = box.ask("who", {})
    assert told["id"] == box.id
    assert told["name"] == "boss"
    assert told["branch"] == {"id": main.id, "name": "main", "goal": "to be tested"}
    assert told["may_spawn"] == ["Worker", "hundred"]
    assert box.run("result = [me.id, me.branch.id, me.branch.goal]") == [box.id, main.id, "to be tested"]


def test_outside_of_a_box_and_without_a_right_there_is_nobody_to_ask() -> None:
    with pytest.raises(WrongState, match="no box"):
        me.progress(1)
    with Deaf().spawn() as box:
        code, hint = box.try_me()
        assert code == "policy.denied"
        assert "rights" in hint
        assert box.exec("command -v kibo-box").returncode != 0
        assert box.exec("/opt/kibo/bin/kibo-box me").returncode == 77


def test_a_box_that_may_talk_may_not_do_more() -> None:
    with Asking().spawn() as box:
        for verb, arguments in (("spawn", {"box": "Worker"}), ("begin", {}), ("fork", {}), ("commit", {})):
            code, _, hint = box.try_to_ask(verb, arguments)
            assert code == "policy.denied"
            assert "rights" in hint


def test_progress_is_seen_by_whoever_holds_the_instance(planner: Any) -> None:
    assert planner.progress is None
    planner.run("me.progress({'done': 3, 'of': 8})")
    assert planner.progress == {"done": 3, "of": 8}
    code, _, _ = planner.try_to_ask("progress", {"value": "x" * 20_000})
    assert code == "input.invalid"


def test_code_in_a_box_sends_mail_within_its_branch(main: Branch) -> None:
    box, reader = main.spawn(Asking(), name="box"), main.spawn(Reader(), name="reader")
    listener = main.spawn(Listener())
    sent = box.run("result = me.send_message('reader', {'a': 1}, key='once')")
    assert box.run("result = me.send_message('reader', {'a': 1}, key='once')") == sent
    assert box.run("result = me.request('reader', {'return': 7})") == 7
    assert reader.read() == [{"a": 1}]
    box.run("me.publish_event('bell')")
    eventually(lambda: listener.hearing() == ["bell"])
    assert (
        box.exec("""kibo-box call send --json '{"to": "reader", "body": "by a program"}'""").returncode == 0
    )
    eventually(lambda: reader.read() == [{"a": 1}, "by a program"])
    (fork,) = main.fork()
    fork[box].run("me.send_message('reader', 'in the fork')")
    eventually(lambda: fork[reader].read() == [{"a": 1}, "by a program", "in the fork"])
    fork.abort()
    assert reader.read() == [{"a": 1}, "by a program"]
    assert box.try_to_ask("send", {"to": "nobody", "body": 1})[0] == "instance.unknown"
    assert box.try_to_ask("send", {"to": "reader", "body": 1, "sender": "reader"})[0] == "input.invalid"


def test_what_a_box_spawns_is_called_like_any_other_and_is_gone_when_it_is_left(planner: Any) -> None:
    before = alone(planner)
    found = planner.run(
        "with me.spawn('Worker', start=5) as w:\n"
        "    result = [w.add(2), w.add(n=1), list(w.up_to(3)), w.keep(b'\\0\\xff'), w.exec('echo hi')['stdout']]"
    )
    assert found == [7, 8, [0, 1, 2], b"\0\xff", "hi\n"]
    assert instances() == before


def test_a_class_or_a_box_stands_for_its_name_and_its_parameters(planner: Any) -> None:
    found = planner.name_by_class()
    assert found == [4, 5, 101]
    code, message, _ = planner.try_to_ask("spawn", {"box": "hundred", "parameters": {"start": 1}})
    assert code == "input.invalid"
    assert "takes none" in message


def test_errors_come_back_as_what_they_are(planner: Any) -> None:
    found = planner.run(
        "w = me.spawn('Worker')\nresult = []\n"
        "for act in (w.fail, w.nothing, lambda: w.add('x'), w.leave, w.add):\n"
        "    try:\n        act()\n"
        "    except kibo.KiboError as error:\n        result.append(error.code)"
    )
    assert found == ["action.raised", "action.unknown", "action.arguments", "action.exited", "instance.ended"]
    with pytest.raises(ActionRaised, match="not today"):
        planner.run("me.spawn('Worker').fail()")


def test_what_a_box_has_spawned_ends_with_it(planner: Any) -> None:
    before = alone(planner)
    with Planner().spawn() as other:
        other.run("self.kept = me.spawn('Worker')")
        assert len(instances()) == len(before) + 2
    eventually(lambda: instances() == before)
    other = Planner().spawn()
    other.run("self.kept = me.spawn('Worker')")
    with pytest.raises(kibo.KiboError):
        other.run("import os; os._exit(1)")
    eventually(lambda: instances() == before)


def test_a_fork_has_a_doorway_of_its_own_and_nothing_of_what_its_origin_spawned(planner: Any) -> None:
    planner.run("self.kept = me.spawn('Worker', start=5); self.kept.add()")
    fork = planner.fork()[0]
    with fork:
        assert fork.ask("who", {})["id"] == fork.id
        assert planner.ask("who", {})["id"] == planner.id
        code = fork.run("try:\n    self.kept.add()\nexcept kibo.KiboError as error:\n    result = error.code")
        assert code == "missing"
        assert planner.run("result = self.kept.add()") == 7
        assert fork.draw() != planner.draw()


def test_a_box_that_was_forked_and_committed_calls_as_what_its_parent_has_become(main: Branch) -> None:
    box = main.spawn(Planner())
    box.run("self.kept = me.spawn('Worker')")
    (fork,) = main.fork(1)
    fork[box].run("self.kept = me.spawn('Worker', start=40); me.progress('in the fork')")
    child = fork[box].id
    fork.commit()
    assert box.id == child
    assert box.progress == "in the fork"
    told = box.ask("who", {})
    assert told["branch"]["id"] == main.id
    assert box.run("result = self.kept.add(2)") == 42
    eventually(lambda: len(instances()) == 2)


def test_an_instance_that_slept_calls_out_again_when_it_goes_on(planner: Any) -> None:
    for _ in range(3):
        with planner.fork()[0] as fork:
            assert fork.ask("who", {})["id"] == fork.id
        assert planner.exec("kibo-box me").returncode == 0


def test_branches_that_a_box_begins_are_forked_and_committed_from_an_action(planner: Any) -> None:
    before = alone(planner)
    found = planner.run(
        "with me.branch('try things') as tree:\n"
        "    w = tree.spawn('Worker', start=1)\n"
        "    w.add(10)\n"
        "    x, y = tree.fork(2)\n"
        "    got = [x[w].add(1), y[w].add(2), x.live]\n"
        "    y.commit()\n"
        "    got.append(w.add(0))\n"
        "    try:\n        x.commit()\n"
        "    except kibo.KiboError as error:\n        got.append(error.code)\n"
        "    snapshot = tree.snapshot('good')\n"
        "result = got, snapshot[:5]"
    )
    assert found == [[12, 13, True, 13, "branch.stale"], "snap_"]
    assert instances() == before


def test_its_own_branch_is_sealed_between_actions_only(main: Branch) -> None:
    box = main.spawn(Planner())
    for verb in ("fork", "commit", "snapshot"):
        code, message, hint = box.try_to_ask(verb, {})
        assert code == "state.wrong"
        assert "action is under way" in message
        assert "me.branch" in hint
    # A program that is there between two actions may.
    (fork,) = main.fork(1)
    done = fork[box].exec('kibo-box call snapshot --json \'{"label": "here"}\'')
    assert json.loads(done.stdout)["id"].startswith("snap_"), done
    done = fork[box].exec("echo new > /work/new; kibo-box call commit")
    assert done.returncode == 0, done
    assert fork.status == "committed"
    assert box.exec("cat /work/new").stdout == "new\n"


def test_forks_of_its_own_branch_are_the_boxs_and_end_with_it(main: Branch) -> None:
    box = main.spawn(Planner())
    done = box.exec("kibo-box call fork --json '{\"n\": 2}'")
    forks = json.loads(done.stdout)
    assert [each["name"] for each in forks] == ["main.0", "main.1"]
    eventually(lambda: len(instances()) == 3)
    call = {"of": [forks[0]["id"], "Planner"], "action": "draw"}
    assert box.exec(["kibo-box", "call", "call", "--json", json.dumps(call)]).returncode == 0
    # They count against what it may have: five branches, of which two are left.
    assert box.exec("kibo-box call fork --json '{\"n\": 4}'").returncode == 73
    box.destroy()
    eventually(lambda: not instances())


def test_a_box_in_a_fork_begins_no_branches_that_would_be_outside_of_it(main: Branch) -> None:
    box = main.spawn(Planner())
    (fork,) = main.fork(1)
    code, message, _ = fork[box].try_to_ask("begin", {})
    assert code == "state.wrong"
    assert "in a fork" in message
    assert fork[box].run("result = me.spawn('Worker').add()") == 1


def test_quotas_hold_over_all_that_lives_because_of_a_box() -> None:
    class Middle(Planner):
        rights = [MaySpawn(Worker)]
        quota = Quota(instances=10)

    class Top(Planner):
        rights = [MaySpawn(Middle)]
        quota = Quota(instances=3)

    with Top().spawn() as top:
        found = top.run(
            "m = me.spawn('Middle'); result = [m.try_to_ask('spawn', {'box': 'Worker'})[0] for _ in range(3)]\n"
            "result += [me.branch and m.run(\"result = me.quota['instances']\")]\nm.end()\n"
            "me.spawn('Middle').run(\"w = me.spawn('Worker')\")"
        )
    assert found == ["", "", "limit", 10]


def test_an_instance_that_ended_by_itself_counts_no_more(planner: Any) -> None:
    found = planner.run(
        "result = 0\n"
        "for _ in range(10):\n"
        "    w = me.spawn('Worker')\n"
        "    try:\n        w.leave()\n"
        "    except kibo.KiboError:\n        result += 1"
    )
    assert found == 10


def test_a_call_whose_box_has_ended_leaves_nothing(planner: Any) -> None:
    before = alone(planner)
    other = Planner().spawn()
    begun = threading.Event()

    def ask() -> None:
        begun.set()
        with pytest.raises(kibo.KiboError):
            other.run("while True: me.spawn('Worker').end()")

    thread = threading.Thread(target=ask)
    thread.start()
    begun.wait()
    eventually(lambda: len(instances()) > len(before) + 1)
    other.destroy()
    thread.join(20)
    assert not thread.is_alive()
    eventually(lambda: instances() == before)


def test_the_command_says_what_is_wrong_and_how_it_ended(planner: Any) -> None:
    assert "kibo-box call VERB" in planner.exec("kibo-box --help").stdout
    assert planner.exec("kibo-box").returncode == 64
    wrong = planner.exec("kibo-box call spawn --json '{nothing'")
    assert wrong.returncode == 65
    assert json.loads(wrong.stderr)["code"] == "input.invalid"
    assert planner.exec("kibo-box dance").returncode == 65
    assert planner.exec('kibo-box call spawn --json \'{"box": "Nobody"}\'').returncode == 77
    made = json.loads(planner.exec("kibo-box call spawn --json -", stdin='{"box": "Worker"}').stdout)
    call = json.dumps({"of": made["of"], "action": "up_to", "args": [2]})
    assert planner.exec(["kibo-box", "call", "call", "--json", call]).stdout == "0\n1\nnull\n"
    planner.exec("kibo-box progress half")
    assert planner.progress == "half"


def test_a_program_that_an_action_starts_may_call_too(planner: Any) -> None:
    status, out, _ = planner.sh("kibo-box me")
    assert status == 0
    assert json.loads(out)["id"] == planner.id


@pytest.mark.anyio
async def test_for_coroutines_it_is_the_same() -> None:
    async with aio.branch("to be tested") as main:
        box = await main.spawn(Planner())
        assert await box.run("result = me.branch.id") == main.id
        assert await box.run("with me.spawn('Worker') as w: result = w.add()") == 1
        await box.run("me.progress(0.5)")
        assert box.progress == 0.5
        assert (await box.try_to_ask("fork", {}))[0] == "state.wrong"
        done = await box.exec("kibo-box call fork")
        (fork,) = json.loads(done.stdout)
        call = {"of": [fork["id"], "Planner"], "action": "ask", "args": ["who", {}]}
        told = json.loads((await box.exec(["kibo-box", "call", "call", "--json", json.dumps(call)])).stdout)
        assert told["branch"]["id"] == fork["id"]
        # The box is the fork from now on: what asked for it ends with what the box was.
        with pytest.raises(InstanceEnded):
            await box.exec(["kibo-box", "call", "commit", "--json", json.dumps({"branch": fork["id"]})])
        assert (await box.ask("who", {}))["branch"]["id"] == main.id
    with anyio.fail_after(10):
        while await anyio.to_thread.run_sync(instances):
            await anyio.sleep(0.01)


def test_the_example_works() -> None:
    with demo.Planner().spawn() as box:
        assert box.total(["to be or not to be", "that is the question"]) == [0, 2]
        assert box.progress == {"done": 2, "of": 2}
        assert box.longest("whether it is nobler", ["to suffer", "in the mind to suffer"]) == 9


def test_every_verb_says_what_it_takes() -> None:
    for name, verb in verbs().items():
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"no such argument": name}, verb.arguments)


def test_an_error_that_was_told_is_the_same_error_again() -> None:
    for kind in (kibo.KiboError, WrongState, ActionRaised):
        told = error_of(kind("so it is", hint="do that", details={"n": 1}).to_dict())
        assert type(told) is kind
        assert (told.message, told.hint, told.details) == ("so it is", "do that", {"n": 1})
