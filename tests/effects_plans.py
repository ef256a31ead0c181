"""Plans of what a user's program does with a tree of branches whose boxes pay, and of who is killed meanwhile.

A plan is made from its seed alone, the same in every process. What a plan foresees need not come about: a branch may
have ended before its turn, and then the step is refused.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

_SOURCES: Final = Path(__file__).parents[1] / "src/kibo"


def _points(*files: str) -> tuple[str, ...]:
    found: set[str] = set()
    for file in files:
        text = (_SOURCES / file).read_text()
        found.update(re.findall(r'point\("([a-z_.]+)"\)', text))
    return tuple(sorted(found))


#: Where a gateway can die. Those of each step of the ledger are made of the step's name.
GATEWAY_POINTS: Final = (
    *_points("effects/outbox.py", "effects/ledger.py"),
    *(f"effect.before_{event}" for event in ("send", "answer", "lose", "fail", "drop")),
)
#: Where the user's program can.
USER_POINTS: Final = tuple(
    name
    for name in _points(
        "branch/running.py", "branch/committing.py", "branch/history.py", "branch/recovery.py"
    )
    if name.split(".")[0] not in ("checkout", "claim", "create", "recover", "restore")
)
#: How a server can fail somebody: it ends the connection before it reads, after it has acted, in its answer.
DEAF, CUT, HALF = "deaf", "cut", "half"
ROOT: Final = "r"
VICTIMS: Final = {"user": 8, "gateway": 9, "box": 3, "warden": 2, "keeper": 1, "server": 4, "nobody": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the program does.

    Attributes:
        verb: What.
        branch: In which branch, by its name in the plan.
        names: What forks are to be called.
        path: What is asked for at the shop: names one intent for ever.
        key: The request's own key, or empty.
        how: How it is asked for: in a call, beside all calls, between calls, by a command.
        together: Steps that are taken at once.
    """

    verb: str
    branch: str = ROOT
    names: tuple[str, ...] = ()
    path: str = ""
    key: str = ""
    how: str = ""
    together: tuple[Step, ...] = ()

    def __str__(self) -> str:
        said = [self.verb, self.branch, *self.names, self.path, self.key and f"key={self.key}", self.how]
        return " ".join(filter(None, said)) + "".join(f" [{each}]" for each in self.together)


