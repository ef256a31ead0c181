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


#: Who asks on behalf of no branch.
NOBODY: Final = Asker()
