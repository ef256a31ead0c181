"""A process that applies one plan, or recovers, and may be killed at a named place.

Arguments: ``apply HOME FROZEN DELTA``, the same with the path of a file that somebody else writes once the first step
is done, or ``recover HOME``.
"""

import sys
from pathlib import Path

from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
from kibo.branch.hostdir.recover import recover
from kibo.store import crash


def write_meanwhile(path: Path) -> None:
    """Has a file written between two steps; what would kill this process still does."""
    kill = crash._hook

    def hook(passed: str) -> None:
        if passed == "apply.step":
            path.write_text("meanwhile")
        if kill is not None:
            kill(passed)

    crash.install(hook)


home = Path(sys.argv[2])
if sys.argv[1] == "apply":
    if len(sys.argv) > 5:
        write_meanwhile(Path(sys.argv[5]))
    apply(plan_apply(Frozen.load(home, sys.argv[3]), [sys.argv[4]]))
else:
    for found in recover(home):
        print(found.outcome, *found.kept)
