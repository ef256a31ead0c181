"""A process that applies one plan, or recovers, and may be killed at a named place.

Arguments: ``apply HOME FROZEN DELTA`` or ``recover HOME``.
"""

import sys
from pathlib import Path

from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
from kibo.branch.hostdir.recover import recover

home = Path(sys.argv[2])
if sys.argv[1] == "apply":
    apply(plan_apply(Frozen.load(home, sys.argv[3]), [sys.argv[4]]))
else:
    for found in recover(home):
        print(found.outcome, *found.kept)
