"""Programs that carry out plans (see `effects_plans`), each in a process that may be killed, one after the other.

Reads orders, a line of JSON each: the state directory, seeds, a file to tell in, steps to leave out. For each it forks
programs until all plans have been carried out: the next one begins with the plan after that in which the last was
killed, and with what this has left. Answers with what each left behind besides (see `leftovers`).

Arguments: the shop's address.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kibo
import leftovers
from effects_plans import ROOT, Plan, Step, make_plan
from kibo import Allow
from kibo.branch.branch import Branch
from kibo.branch.records import Committed
from kibo.effects.forwarder import Forwarder
from kibo.effects.lifecycle import OPEN
from kibo.model.errors import KiboError
from kibo.runtime.instance import Instance
from kibo.runtime.trees.conflict import THEIRS, Resolution
from kibo.store import crash
from kibo.wiring import runtime
from payer_boxes import Payer

#: What takes longer hangs: a plan has some ten steps of some ten milliseconds.
HANGS_S = 60
WITHIN_S = 20.0
#: What the runtime consists of, and no program in a box can reach.
TRUSTED = {
    "kibo-warden",
    "kibo-nursery",
    "kibo-maps",
    "kibo-copy",
    "kibo-continue",
    "kibo-remove",
    "kibo-files",
}


class Buyer(Payer):
    """Pays at the shop."""

    egress = [Allow("shop.example", to=sys.argv[1])]

    @kibo.action(effect="irreversible", timeout_s=60)
    def leave(self) -> None:
        """Take back what was ordered."""
        assert self.till is not None
        self.till.close()
        self.till = None

    @kibo.action
    def note(self, name: str) -> None:
        """Write something down."""
        Path(f"/work/{name}").write_text(name)


class NoReceiptError(Exception):
    """A command had no answer, or another than it wanted."""


class Told:
    """Where a program says what it does before it does it, so that whoever kills it can be told what it was at."""

    def __init__(self, file: Path) -> None:
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid(), **more})
        os.write(self._fd, line.encode() + b"\n")


def gateway() -> Forwarder:
    """The gateway that this program's boxes go out through; started where none lives."""
    found = runtime().egress.forwarding()
    assert isinstance(found, Forwarder)
    return found


def settle() -> None:
    """Waits until nothing is left to be sent: as a program does that spawns boxes with a way out, and looks."""
    gateway()
    ledger = runtime().records().ledger
    deadline = time.monotonic() + WITHIN_S
    while left := [each for each in ledger.listed() if each.state in OPEN]:
        assert time.monotonic() < deadline, f"unsettled: {left}"
        time.sleep(0.01)
        gateway()  # one that is to die at an answer may do so only now


