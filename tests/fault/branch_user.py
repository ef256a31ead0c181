"""A user's program with branches that is killed in one step of its life, at a named place.

Reads orders, a line of JSON each: the step, the state directory, a directory of the host, a file to tell in, and where
to end: the name of a point and which passage of it, or ``record`` to tell all that are passed. Every run ends by
``kill -9``: before the step, in it, or right after it. Answers with its process number and how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import kibo
from caller_boxes import Planner
from kibo.branch.branch import Branch
from kibo.runtime.layers.home import state_home
from kibo.runtime.trees.conflict import THEIRS
from kibo.runtime.trees.tiers import MAX_CHAIN
from kibo.store import crash
from kibo.wiring import runtime
from kibo.wiring.records import Records
from value_boxes import Values

Step = Callable[[], object]
#: What brings files to the disk in the background. Steps that do so themselves are killed in that.
FLUSHER = "kibo-flusher"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Scene:
    """A tree as a step finds it: a root with a workspace, sealed, and forks of it."""

    def __init__(self, host: Path) -> None:
        self.host = host
        self.main = kibo.branch()
        self.box = self.main.spawn(Values(), workspace=host)
        self.box.put("a", "main")
        self.main.snapshot("begun")

    def forks(self) -> tuple[Branch, Branch]:
        one, two = self.main.fork(2, names=["one", "two"])
        return one, two

    def spawn(self) -> Step:
        (self.host / "late").write_text("late")
        return lambda: self.main.spawn(Values(), workspace=self.host, name="other")

    def fork(self) -> Step:
        self.box.put("b", "unsealed")
        return lambda: self.main.fork(2, names=["one", "two"])

    def busy_fork(self) -> Step:
        """Of an instance in which a program runs: its files are copied."""
        self.box.popen("exec sleep 60")
        self.box.put("b", "unsealed")
        return lambda: self.main.fork(2, names=["one", "two"])

    def deep_fork(self) -> Step:
        """With fresh guests, of an instance with more layers than a root should have."""
        self.deepen(self.main)
        self.box.put("b", "unsealed")
        return lambda: self.main.fork(2, names=["one", "two"], live="never")

    def share(self) -> None:
        """Has two instances share a directory, and write to it."""
        for name in ("ada", "bob"):
            self.main.spawn(Values(), name=name, shared=["notes"]).exec(f"echo {name} > /shared/notes/{name}")

    def shared_fork(self) -> Step:
        """With a program in one of those that share: what they share is copied."""
        self.share()
        self.main["ada"].popen("exec sleep 60")
        return lambda: self.main.fork(2, names=["one", "two"])

    def shared_commit(self) -> Step:
        self.share()
        one, two = self.forks()
        two["ada"].exec("echo two > /shared/notes/two")
        one["bob"].exec("rm /shared/notes/ada; echo one > /shared/notes/one")
        return one.commit

    def shared_merge(self) -> Step:
        self.share()
        one, two = self.forks()
        two["ada"].exec("echo two > /shared/notes/ada")
        two.snapshot()
        one["bob"].exec("echo one > /shared/notes/bob")
        one.commit()
        return two.merge

    def deepen(self, branch: Branch) -> None:
        for number in range(MAX_CHAIN + 1):
            branch[self.box].put(f"n{number % 3}", number)
            branch.snapshot()

    def seal(self) -> Step:
        self.box.put("b", "unsealed")
        return lambda: self.main.snapshot("sealed")

    def commit(self) -> Step:
        one, two = self.forks()
        two[self.box].put("b", "two")
        one[self.box].put("b", "one")
        return one.commit

    def merge(self) -> Step:
        one, two = self.forks()
        self.deepen(two)
        two[self.box].put("c", "two")
        two[self.box].put("a", "two")
        two.snapshot()
        one[self.box].put("b", "one")
        one[self.box].put("a", "one")
        one.commit()
        return lambda: two.merge(lambda _: THEIRS)

    def overwrite(self) -> Step:
        one, two = self.forks()
        two[self.box].put("b", "two")
        two.snapshot()
        one[self.box].put("b", "one")
        one.commit()
        return lambda: two.commit(overwrite=True)

    def abort(self) -> Step:
        one, _ = self.forks()
        one.fork(2, names=["deep", "deeper"])
        return one.abort

    def apply(self) -> Step:
        for name in ("a", "b", "new"):
            self.box.put(name, "applied")
        self.box.exec("rm kept; mkdir -p sub/deep; echo x > sub/deep/x; chmod 700 tool")
        self.main.snapshot()
        return self.main.apply

    def close(self) -> Step:
        stack = ExitStack()
        stack.enter_context(self.main)
        return stack.close

    def checkout(self) -> Step:
        self.deepen(self.main)
        return lambda: kibo.checkout(self.main.id, Values(), name="again")

    def boxs_tree(self) -> Step:
        """Of a tree that a box has begun, which forks and commits in it."""
        planner = self.main.spawn(Planner(), name="planner")
        self.main.snapshot()
        deeds = """
            self.root = me.branch(name="boxs")
            self.root.spawn("Worker", name="worker").add()
            one, two = self.root.fork(2)
            one["worker"].add()
            one.commit()
            self.root.snapshot()
        """
        return lambda: planner.run(dedent(deeds))

    def collect(self) -> Step:
        """Of a tree that ended, and of what freezes left, while another tree runs."""
        with kibo.branch(name="over") as over:
            box = over.spawn(Values(), workspace=self.host)
            box.put("b", "over")
            over.fork(1, names=["lost"])[0].abort()
        (self.host / "a").write_text("another")
        with kibo.branch(name="later") as later:
            later.spawn(Values(), workspace=self.host)
        return lambda: runtime().records().standing().collect(0.0, 0.0)

    def end(self) -> Step:
        """Of the whole process, with layers that nobody sealed."""
        one, _ = self.forks()
        one[self.box].put("b", "unsealed")
        return runtime().close


def merge_standing(host: Path) -> Step:
    """Of a branch whose process was killed."""
    pid = os.fork()
    if pid == 0:
        Scene(host).merge()
        die()
    os.waitpid(pid, 0)
    standing = Records(state_home()).standing()
    return lambda: standing.merge("two", lambda _: THEIRS)


def prepared(step: str, host: Path) -> Step:
    if step == "merge_standing":
        return merge_standing(host)
    if step == "open":
        # The program before was killed half way through an apply.
        return lambda: Records(runtime().home)
    step_of: Callable[[], Step] = getattr(Scene(host), step)
    return step_of()


def work(step: str, host: str, where: str) -> None:
    deed = prepared(step, Path(host))
    if where == "begin":
        die()
    passed: list[str] = []
    name, _, count = where.partition(":")

    def hook(point: str) -> None:
        if threading.current_thread().name == FLUSHER:
            return  # it has its turn when its time has come, in one run of a step and not in the next
        passed.append(point)
        if point == name and passed.count(name) == int(count):
            die()

    crash.install(hook)
    deed()
    crash.install(None)
    if where == "record":
        print(json.dumps(passed), file=sys.stderr, flush=True)
    if where in ("end", "record"):
        die()


def main() -> None:
    """Forks for each order: what it takes to start is done once. Nothing of Kibo runs in this process itself."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ["KIBO_HOME"] = order["home"]
            with open(order["told"], "w") as told:
                os.dup2(told.fileno(), sys.stderr.fileno())
            sys.stdin.close()
            work(order["step"], order["host"], order["where"])
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(json.dumps([pid, os.waitstatus_to_exitcode(status)]), flush=True)


if __name__ == "__main__":
    main()
