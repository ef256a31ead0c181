"""Says what is wrong with what a plan has come to: pure, from what the shop did, the program said and the ledger tells.

A branch has certainly been committed when its commit returned, and may have been when that was under way as its program
was killed, or raised something that does not say that nothing has happened. So it is with everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from effects_plans import CUT, DEAF, HALF, ROOT, Plan
from kibo.effects.lifecycle import OPEN

COMMITS: Final = ("commit", "merge", "overwrite")
#: Codes of errors that say that nothing was committed.
SURELY_NOT: Final = (
    "branch.stale", "branch.closed", "branch.taken", "branch.merge_conflict", "branch.reads_changed", "state.wrong",
)  # fmt: skip
GATEWAY_DIED: Final = "the gateway that held it ended"
CLIENT_LEFT: Final = "its client went away while it waited"


class Met(NamedTuple):
    """What the shop did with one request.

    Attributes:
        path: Which.
        acted: Whether it has acted on it.
        at: When, by the clock of the program's log.
    """

    path: str
    acted: bool
    at: float


@dataclass(slots=True)
class Deed:
    """What a program said that it does, and what came of it.

    Attributes:
        verb: What.
        branch: In which branch, as the plan calls it.
        path: What it asks for.
        key: The request's own.
        how: How it asks.
        names: Of forks, or what an exploration tries.
        begun: When.
        ended: When it returned or raised, or None.
        code: That of the error, or empty.
        message: The error's.
        effects: URLs of what its commit said that it let happen.
        value: What it returned.
        broken: A fault that is no error of Kibo's.
    """

    verb: str
    branch: str
    path: str
    key: str
    how: str
    names: list[str]
    begun: float
    ended: float | None = None
    code: str = ""
    message: str = ""
    effects: list[str] = field(default_factory=list)
    value: str = ""
    broken: str = ""

    @property
    def done(self) -> bool:
        return self.ended is not None and not self.code and not self.broken

    @property
    def may_be_done(self) -> bool:
        return self.done or (self.code not in SURELY_NOT and not self.broken)

    @property
    def won(self) -> bool:
        """Whether it has certainly committed something, if that is what it does: an exploration may find nothing."""
        return self.done and (self.verb != "explore" or bool(self.value))


@dataclass(slots=True)
class Story:
    """What is known of one plan.

    Attributes:
        plan: The plan.
        deeds: What its programs said, in order.
        killed: Whether anybody was killed.
        met: What the shop did for it, in order.
        effects: What `kibo effects --json` lists of it.
    """

    plan: Plan
    deeds: list[Deed]
    killed: bool
    met: list[Met]
    effects: list[dict[str, Any]]


def deeds_of(lines: Iterable[dict[str, Any]]) -> list[Deed]:
    """Reads what programs said."""
    found: dict[str, Deed] = {}
    for line in lines:
        if line["what"] == "begin":
            found[line["step"]] = Deed(
                line["verb"],
                line["branch"],
                line["path"],
                line["key"],
                line["how"],
                line["names"],
                line["at"],
            )
        elif line["what"] == "end":
            deed = found[line["step"]]
            deed.ended, deed.value = line["at"], line.get("value", "")
            deed.code, deed.message = line.get("refused", ""), line.get("message", "")
            deed.effects, deed.broken = line.get("effects", []), line.get("broken", "")
    return list(found.values())


class Judge:
    """Looks for what may not be.

    Args:
        story: What is known.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self.deeds = story.deeds
        self.parents: dict[str, str] = {}
        #: A tree that has been closed is gone on with by a checkout that has nothing to commit into.
        self.roots = {ROOT}
        for deed in self.deeds:
            if deed.verb == "checkout" and deed.value == ROOT:
                self.roots.update(deed.names)
            elif deed.verb in ("fork", "checkout"):
                self.parents |= dict.fromkeys(deed.names, deed.branch)
        self.listed: dict[str, list[dict[str, Any]]] = {}
        for effect in story.effects:
            self.listed.setdefault(path_of(effect["url"]), []).append(effect)
        self.arrived = Counter(met.path for met in story.met if met.acted)

    def complaints(self) -> Iterator[str]:
        """Lists what is wrong."""
        yield from (f"not an error of Kibo's: {deed.broken}" for deed in self.deeds if deed.broken)
        if self.story.plan.kill.who != "box":  # whose process may be gone under the kernel's hands
            yield from (f"{deed.verb}: {deed.message}" for deed in self.deeds if deed.code == "kibo.bug")
        yield from self.ledger_agrees()
        yield from self.leaks()
        yield from self.losses()
        yield from self.disorder()

    def ledger_agrees(self) -> Iterator[str]:
        """What the ledger says has happened has happened, once; what may have is told as in doubt."""
        for path in {*self.arrived, *self.listed}:
            states = Counter(effect["state"] for effect in self.listed.get(path, ()))
            done, doubtful, times = states["done"], states["in_doubt"], self.arrived[path]
            if not done <= times <= done + doubtful:
                yield f"{path} has happened {times} times, and the ledger says {dict(states)}"
            if any(states[state] for state in OPEN):
                yield f"{path} never comes to an end: {dict(states)}"
        for met in self.story.met:
            effects = self.listed.get(met.path, ())
            if fails(met.path) and not any(effect["state"] == "in_doubt" for effect in effects):
                yield f"{met.path} had no answer, and is not in doubt"
        for effect in self.story.effects:
            if effect["state"] in ("failed", "in_doubt", "dropped") and not effect["reason"]:
                yield f"{effect['url']} is {effect['state']} for no reason"
        keys: dict[tuple[str, str], set[str]] = {}
        for deed in self.deeds:
            if deed.key:
                keys.setdefault((deed.key, self.tree(deed.branch)), set()).add(deed.path)
        for (key, _), paths in keys.items():
            if sum(self.arrived[path] for path in paths) > 1:
                yield f"the key {key} stands for one effect, and has brought about several: {sorted(paths)}"
        for path, times in self.arrived.items():
            if times > 1:
                yield f"{path} has happened {times} times"

    def leaks(self) -> Iterator[str]:
        """What was asked for in a branch that did not come to the root has not happened."""
        asked = [deed for deed in self.deeds if deed.verb in ("ask", "ask on", "twin")]
        allowed = {deed.path for deed in asked if self.may_reach_root(deed)}
        allowed |= {deed.path for deed in self.deeds if deed.verb == "alone"}
        for path in {deed.path for deed in asked} - allowed:
            if self.arrived[path]:
                yield f"leaked: {path} has happened, and its branch was not committed"
        for deed in self.deeds:
            if deed.verb != "explore":
                continue
            happened = [path for path in deed.names if self.arrived[path]]
            if len(happened) > 1 or (deed.done and happened and happened != [deed.value]):
                yield f"leaked: of an exploration {deed.value or 'nothing'} won, and {happened} have happened"

    def losses(self) -> Iterator[str]:
        """What a commit has let happen has happened, or is told."""
        for deed in self.deeds:
            for url in deed.effects:
                final = {effect["state"] for effect in self.listed.get(path_of(url), ())}
                into_root = self.parents.get(deed.branch) in self.roots
                if into_root and final <= {"dropped", "held"}:
                    yield f"lost: {deed.verb} {deed.branch} released {url}, which is {final}"
            if deed.verb == "call" and deed.done and not self.arrived[deed.path]:
                yield f"{deed.path} has not happened, and its client had {deed.value!r}"
        for deed in self.held_when_committed():
            effects = self.listed.get(deed.path, [])
            if not effects:
                yield f"lost: {deed.path} was held when its branch was committed, and nothing is known of it"
            for effect in effects:
                excused = (
                    self.story.killed and effect["reason"] in (GATEWAY_DIED, CLIENT_LEFT)
                ) or "leave" in {each.verb for each in self.deeds}
                if effect["state"] == "dropped" and not excused:
                    yield f"lost: {deed.path} was held when its branch was committed, and dropped: {effect['reason']}"

    def held_when_committed(self) -> Iterator[Deed]:
        """Gives what was asked for, and known to wait, before the branch came to the root."""
        for deed in self.deeds:
            if deed.verb != "ask" or deed.value != "recorded" or deed.key:
                continue
            at, since = deed.branch, deed.ended
            while at not in self.roots and at in self.parents:
                ends = [each for each in self.ends(at) if each.done and each.begun > since]
                if (
                    not ends
                    or self.left_behind(at, ends[0])
                    or any(each.verb == "abort" and each.branch == at for each in self.deeds)
                ):
                    break
                at, since = self.parents[at], ends[0].ended or since
            else:
                if at in self.roots and deed.branch not in self.roots:
                    yield deed

    def disorder(self) -> Iterator[str]:
        """What was asked for in one branch, one after the other, has happened in that order."""
        first: dict[str, float] = {}
        for met in self.story.met:
            first.setdefault(met.path, met.at)
        asked = [
            deed
            for deed in self.deeds
            if deed.verb in ("ask", "ask on") and not deed.key and deed.done and deed.path in first
        ]
        for one in asked:
            for two in asked:
                known = one.value in ("recorded", "returned") and (one.ended or 0.0) < two.begun
                if one.branch == two.branch and known and first[one.path] > first[two.path]:
                    yield f"{one.path} was asked for before {two.path}, and has happened after it"

    # -- what branches have come to

    def tree(self, branch: str) -> str:
        return "tree" if branch else "outside"

    def ends(self, branch: str) -> list[Deed]:
        """What may have committed a branch."""
        return [
            deed for deed in self.deeds if deed.branch == branch and deed.verb in COMMITS and deed.may_be_done
        ]

    def stale_since(self, branch: str) -> float:
        """Tells since when a branch has been stale for certain: another fork of its parent was committed."""
        since = [deed.ended for deed in self.rivals(branch) if deed.ended is not None and deed.won]
        return min((at for at in since if at > self.forked(branch)), default=float("inf"))

    def left_behind(self, branch: str, end: Deed) -> bool:
        """Tells whether a branch may have been stale when it came to its parent: only its files did, then.

        A commit that was killed, or that raised, may have made it so; `commit()` itself refuses one that is.
        """
        return end.verb != "commit" and any(
            deed.may_be_done and deed.begun < (end.ended or float("inf"))
            for deed in self.rivals(branch)
            if deed.ended is None or deed.ended > self.forked(branch)
        )

    def rivals(self, branch: str) -> Iterator[Deed]:
        """Gives what commits other forks of a branch's parent, if it does: explorations fork their own."""
        parent = self.parents.get(branch)
        for deed in self.deeds:
            of_other = (
                deed.verb in COMMITS and deed.branch != branch and self.parents.get(deed.branch) == parent
            )
            if parent is not None and (of_other or (deed.verb == "explore" and deed.branch == parent)):
                yield deed

    def forked(self, branch: str) -> float:
        return next(
            (deed.begun for deed in self.deeds if deed.verb in ("fork", "checkout") and branch in deed.names),
            0.0,
        )

    def may_reach_root(self, asked: Deed) -> bool:
        """Whether what was asked for may happen."""
        at, since = asked.branch, asked.begun
        while at not in self.roots:
            stale = self.stale_since(at)
            # What a stale branch was waiting with is dropped, also where its files are committed later. A fork of an
            # instance may go on when its branch is stale, and asks on behalf of whatever the branch becomes.
            ways = [
                each
                for each in self.ends(at)
                if (each.ended is None or each.ended > since) and not (stale < each.begun and since < stale)
            ]
            if not ways:
                return False
            since = min(each.begun for each in ways)
            at = self.parents[at]
        return True


def path_of(url: str) -> str:
    return url.removeprefix("http://shop.example")


def fails(path: str) -> bool:
    return path.rpartition("/")[2] in (DEAF, CUT, HALF)
