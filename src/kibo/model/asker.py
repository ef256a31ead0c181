"""On whose behalf a box asks the outside world for something."""

from typing import Final, NamedTuple

from kibo.model.ids import ReplayId


class Asker(NamedTuple):
    """The branch that an instance is in.

    Attributes:
        branch: Its id; empty outside of branches.
        tree: That of its root.
        holds: Whether effects wait until it is committed: it is not a root.
        tape: The recording that its traffic goes into, or the replay that answers it; empty for neither.
    """

    branch: str = ""
    tree: str = ""
    holds: bool = False
    tape: str = ""

    @property
    def replays(self) -> bool:
        """Whether a recording answers, and nothing is sent."""
        return self.tape.startswith(ReplayId.prefix)

    @property
    def scope(self) -> str:
        """Within which a key names one intent; empty outside of branches. A replay is a world of its own: what was
        answered there has not happened, and whoever goes on from it without a recording does it.
        """
        return self.tape if self.replays else self.tree


#: Who asks on behalf of no branch.
NOBODY: Final = Asker()
