"""Branches: alternative lines of execution, forked, compared, committed or aborted.

``kibo.branch`` is this package and, called, begins a tree of branches: Python knows one thing by one name.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kibo.branch.branch import Branch


class _Branches(ModuleType):
    def __call__(
        self,
        goal: str = "",
        *,
        name: str = "main",
        record: bool | str = False,
        replay: str | os.PathLike[str] | None = None,
    ) -> Branch:
        """Begins a tree of branches; see `kibo.wiring.branches.branch`."""
        import kibo

        branch: Branch = kibo._branch(goal, name=name, record=record, replay=replay)
        return branch


sys.modules[__name__].__class__ = _Branches