class Program:
    """One plan, carried out."""

    def __init__(self, plan: Plan, told: Told) -> None:
        self.plan = plan
        self.tell = lambda what, **more: told.tell(what, seed=plan.seed, **more)
        self.branches: dict[str, Branch] = {}
        self.box: Any = None
        self.others: list[Instance] = []
        self.calls: list[threading.Thread] = []
        self._chances = random.Random(plan.seed)

    def run(self) -> None:
        """Carries it out, and ends the tree."""
        self.arm()
        self.attempt(Step("begin"))
        for number, step in enumerate(self.plan.steps):
            if number == self.plan.kill.step and not self.plan.kill.point:
                threading.Thread(target=self.strike, daemon=True).start()
            self.attempt(step)
        self.attempt(Step(self.plan.ending))
        crash.install(None)
        for other in self.others:
            other.destroy()
        for call in self.calls:
            call.join(WITHIN_S)
            assert not call.is_alive(), "a call does not return"
        settle()

    def resume(self, root: str) -> None:
        """Does what comes after the program that carried it out was killed."""
        for step in self.plan.after:
            if step.verb == "checkout":
                done = self.tried(step, lambda: kibo.checkout(root, Buyer()))
                if done is None:
                    return
                self.branches[step.names[0]] = done
                self.box = "Buyer"
                if "Buyer" not in done._running.members:
                    return  # it was killed before there was any
            else:
                self.attempt(step)
        if "c" in self.branches:
            self.branches["c"].close()
        for call in self.calls:
            call.join(WITHIN_S)
        settle()

    # -- who dies

    def arm(self) -> None:
        """Has somebody die at a named point."""
        kill, passed = self.plan.kill, 0

        def hook(name: str) -> None:
            nonlocal passed
            passed += name == kill.point
            if name == kill.point and passed == kill.passage:
                self.tell("kill", who="user", point=name)
                os.kill(os.getpid(), signal.SIGKILL)

        if kill.who == "user" and kill.point:
            crash.install(hook)
        if kill.who == "gateway" and kill.point:
            runtime().egress.close()  # one that was told to die at a point is told at its start
            os.environ[crash.VARIABLE] = f"{kill.point}:{kill.passage}"
            try:
                gateway()
            finally:
                del os.environ[crash.VARIABLE]
            self.tell("armed", gateway=gateway().pid)

    def strike(self) -> None:
        """Kills somebody some time after a step has begun."""
        kill = self.plan.kill
        time.sleep(kill.after_s)
        victims: list[int] = []
        states = runtime().running()
        keeper = [] if states is None else [states.session._keeper.pid]
        warden = [child for parent in keeper for child in children(parent)]
        if kill.who == "user":
            victims = [os.getpid()]
        elif kill.who == "gateway":
            victims = [gateway().pid]
        elif kill.who == "keeper":
            victims = keeper
        elif kill.who == "warden":
            victims = warden
        elif kill.who == "box":
            found = {pid: name for each in warden for pid, name in leftovers.descendants(each).items()}
            below = sorted(pid for pid, name in found.items() if name not in TRUSTED)
            victims = [self._chances.choice(below)] if below else []
        for victim in victims:
            self.tell("kill", who=kill.who, victim=victim)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    # -- what it does

    def attempt(self, step: Step) -> None:
        """Takes one step, which may be refused."""
        verb = step.verb.split()[0]
        if verb == "skip":
            return
        if verb == "race":
            both = [threading.Thread(target=self.attempt, args=(each,)) for each in step.together]
            for each in both:
                each.start()
            for each in both:
                each.join()
            return
        if step.branch and step.branch not in self.branches and verb != "begin":
            return  # it did not come about
        deed: Callable[[Step], Any] = getattr(self, f"do_{verb}")
        self.tried(step, lambda: deed(step))

    def tried(self, step: Step, deed: Callable[[], Any]) -> Any:
        """Tells what comes of it. What is no error of Kibo's is a fault of Kibo's."""
        said = {
            "verb": step.verb, "branch": step.branch, "names": step.names, "path": step.path, "key": step.key,
            "how": step.how,
        }  # fmt: skip
        number = f"{threading.get_ident()}-{time.monotonic_ns()}"
        self.tell("begin", step=number, **said)
        try:
            value = deed()
        except KiboError as error:
            self.tell("end", step=number, **said, refused=error.code, message=str(error))
            return None
        except NoReceiptError as error:
            self.tell("end", step=number, **said, refused="curl", message=str(error))
            return None
        except BaseException:  # noqa: BLE001 - told, and judged
            self.tell("end", step=number, **said, broken=traceback.format_exc())
            return None
        effects = [effect.url for effect in value.effects] if isinstance(value, Committed) else []
        told = value if isinstance(value, str) else ""
        if isinstance(value, Branch) and runtime().records().history.get(value.id).parent is None:
            told = ROOT
        self.tell("end", step=number, **said, effects=effects, value=told)
        return value

    def do_begin(self, step: Step) -> None:
        main = kibo.branch(name="main")
        self.tell("root", id=main.id)
        self.branches[ROOT] = main
        self.box = main.spawn(Buyer())

    def do_fork(self, step: Step) -> None:
        made = self.branches[step.branch].fork(len(step.names))
        self.branches |= dict(zip(step.names, made, strict=True))

    def do_ask(self, step: Step) -> str:
        branch = self.branches[step.branch]
        box = branch[self.box]
        path = step.path
        through, seen = gateway(), self.count(branch, path)
        if step.how == "beside":
            box.pay_beside(path)
            returned: Callable[[], bool] = lambda: not box.pays_beside()  # noqa: E731
        elif step.how == "order":
            box.order(path)
            returned = lambda: False  # noqa: E731 - nobody hears of it; what it is sent to is there
        else:
            call = self.curl if step.how == "curl" else self.pay
            returned = self.start(step, lambda: call(box, step))
        return self.wait(branch, box, path, through, seen, returned) if step.verb == "ask" else ""

    def do_twin(self, step: Step) -> str:
        branch = self.branches[step.branch]
        through, seen = gateway(), self.count(branch, step.path)
        (twin,) = branch[self.box].fork()
        self.others.append(twin)
        returned = self.start(step, lambda: self.pay(twin, step))
        return self.wait(branch, twin, step.path, through, seen, returned)

    def do_alone(self, step: Step) -> None:
        box = Buyer().spawn()
        self.others.append(box)
        self.start(step, lambda: self.pay(box, step))

    def do_leave(self, step: Step) -> None:
        self.branches[step.branch][self.box].leave()

    def do_note(self, step: Step) -> None:
        self.branches[step.branch][self.box].note(step.branch)

    def do_commit(self, step: Step) -> Any:
        return self.branches[step.branch].commit()

    def do_overwrite(self, step: Step) -> Any:
        return self.branches[step.branch].commit(overwrite=True)

    def do_merge(self, step: Step) -> Any:
        return self.branches[step.branch].merge(lambda conflict: Resolution(THEIRS))

    def do_abort(self, step: Step) -> None:
        self.branches[step.branch].abort()

    def do_close(self, step: Step) -> None:
        self.branches[step.branch].close()

    def do_explore(self, step: Step) -> str:
        strategies = [(path, lambda box, path=path: box.pay(path)) for path in step.names]
        box = self.branches[step.branch][self.box]
        found = kibo.explore(box, strategies, budget=kibo.Budget(seconds=15))
        return found.winner.name if found.winner is not None else ""

    # -- how it asks

    def start(self, step: Step, call: Callable[[], str]) -> Callable[[], bool]:
        """Calls, in a thread. Returns whether it has returned."""
        asked = Step("call", step.branch, path=step.path, key=step.key, how=step.how)
        thread = threading.Thread(target=self.tried, args=(asked, call), daemon=True)
        self.calls.append(thread)
        thread.start()
        return lambda: not thread.is_alive()

    def pay(self, box: Any, step: Step) -> str:
        return str(box.pay(step.path, step.key))

    def curl(self, box: Any, step: Step) -> str:
        key = f"-H 'Idempotency-Key: {step.key}'" if step.key else ""
        done = box.exec(f"curl -sS -f -d card=1 {key} http://shop.example{step.path}", timeout_s=60)
        if done.returncode:
            raise NoReceiptError(done.stderr)
        return str(done.stdout)

    def count(self, branch: Branch, path: str) -> int:
        """Counts what is recorded of a request."""
        listed = runtime().records().ledger.listed(branch.id)
        return sum(effect.url == f"http://shop.example{path}" for effect in listed)

    def wait(
        self,
        branch: Branch,
        box: Any,
        path: str,
        through: Forwarder,
        seen: int,
        returned: Callable[[], bool],
    ) -> str:
        """Waits until something has come of what was asked for, or can come of it no more.

        Args:
            branch: Where.
            box: What asks.
            path: For what.
            through: The gateway that ran before it did. A box that was made for one that is dead reaches none.
            seen: How much was recorded of it before.
            returned: Whether what asks has ended.
        """
        deadline = time.monotonic() + WITHIN_S
        while through.alive and box.alive:
            over = returned()
            if self.count(branch, path) > seen:
                return "recorded"
            if over:
                return "returned"
            assert time.monotonic() < deadline, "nothing comes of what was asked for"
            time.sleep(0.005)
        return "lost"


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def program(order: dict[str, Any], left: list[int], killed_in: int | None, root: str) -> None:
    """Carries out plans until one is the last, or it is killed."""
    os.environ["KIBO_HOME"] = order["home"]
    told = Told(Path(order["told"]))
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    try:
        settle()
        if not order["seeds"]:
            Buyer().spawn().look()  # built once for all
        dropped = frozenset(order["without"])
        if killed_in is not None and root:
            Program(make_plan(killed_in).without(dropped), told).resume(root)
        for seed in left:
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            told.tell("plan", seed=seed)
            Program(make_plan(seed).without(dropped), told).run()
            told.tell("done", seed=seed)
        runtime().close()
    except BaseException:
        told.tell("broken", seed=left[0] if left else killed_in, why=traceback.format_exc())
        raise


