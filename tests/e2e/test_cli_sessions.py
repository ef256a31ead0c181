"""Sessions on the command line: a program that asks for a person, and the person."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures
from kibo.effects.sessions.register import Register
from kibo.store.database import Store

PROGRAM = """
import kibo

profile = kibo.session("shop.example/ada")
with profile.lease() as lease:
    lease.hand_over("enter the code \\x1b[2J that was sent", timeout_s=50)
    print(len(profile.versions()))
"""


def test_a_program_asks_and_a_person_takes_and_gives(cli: Cli, home: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "no sessions" in cli("sessions").stdout
    assert "there is no session" in cli("sessions", "take", "nobody", str(tmp_path / "x"), status=66).stderr
    (tmp_path / "by hand").mkdir()
    (tmp_path / "by hand/cookie").write_bytes(b"half")
    given = cli.json("sessions", "give", "shop.example/ada", str(tmp_path / "by hand"))
    assert (given["version"], given["awaited"], given["changed"]) == (1, False, ["cookie"])
    variables = {**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=variables, stdout=subprocess.PIPE, text=True
    )
    with program:
        with Store.open(f"sqlite:///{home}/history.db") as store:
            register = Register(store)
            profile = register.find("shop.example/ada").id
            while not any(row.with_person for row in register.queue(profile)):
                assert program.poll() is None
                time.sleep(0.05)
        table = cli("sessions").stdout
        assert "enter the code \\x1b[2J that was sent" in table
        assert "\x1b" not in table
        mine = tmp_path / "mine"
        taken = cli("sessions", "take", "shop.example/ada", str(mine)).stdout
        assert "enter the code" in taken
        assert (mine / "cookie").read_bytes() == b"half"
        assert cli.json("sessions")[0]["directory"] == str(mine)
        assert "already" in cli("sessions", "take", "shop.example/ada", str(tmp_path / "b"), status=75).stderr
        (mine / "cookie").write_bytes(b"whole")
        (mine / "link").symlink_to("/")
        said = cli("sessions", "give", "shop.example/ada", str(mine)).stdout
        assert "the program that waited goes on" in said
        assert "links are no part" in said
        out, _ = program.communicate(timeout=30)
    assert out == "2\n"
    (found,) = cli.json("sessions")
    assert (found["state"], found["version"], found["files"], found["waiting"]) == ("free", 2, 1, 0)
    assert "nobody had" in cli("sessions", "revoke", "shop.example/ada").stdout
