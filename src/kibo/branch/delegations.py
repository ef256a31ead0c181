"""What has become of delegations, for whoever asks: also where those that saw to them are gone and could not say.

Nothing is written for one that is lost: that a process has ended is so, whoever is the first to ask.
"""

from __future__ import annotations

from collections.abc import Callable

from kibo.branch.records import BranchRecord
from kibo.hub.mailboxes import Delegation
from kibo.model.message import DelegationRecord


def told(known: Delegation, branch: BranchRecord, lives: Callable[[str], bool]) -> DelegationRecord:
    """Tells what has become of a delegation that a branch has in its log.

    Args:
        known: What the log says of it.
        branch: It.
        lives: Tells whether a process lives, by its name.
    """
    begun, ended = known.begun, known.ended
    state, why = ("begun", _lost(known, branch, lives)) if ended is None else (ended.state, ended.why)
    if ended is None and why:
        state = "lost"
    return DelegationRecord(
        begun.id, begun.sender, begun.to, begun.action, state, why, begun.branch, known.seq, known.at_s
    )


def _lost(known: Delegation, branch: BranchRecord, lives: Callable[[str], bool]) -> str:
    """Says why nobody will note how one ends; empty where somebody will."""
    if known.begun.branch != branch.id:
        return f"it was begun in branch {known.begun.branch}, and this one knows of no end"
    if branch.status in ("committed", "aborted"):
        return f"its branch was {branch.status} before it ended"
    return "" if lives(known.begun.process) else "the process that saw to it has ended"