def carried_out(told: Path) -> Iterator[dict[str, Any]]:
    if told.exists():
        yield from map(json.loads, told.read_text().splitlines())


def programs(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs programs until all plans are carried out. Returns how each ended."""
    home, told = Path(order["home"]), Path(order["told"])
    ended: list[dict[str, Any]] = []
    killed_in, root, over = None, "", False
    while not over:
        begun = [line["seed"] for line in carried_out(told) if line["what"] == "plan"]
        left = [seed for seed in order["seeds"] if seed not in begun]
        before = set(leftovers.descendants(os.getpid()))
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            status = 1
            try:
                program(order, left, killed_in, root)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        lines = list(carried_out(told))
        plans = [line["seed"] for line in lines if line["what"] == "plan" and line["pid"] == pid]
        killed_in = plans[-1] if plans else None
        root = next(
            (line["id"] for line in lines if line["what"] == "root" and line["seed"] == killed_in), ""
        )
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            killed_in = killed_in or (left[0] if left else 0)
        over = code != -signal.SIGKILL  # it came to its end, or it failed
        left_behind = await_clean(home, pid, before, over=over)
        leftovers.reap_adopted(before)
        ended.append(
            {"status": code, "seed": killed_in, "left": {k: repr(v) for k, v in left_behind.items()}}
        )
    return ended


def await_clean(home: Path, pid: int, before: set[int], *, over: bool) -> dict[str, object]:
    """Waits until nothing is left of a program. Files of one that was killed are the next one's to sweep."""
    if over:
        return leftovers.await_clean(home, pid, before, WITHIN_S)
    deadline = time.monotonic() + WITHIN_S
    while (left := leftovers.leftovers(home, pid, before)).keys() - {"files"} and time.monotonic() < deadline:
        leftovers.reap_adopted(before)
        time.sleep(0.01)
    left.pop("files", None)
    return left


def main() -> None:
    with leftovers.adopt_orphans():
        for line in sys.stdin:
            print(json.dumps(programs(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
