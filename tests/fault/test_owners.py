"""Owners of layers that were killed: dead, whoever has their number now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kibo.branch.history import History
from kibo.branch.owning import running, sweep
from kibo.runtime.layers.home import prepare_home
from kibo.store.address import own_url
from kibo.store.database import Store

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = """
import sys
from pathlib import Path
from kibo.branch.owning import Owner
owner = Owner(Path(sys.argv[1]))
owner.begin("br_1")
layer = owner.new()
(Path(sys.argv[1]) / "deltas" / layer / "u").mkdir(parents=True)
print(layer, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    prepare_home(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE)},
    )
    with process:
        yield process
        process.kill()


def test_an_owner_whose_number_another_process_has_now_is_dead(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert owner.stdout is not None
    layer = tmp_path / "deltas" / owner.stdout.readline().strip()
    with Store.open(own_url(tmp_path)) as store:
        sweep(tmp_path, History(store))
        assert layer.exists()
        assert running(tmp_path) == {"br_1": owner.pid}
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        (lock,) = (tmp_path / "run").glob("*.deltas")
        # As the kernel would have it: the number is that of a living process, this one.
        lock.write_text(lock.read_text().replace(f"{owner.pid}\n", f"{os.getpid()}\n", 1))
        assert running(tmp_path) == {}
        sweep(tmp_path, History(store))
    assert not layer.exists()
    assert not lock.exists()