@dataclass(frozen=True, slots=True)
class Kill:
    """Who dies, and when.

    Attributes:
        who: Of `VICTIMS`.
        point: The named point at which, or empty for some time.
        passage: Which passage of it.
        step: Without a point: during which step.
        after_s: Without a point: how long after that has begun.
    """

    who: str
    point: str
    passage: int
    step: int
    after_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What one program does.

    Attributes:
        seed: What it is made of.
        steps: What it does.
        kill: Who dies meanwhile.
        ending: How it ends the tree if it is there to do so.
        after: What the next program does with the tree if not.
    """

    seed: int
    steps: tuple[Step, ...]
    kill: Kill
    ending: str
    after: tuple[Step, ...]

    def __str__(self) -> str:
        kill, at = self.kill, f"at {self.kill.point}:{self.kill.passage}"
        if not kill.point:
            at = f"{kill.after_s * 1000:.0f} ms into step {kill.step}"
        lines = [f"plan {self.seed}: kill {kill.who} {at}; in the end {self.ending}"]
        lines += [f"  {number}: {step}" for number, step in enumerate(self.steps)]
        lines += [f"  afterwards, if the program was killed: {step}" for step in self.after]
        return "\n".join(lines)

    def without(self, dropped: frozenset[int]) -> Plan:
        """The same with fewer steps, which keep their numbers."""
        return replace(
            self,
            steps=tuple(
                Step("skip") if number in dropped else step for number, step in enumerate(self.steps)
            ),
        )


@dataclass(slots=True)
class _Tree:
    """What the plan foresees."""

    dice: random.Random
    seed: int
    hostile: float
    parents: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=lambda: {ROOT: "open"})
    #: Whose instance waits in the middle of a call: nothing else can be called there.
    busy: set[str] = field(default_factory=set)
    ordered: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    def path(self) -> str:
        self.asked += 1
        fails = self.dice.random() < self.hostile
        return f"/{self.seed}/{self.asked}" + (f"/{self.dice.choice((DEAF, CUT, HALF))}" if fails else "")

    def open(self, *, forks: bool = False, idle: bool = False) -> list[str]:
        return [
            name
            for name, state in self.state.items()
            if state == "open" and not (forks and name == ROOT) and not (idle and name in self.busy)
        ]

    def below(self, name: str) -> list[str]:
        return [child for child, parent in self.parents.items() if parent == name]

    def end(self, name: str, how: str) -> None:
        self.state[name] = how
        for child in self.below(name):
            if self.state[child] == "open":
                self.end(child, "stale" if how in ("stale", "committed") else how)

    def commit(self, name: str) -> None:
        parent = self.parents[name]
        for sibling in self.below(parent):
            if sibling != name and self.state[sibling] == "open":
                self.end(sibling, "stale")
        self.end(name, "committed")
        self.busy.discard(parent)
        if name in self.busy and parent != ROOT:
            self.busy.add(parent)

    # -- steps

    def fork(self) -> Step | None:
        where = self.open(idle=True)
        if not where or len(self.state) > 9:
            return None
        parent = self.dice.choice(where)
        many = self.dice.choice((1, 2, 2, 3))
        names = tuple(f"{parent}{len(self.below(parent)) + each}" for each in range(many))
        for name in names:
            self.parents[name], self.state[name] = parent, "open"
        return Step("fork", parent, names)

    def ask(self) -> Step:
        name = self.dice.choice(self.open(forks=self.dice.random() < 0.85) or [ROOT])
        key, path = "", self.path()
        if self.dice.random() < 0.35:
            key = self.dice.choice(("one", "two"))
            # A key stands for one request, mostly.
            path = self.keys.setdefault(key, path) if self.dice.random() < 0.9 else path
        if name in self.busy:
            how = "curl"
        elif key:
            how = self.dice.choice(("call", "call", "curl"))
        else:
            how = self.dice.choice(("call", "call", "call", "beside", "order", "curl"))
        if how == "order":
            if name in self.ordered:
                how = "beside"
            self.ordered.add(name)
        if how == "call" and name != ROOT:
            self.busy.add(name)
        verb = "ask" if self.dice.random() < 0.75 else "ask on"  # and go on before anything has come of it
        return Step(verb, name, path=path, key=key, how=how)

    def twin(self) -> Step | None:
        where = self.open(forks=True, idle=True)
        return Step("twin", self.dice.choice(where), path=self.path()) if where else None

    def explore(self) -> Step:
        for child in self.below(ROOT):
            if self.state[child] == "open":
                self.end(child, "stale")
        return Step("explore", ROOT, tuple(self.path() for _ in range(self.dice.choice((2, 3)))))

    def leave(self) -> Step | None:
        where = [name for name in self.open(idle=True) if name in self.ordered]
        return Step("leave", self.dice.choice(where)) if where else None

    def note(self) -> Step | None:
        where = self.open(idle=True)
        return Step("note", self.dice.choice(where)) if where else None

    def finish(self) -> Step | None:
        verb = self.dice.choice(
            ("commit", "commit", "commit", "commit", "abort", "abort", "merge", "overwrite")
        )
        where = self.open(forks=True)
        if verb in ("merge", "overwrite"):
            stale = [
                name
                for name, state in self.state.items()
                if state == "stale" and self.state[self.parents[name]] == "open"
            ]
            where = stale * 3 + where
        if not where:
            return None
        name = self.dice.choice(where)
        refused = (verb in ("merge", "commit") and self.parents[name] in self.busy) or (
            verb == "merge" and name in self.busy
        )
        if verb == "abort":
            self.end(name, "aborted")
        elif not refused:
            self.commit(name)
        return Step(verb, name)

    def race(self) -> Step | None:
        pairs = [
            (one, two)
            for one in self.open(forks=True)
            for two in self.open(forks=True)
            if one < two and self.parents[one] == self.parents[two] and self.parents[one] not in self.busy
        ]
        if not pairs:
            return None
        one, two = self.dice.choice(pairs)
        second = Step(self.dice.choice(("commit", "commit", "abort")), two)
        self.end(two, "stale")
        self.commit(one)
        return Step("race", self.parents[one], together=(Step("commit", one), second))

    def alone(self) -> Step:
        return Step("alone", "", path=self.path())


_WEIGHTS: Final = {
    "ask": 10, "finish": 5, "fork": 3, "race": 1.5, "note": 1.5, "twin": 0.8, "leave": 0.8, "explore": 0.4,
    "alone": 0.4,
}  # fmt: skip


def make_plan(seed: int) -> Plan:
    """Makes the plan of a seed."""
    dice = random.Random(seed)
    (who,) = dice.choices(list(VICTIMS), list(VICTIMS.values()))
    tree = _Tree(dice, seed, 0.4 if who == "server" else 0.04)
    steps = [step for step in (tree.fork(), tree.ask(), tree.ask()) if step is not None]
    for verb in dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=dice.randint(4, 11)):
        step: Step | None = getattr(tree, verb)()
        if step is not None:
            steps.append(step)
    if dice.random() < 0.7 and tree.open(forks=True):
        last = tree.finish()
        steps += [last] if last is not None else []
    at_point = dice.random() < 0.75
    point = ""
    if who == "user" and at_point:
        point = dice.choice(USER_POINTS)
    elif who == "gateway" and at_point:
        point = dice.choice(GATEWAY_POINTS)
    kill = Kill(
        who, point, dice.choice((1, 1, 1, 2, 2, 3)), dice.randrange(len(steps)), dice.random() ** 2 * 0.05
    )
    key = dice.choice(("", "one"))
    path = tree.keys.get(key) or tree.path()
    again = (
        Step("checkout", ROOT, ("c",)),
        Step("ask", "c", path=path, key=key, how="call"),
        Step(dice.choice(("commit", "commit", "abort")), "c"),
    )
    ending = dice.choice(("close", "close", "abort"))
    return Plan(seed, tuple(steps), kill, ending, again if dice.random() < 0.4 else ())
