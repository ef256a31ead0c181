"""Mail in a tree of branches, against a model of lists: whatever is forked, committed and aborted in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import databases
from kibo.branch.history import History
from kibo.hub.post import Post
from kibo.model.errors import BranchStale
from kibo.store.database import Store
from letters import taken

NAMES = ["a", "b"]


@dataclass
class World:
    """What one branch is to have: unread messages by recipient, keys that were used, and what was handled in it."""

    unread: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})
    keys: set[str] = field(default_factory=set)
    handled: list[int] = field(default_factory=list)

    def copy(self) -> World:
        unread = {name: list(listed) for name, listed in self.unread.items()}
        return World(unread, set(self.keys), list(self.handled))


class Tree(RuleBasedStateMachine):
    """Sends, handles, gives back, forks, commits, aborts, and reads anew, in any order."""

    branches = Bundle("branches")

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-model-"))
        self.store = Store.open(databases.new_history(self.place))
        self.history = History(self.store)
        self.worlds: dict[str, World] = {}
        self.posts: dict[str, Post] = {}
        self.parents: dict[str, str | None] = {}
        self.stale: set[str] = set()
        self.count = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.place)

    def _open(self, branch: str) -> bool:
        return branch in self.worlds

    def _moved(self, branch: str) -> None:
        """Forks of a branch that has written cannot be committed any more."""
        self.stale |= {child for child, parent in self.parents.items() if parent == branch}

    @rule(target=branches)
    def begin(self) -> str:
        branch = str(self.history.create().id)
        self.worlds[branch], self.parents[branch] = World(), None
        self.posts[branch] = Post(self.history.log, branch)
        return branch

    @rule(branch=branches, to=st.sampled_from(NAMES), key=st.sampled_from([None, "k", "l"]))
    def send(self, branch: str, to: str, key: str | None) -> None:
        if not self._open(branch):
            return
        self.count += 1
        world = self.worlds[branch]
        self.posts[branch].send("a", [(to, "")], self.count, key=key)
        if key is None or key not in world.keys:
            world.unread[to].append(self.count)
            self._moved(branch)
        if key is not None:
            world.keys.add(key)

    @rule(branch=branches, name=st.sampled_from(NAMES), most=st.integers(1, 3), lost=st.booleans())
    def handle(self, branch: str, name: str, most: int, lost: bool) -> None:
        """Handles some, or is killed in it: then another process finds them unread."""
        if not self._open(branch):
            return
        world, mail = self.worlds[branch], self.posts[branch]
        found = taken(mail, name, most)
        expected = world.unread[name][: len(found)]
        assert [body for _, body in found] == expected
        assert bool(found) == bool(world.unread[name])
        if found:
            self._moved(branch)
        if lost:
            # Returned as not seen: what is killed counts an attempt, and five are the end of a letter.
            mail.settle(unseen=[letter for letter, _ in found])
            self.posts[branch] = Post(self.history.log, branch)
            return
        mail.settle([letter for letter, _ in found])
        del world.unread[name][: len(found)]
        world.handled += expected

    @rule(target=branches, branch=branches, shared=st.booleans())
    def fork(self, branch: str, shared: bool) -> str:
        if not self._open(branch):
            return branch
        (record,) = self.history.fork(branch)
        child = str(record.id)
        self.worlds[child], self.parents[child] = self.worlds[branch].copy(), branch
        self.posts[child] = Post(
            self.history.log, child, boxes=self.posts[branch].share() if shared else None
        )
        return child

    @rule(branch=consumes(branches))
    def commit(self, branch: str) -> None:
        parent = self.parents.get(branch)
        if not self._open(branch) or parent is None or not self._open(parent):
            return
        if branch in self.stale:
            with pytest.raises(BranchStale):
                self.history.commit(branch)
            return
        self.history.commit(branch)
        self._moved_if_new(branch, parent)
        self.worlds[parent] = self.worlds.pop(branch)
        self.posts[parent].replace(self.posts.pop(branch).share())

    def _moved_if_new(self, branch: str, parent: str) -> None:
        head = self.history.get(parent).head
        self.stale |= {
            child
            for child, above in self.parents.items()
            if above == parent
            and child != branch
            and self._open(child)
            and self.history.get(child).base != head
        }

    @rule(branch=consumes(branches))
    def abort(self, branch: str) -> None:
        if self._open(branch):
            for ended in self.history.abort(branch):
                self.worlds.pop(str(ended), None)

    @rule(branch=branches)
    def read_anew(self, branch: str) -> None:
        if self._open(branch):
            self.posts[branch] = Post(self.history.log, branch)

    @invariant()
    def each_branch_has_what_it_is_to_have_and_nothing_of_another(self) -> None:
        for branch, world in self.worlds.items():
            known = self.posts[branch].boxes()
            waiting = {name: known.waiting((name, "")) for name in NAMES}
            assert waiting == {name: len(unread) for name, unread in world.unread.items()}
            assert len(set(world.handled)) == len(world.handled)


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
