"""Another process of the same user attaches to a running session, as the command line does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kibo import Box, action, wiring
from kibo.model.errors import ActionExited, InstanceEnded, InstanceUnknown, InvalidInput, RuntimeLost
from kibo.runtime import attached
from kibo.runtime.attached import AttachedSession, attach, find, list_cells, sessions
from kibo.runtime.warden import PAGE_CELLS


class Quiet(Box):
    """Waits to be called."""

    @action
    def add(self, a: int, b: int) -> int:
        """Adds."""
        return a + b


def test_another_process_finds_and_uses_an_instance(home: Path) -> None:
    with wiring.runtime().spawn(Quiet(), name="quin") as quin:
        program = (
            "import sys; from pathlib import Path; from kibo.runtime.attached import attach, find\n"
            f"box = attach(find(Path({str(home)!r}), 'quin'))\n"
            "box.files.write('left', 'by another'); print(box.id, box.exec('id -un').stdout, box.diff()[0].path)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.split() == [quin.id, "box", "/work/left"]
        assert quin.files.read("left") == b"by another"
        assert quin.add(1, 2) == 3


def test_what_another_process_ends_has_ended_for_its_owner(home: Path) -> None:
    quin = wiring.runtime().spawn(Quiet())
    box = attach(find(home, quin.id))
    box.destroy()
    assert (box.status, quin.status) == ("ended", "ended")
    with pytest.raises(InstanceEnded):
        quin.add(1, 2)
    with pytest.raises(InstanceUnknown):
        find(home, quin.id)
    with pytest.raises(InstanceEnded):
        box.exec("true")


def test_instances_are_found_by_id_by_its_beginning_and_by_name(home: Path) -> None:
    with (
        wiring.runtime().spawn(Quiet(), name="one") as one,
        wiring.runtime().spawn(Quiet(), name="two") as two,
    ):
        for reference in (one.id, one.id[:13], one.id[5:13], "one"):
            assert find(home, reference).id == one.id
        assert find(home, "two").id == two.id
        with pytest.raises(InstanceUnknown):
            find(home, "inst_")
        with pytest.raises(InstanceUnknown):
            find(home, "three")
    with (
        wiring.runtime().spawn(Quiet(), name="same"),
        wiring.runtime().spawn(Quiet(), name="same"),
        pytest.raises(InvalidInput, match="any of"),
    ):
        find(home, "same")


def test_a_list_longer_than_a_message_is_whole(home: Path) -> None:
    made = [wiring.runtime().spawn(Quiet()) for _ in range(PAGE_CELLS * 2 + 5)]
    cells = list_cells(home)
    assert {box.id for box in made} <= {cell.id for cell in cells}
    assert len(cells) == len({cell.id for cell in cells})
    assert [cell.age_s for cell in cells] == sorted((cell.age_s for cell in cells), reverse=True)
    for box in made:
        box.destroy()


def test_the_process_of_an_instance_is_the_hosts_number(home: Path) -> None:
    with wiring.runtime().spawn(Quiet()) as box:
        pid = find(home, box.id).session.process_of(box.id)
        numbers = re.search(r"^NSpid:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert numbers is not None
        assert (numbers[1].split()[0], numbers[1].split()[-1]) == (str(pid), "1")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((ActionExited, InstanceEnded)):
            while True:
                box.add(1, 2)


def test_a_command_whose_box_is_killed_says_that_the_box_is_gone() -> None:
    for _ in range(20):
        with wiring.runtime().spawn(Quiet()) as box, box.popen(["sleep", "1000"]) as sleeper:
            attach(find(wiring.runtime().home, box.id)).exec("true")
            os.kill(find(wiring.runtime().home, box.id).session.process_of(box.id), signal.SIGKILL)
            with pytest.raises(InstanceEnded):
                sleeper.wait(10)


def test_nonsense_from_another_process_does_not_end_the_warden(home: Path) -> None:
    with wiring.runtime().spawn(Quiet()) as box:
        (session,) = sessions(home)
        path = home / "run" / session.name / "warden.sock"
        for nonsense in (b"x", b"\xc1" * 100, b"\x92\xa4none\x80", b"\x90", b"\x93\x01\x02\x03"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                attached._connect(sock, path)
                sock.send(nonsense)
        with pytest.raises(InstanceEnded):
            session.process_of("inst_0")
        assert box.add(1, 2) == 3


def test_a_session_that_has_ended_is_not_found(home: Path) -> None:
    box = wiring.runtime().spawn(Quiet())
    (session,) = sessions(home)
    wiring.runtime().close()
    assert sessions(home) == []
    assert list_cells(home) == []
    with pytest.raises(RuntimeLost):
        AttachedSession(home / "run" / session.name)
    with pytest.raises(RuntimeLost):
        session.cells()
    assert box.status == "ended"
