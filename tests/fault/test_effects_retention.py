"""A collection of the ledger that is killed has removed whole effects with their keys, and the next one goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from effect_drafts import call
from kibo.effects import retention
from kibo.effects.calls import Calls
from kibo.effects.ledger import Ledger
from kibo.effects.records import PACK, Effect
from kibo.store import crash
from kibo.store.database import Store
from kibo.store.prepared import Prepared
from kibo.store.schema import call_keys

pytestmark = pytest.mark.fault

SOURCE = Path(retention.__file__)
POINTS = sorted(set(re.findall(r'crash\.point\("([^"]+)"\)', SOURCE.read_text())))
COUNT = 6
PROGRAM = """
import sys, time
from kibo.effects import retention
from kibo.store.database import Store
retention._BATCH_BYTES = 1
retention.collect(Store.open(sys.argv[1]), 0.0, now=time.time() + 365 * 86400)
"""
_KEYS = Prepared(select(call_keys.c.name))


def collect(url: str, crash_at: str = "") -> int:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE.parents[2])}
    if crash_at:
        environment[crash.VARIABLE] = crash_at
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url], capture_output=True, text=True, env=environment
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("passage", [1, COUNT])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_what_is_left_is_whole_and_the_next_collection_goes_on(
    tmp_path: Path, point: str, passage: int
) -> None:
    url = f"sqlite:///{tmp_path}/history.db"
    store = Store.open(url)
    calls, ledger = Calls(store), Ledger(store)
    for number in range(COUNT):
        made = calls.begin(call(key=f"k{number}"), "call_1")
        assert isinstance(made, Effect)
        calls.returned(made.id, PACK.encode("ok"))
    waits = calls.begin(call(key="waits"), "call_1")
    assert isinstance(waits, Effect)

    def left() -> int:
        keys = len(store.read(lambda tx: tx.rows(_KEYS)))
        assert keys == len(ledger.listed()), "a key for each call, and a call for each key"
        return keys - 1

    assert collect(url, f"{point}:{passage}") == -signal.SIGKILL, "the point was not passed"
    assert left() == COUNT - passage + (point == "forget.before_removing")
    assert collect(url) == 0
    assert left() == 0
    assert [effect.id for effect in ledger.listed()] == [waits.id]
    store.close()
