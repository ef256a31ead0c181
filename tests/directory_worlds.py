"""Branches that are directories on this machine, with an instance that does there what the box `Coder` does in its own.

They copy whole trees: for small repositories. `tests/contract/test_explore_worlds.py` holds them to what branches are.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.fix_tests.coder import FIXES, Coder, failing, replace_once, run_tests

from fake_worlds import FakeInstance, FakeWorld
from kibo.box.tools import tools
from kibo.model.errors import ActionRaised, InstanceEnded
from kibo.runtime.commandline import Completed


class DirectoryWorld(FakeWorld):
    """A branch whose files are a directory of its own beside its parent's."""

    def __init__(self, place: Path, name: str = "main", parent: DirectoryWorld | None = None) -> None:
        super().__init__(name, parent)
        self.place = place

    def spawn(self) -> Desk:
        return Desk(self, super().spawn().key)

    def fork(self, n: int, *, names: Sequence[str] = ()) -> list[FakeWorld]:
        with self.guard:
            self._check()
            self._seal()
            return [self._copy(name) for name in list(names) or [str(index) for index in range(n)]]

    def _copy(self, name: str) -> DirectoryWorld:
        place = self.place.parent / f"fork-{len(self.family)}"
        shutil.copytree(self.place, place, symlinks=True)
        return DirectoryWorld(place, name, self)

    def __getitem__(self, instance: FakeInstance) -> Desk:
        return Desk(self, instance.key)

    def commit(self) -> None:
        with self.guard:
            super().commit()
            assert isinstance(self.parent, DirectoryWorld)
            shutil.rmtree(self.parent.place)
            shutil.copytree(self.place, self.parent.place, symlinks=True)


class Desk(FakeInstance):
    """The actions of `Coder`, done in a branch's directory."""

    branch: DirectoryWorld

    def tools(self, format: Any = "openai") -> list[dict[str, Any]]:
        return tools(Coder(), format)

    def failures(self) -> int:
        return len(failing(self.report()))

    def report(self) -> str:
        return self._do(run_tests, self.branch.place)

    def read(self, path: str) -> str:
        return self._do((self.branch.place / path).read_text)

    def edit(self, path: str, old: str, new: str) -> str:
        return self._do(replace_once, self.branch.place / path, old, new)

    def try_fix(self, hint: str) -> int:
        self.edit(*FIXES[hint])
        return self.failures()

    def exec(self, command: str, *, timeout_s: float | None = None) -> Completed:
        def run() -> Completed:
            done = subprocess.run(
                command, shell=True, cwd=self.branch.place, capture_output=True, text=True, timeout=timeout_s
            )
            return Completed(done.stdout, done.stderr, done.returncode)

        return self._do(run)

    def _do(self, fn: Any, *arguments: Any) -> Any:
        with self._call():
            pass
        try:
            result = fn(*arguments)
        except (ValueError, OSError, RuntimeError) as error:
            raise ActionRaised(str(error), remote_type=type(error).__name__) from None
        if self.branch.ended.is_set():
            raise InstanceEnded("the branch was ended during the call")
        return result
