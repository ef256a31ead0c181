"""All that boxes may ask for from inside, put together: the one place where verbs are added."""

from __future__ import annotations

from kibo.branch import callouts as branches
from kibo.branch import mail_callouts
from kibo.runtime import callouts
from kibo.runtime.answering import Verbs
from kibo.wiring.branches import passing_branch


def verbs() -> Verbs:
    """Returns the verbs of every part, by name."""
    return {**callouts.VERBS, **mail_callouts.VERBS, **branches.verbs(passing_branch)}
