"""Running sessions of this user's other processes: what there is, and orders to their wardens.

A session leaves a socket at ``run/<session>/warden.sock`` of the state directory, which only its user can reach, and
its warden takes the same orders there as from the process that owns it.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kibo.model.errors import InstanceUnknown, InvalidInput, RuntimeLost
from kibo.runtime.channel import close_all
from kibo.runtime.orders import Orders
from kibo.runtime.session import FACTS_FILE
from kibo.runtime.waiting import Blocking, run

if TYPE_CHECKING:
    from kibo.runtime.instance import RunningBox

#: A warden does one short thing at a time; one that is silent for so long will not answer.
ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """One cell of a session.

    Attributes:
        id: The instance's or the state's.
        name: What its user calls it; may be empty.
        box: The box, by the names of its parts.
        state: Where it is in its life: ``live`` for an instance that runs.
        age_s: Seconds since it was made.
        source: The state that it was forked from, or empty.
        session: The session that holds it.
    """

    id: str
    name: str
    box: str
    state: str
    age_s: float
    source: str
    session: AttachedSession

    @property
    def is_instance(self) -> bool:
        """Whether it is an instance, and not a state that instances are forked from."""
        return not self.id.startswith("state_")


class AttachedSession(Orders):
    """A session that another process owns. Its end there ends it here; unreferenced here, it runs on."""

    def __init__(self, directory: Path) -> None:
        """Connects.

        Args:
            directory: The session's own, below ``run``.

        Raises:
            RuntimeLost: Nobody serves there any more, or not yet.
        """
        self.name = directory.name
        # Like the owner's, these orders are this process's alone and not its forks'.
        self.owner_pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            told = json.loads((directory / FACTS_FILE).read_bytes())
            _connect(self._socket, directory / "warden.sock")
        except (OSError, ValueError) as error:
            self._socket.close()
            raise RuntimeLost(f"session {self.name} has ended", details={"session": self.name}) from error
        self.holder_pid: int = told["owner_pid"]
        self.started_s: float = told["started_s"]
        self.facts: dict[str, Any] = told["facts"]
        weakref.finalize(self, self._socket.close)

    @property
    def alive(self) -> bool:
        """Whether this process can give it orders; that the warden still takes them shows when it is given one."""
        return self.owner_pid == os.getpid() and self._socket.fileno() >= 0

    def cells(self) -> list[Found]:
        """Lists its instances and states, oldest first."""
        told: list[dict[str, Any]] = []
        after: float | None = 0.0
        while after is not None:
            answer, _ = run(self.ask(Blocking(), "list", {"after": after}, timeout_s=ANSWER_TIMEOUT_S))
            after = answer["after"]
            told += answer["cells"]
        now = time.monotonic()
        return [self._found(cell, now) for cell in told]

    def _found(self, cell: dict[str, Any], now: float) -> Found:
        return Found(
            id=cell["id"],
            name=cell["name"],
            box=cell["label"],
            state=cell["state"],
            age_s=now - cell["made"],
            source=cell["source"],
            session=self,
        )

    def process_of(self, cell: str) -> int:
        """Returns the number of a cell's first process as this process's /proc has it; 0 where it has none there.

        Source: pidfd_open(2), and fdinfo in proc(5).
        """
        _, descriptors = run(self.ask(Blocking(), "process", {"id": cell}, timeout_s=ANSWER_TIMEOUT_S))
        try:
            for line in Path(f"/proc/self/fdinfo/{descriptors[0]}").read_text().splitlines():
                if line.startswith("Pid:"):
                    return max(0, int(line.split()[1]))
            return 0
        finally:
            close_all(descriptors)


def _connect(sock: socket.socket, path: Path) -> None:
    here = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By descriptor, because a socket's path may have 107 bytes and a home directory's more.
        sock.connect(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def sessions(home: Path) -> list[AttachedSession]:
    """Connects to every running session of a state directory, oldest first. Skips those that are ending."""
    found = []
    run_directory = home / "run"
    for directory in run_directory.iterdir() if run_directory.is_dir() else ():
        try:
            found.append(AttachedSession(directory))
        except RuntimeLost:
            continue  # killed with its keeper, or about to be gone: nothing runs in it
    return sorted(found, key=lambda session: session.started_s)


def list_cells(home: Path) -> list[Found]:
    """Lists the instances and states of every session, oldest session first."""
    found = []
    for session in sessions(home):
        try:
            found += session.cells()
        except (RuntimeLost, TimeoutError):
            continue  # it ended while we asked
    return found


def find(home: Path, reference: str) -> Found:
    """Finds an instance by its id, the beginning of its id, or its name.

    Args:
        home: The state directory.
        reference: At least four digits of an id, with or without its prefix; or a name.

    Raises:
        InstanceUnknown: None is called that.
        InvalidInput: Several are.
    """
    instances = [cell for cell in list_cells(home) if cell.is_instance]
    exact = [cell for cell in instances if reference in (cell.id, cell.name)]
    digits = reference.removeprefix("inst_")
    begins = [cell for cell in instances if len(digits) >= 4 and cell.id.startswith(f"inst_{digits}")]
    matches = exact or begins
    if len(matches) > 1:
        ids = ", ".join(cell.id for cell in matches)
        raise InvalidInput(f"{reference!r} may be any of {ids}", hint="Give the whole id.")
    if not matches:
        raise InstanceUnknown(
            f"there is no running instance {reference!r}",
            hint="`kibo ps` lists what runs; `kibo spawn` starts one.",
            details={"instance": reference},
        )
    return matches[0]


def attach(cell: Found) -> RunningBox:
    """Returns an instance of another process, for commands, files, logs, changes and its end."""
    from kibo.runtime.handle import Handle  # late: who lists instances holds none
    from kibo.runtime.instance import RunningBox

    return RunningBox(Handle(cell.session, cell.id, Blocking()))
