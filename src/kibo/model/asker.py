"""On whose behalf a box asks the outside world for something."""

from typing import Final, NamedTuple


class Asker(NamedTuple):
    """The branch that an instance is in.

    Attributes:
        branch: Its id; empty outside of branches.
        tree: That of its root.
        holds: Whether effects wait until it is committed: it is not a root.
    """

    branch: str = ""
    tree: str = ""
    holds: bool = False


#: Who asks on behalf of no branch.
NOBODY: Final = Asker()
