"""Branches of boxes whose history is in a database of its own, as users have it: by one setting, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import databases
import kibo
from kibo import Allow, wiring
from kibo.model.errors import BranchStale, MergeConflict, WrongState
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.trees.conflict import THEIRS
from kibo.wiring.records import Records
from own_runtimes import own_runtime
from patience import eventually
from payer_boxes import Payer
from running_till import Till
from value_boxes import Values

#: What nobody may see.
PASSWORD = "kibo"

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", params=["postgresql", pytest.param("mariadb", marks=pytest.mark.soak)])
def place(home: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A state directory of its own, whose history is in a database of a server."""
    prepare_home(home)  # this may be the first test of all
    with (
        databases.server(request.param) as url,
        own_runtime(home),
        pytest.MonkeyPatch.context() as environment,
    ):
        made = wiring.runtime().home
        # PostgreSQL is told to ask for no password, and takes any.
        store = databases.new_database(url).replace("//kibo@", f"//kibo:{PASSWORD}@")
        environment.setenv("KIBO_STORE", store)
        environment.setenv("KIBO_HOME", str(made))
        yield made


def cli(*arguments: str, status: int = 0) -> Any:
    command = [sys.executable, "-m", "kibo.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert f":{PASSWORD}@" not in done.stdout + done.stderr, "a password was printed"
    return json.loads(done.stdout if status == 0 else done.stderr or done.stdout)


def test_boxes_are_forked_committed_merged_applied_and_gone_on_from(
    place: Path, till: Till, shop: Till, calls: ThreadPoolExecutor, tmp_path: Path
) -> None:
    class Customer(Payer):
        """Pays at the shop."""

        egress = [Allow("shop.example", to=till.address)]

    work = tmp_path / "work"
    work.mkdir()
    (work / "kept").write_text("kept")
    with kibo.branch("over a server", name="tree") as main:
        box, payer = main.spawn(Values(), workspace=work), main.spawn(Customer())
        box.put("first", 1)
        main.context.user("begin")
        sealed = main.snapshot("sealed")
        one, two, three = main.fork(3, names=["one", "two", "three"])
        assert one.live
        one[box].put("who", "one")
        one.context.assistant("one did it")
        two[box].put("who", "two")
        paying = calls.submit(one[payer].pay)
        eventually(one.waits_at_boundary)
        assert [each.item.state for each in kibo.compare(sealed, one).effects] == ["held"]
        one.commit()
        assert paying.result(20) == "receipt 1 for /pay"
        assert shop.paid == ["/pay"]
        with pytest.raises(BranchStale):
            two.commit()
        with pytest.raises(MergeConflict):
            two.merge()
        two.merge(lambda conflict: THEIRS)
        three.abort()
        assert (box.get("first"), box.seen()["who"]) == (None, "'two'"), "joined files, with a fresh guest"
        assert [hit.entry.text for hit in main.context.search("did")] == ["one did it"]
        main.apply()
    assert (work / "who").read_text() == "'two'"
    assert not (place / "history.db").exists()
    shown = {each["name"]: each["status"] for each in cli("tree", "--all")}
    assert shown == {"tree": "committed", "one": "committed", "two": "committed", "three": "aborted"}
    assert {each["path"] for each in cli("diff", "sealed", "tree")["files"]} >= {"/work/who"}
    with kibo.checkout("sealed", Values(), Customer()) as again:
        assert again["Values"].seen() == {"first": "1", "kept": "kept"}


def test_doctor_says_where_the_history_is_and_not_the_password(place: Path) -> None:
    (history,) = (each for each in cli("doctor")["checks"] if each["name"] == "history")
    assert history["ok"]
    assert "://kibo:***@127.0.0.1:" in history["found"]
    assert history["found"].endswith(", by KIBO_STORE")


def test_a_directory_and_its_database_are_opened_together_or_not_at_all(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with kibo.branch("to be kept") as main:
        main.spawn(Values()).put("kept", 1)
    layers, right = set(os.listdir(place / "deltas")), os.environ["KIBO_STORE"]
    monkeypatch.setenv("KIBO_STORE", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(WrongState, match="in another database"):
        Records(place)
    monkeypatch.delenv("KIBO_STORE")
    assert cli("gc", "--closed", "0s", status=75)["error"]["code"] == "state.wrong"
    assert layers <= set(os.listdir(place / "deltas")), "a history that does not name them has not had a look"
    (place / "kibo.toml").write_text(f'[store]\nurl = "{right}"\n')
    assert "to be kept" in {each["goal"] for each in cli("tree", "--all")}
    prepare_home(tmp_path / "home")
    monkeypatch.setenv("KIBO_STORE", right)
    with pytest.raises(WrongState, match="of another state directory"):
        Records(tmp_path / "home")
