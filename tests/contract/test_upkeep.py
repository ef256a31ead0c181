"""What `kibo up` does about an error that nobody foresaw: it ends, and does not stay up without its triggers."""

from __future__ import annotations

from pathlib import Path

import pytest

import databases
from kibo.schedule.submitting import Submission
from kibo.schedule.triggering import Triggers
from kibo.store.database import Store
from kibo.wiring.upkeep import Upkeep


def test_what_ends_it_is_raised_to_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Triggers) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(Triggers, "step", broken)
    with Store.open(databases.new_history(tmp_path)) as store:
        upkeep = Upkeep(store, Submission(store), tmp_path / "wants")
        with pytest.raises(ZeroDivisionError):
            upkeep.wait()
        upkeep.close()
