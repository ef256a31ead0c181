"""A running box as coroutines: commands, logs, changes and its end. Every face of an instance is thin over this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal

from kibo.model.errors import DiskFull, InstanceEnded, KiboError, RuntimeLost, Unavailable, WrongState
from kibo.model.limits import MAX_EXEC_OUTPUT_BYTES
from kibo.model.record import Record
from kibo.runtime import commandline, wire
from kibo.runtime.channel import Channel
from kibo.runtime.commandline import Command, Completed, Process, Terminal
from kibo.runtime.files import content_of
from kibo.runtime.orders import Orders, lost
from kibo.runtime.refusals import refusal_error
from kibo.runtime.waiting import Waiting

#: Why an instance ended whose layer on disk grew past its limit.
OUT_OF_DISK: Final = "out of disk space"
#: The same with more files in it than its limit.
OUT_OF_FILES: Final = "out of files"
#: Why all instances of a runtime ended at once.
RUNTIME_ENDED: Final = "the runtime ended"


class Change(Record):
    """One file that a box changed.

    Attributes:
        kind: ``"added"``, ``"changed"`` or ``"removed"``.
        path: Absolute, in the box; a directory's ends in ``/``.
        size: In bytes; 0 for what was removed and for directories.
    """

    kind: str
    path: str
    size: int


class Handle:
    """One running box, held by the process that spawned it or by another of the same user."""

    def __init__(self, session: Orders, instance: str, waiting: Waiting) -> None:
        self.session = session
        self.instance = instance
        self.waiting = waiting
        self.ended = ""
        #: Why it is about to end: it goes on for those alone who undo what was done in it.
        self.ending = ""

    def check(self) -> None:
        """Refuses calls once the end is known.

        Raises:
            InstanceEnded: It is.
            WrongState: This process was forked from the one that holds the instance.
        """
        self.check_running()
        if self.ending:
            raise ended_error(self.ending)

    def check_running(self) -> None:
        """As `check`, for those who may still call one that is about to end."""
        if self.session.owner_pid != os.getpid():
            raise WrongState(
                "the instance belongs to the process that this one was forked from",
                hint="Spawn one here: two processes would mix up their calls to one guest.",
            )
        if self.ended:
            raise ended_error(self.ended)

    async def rouse(self) -> None:
        """Has an instance that sleeps since it was forked go on in good order, if it has to be told to."""

    def rouse_blocking(self) -> None:
        """As `rouse`, at once."""

    async def status(self) -> Literal["running", "ended"]:
        """Tells whether it runs."""
        if self.ended or not self.session.alive:
            return "ended"
        try:
            answer, _ = await self.session.ask(self.waiting, "list", {"id": self.instance})
        except RuntimeLost:
            return "ended"
        return "running" if answer["cells"] else "ended"

    async def execute(
        self,
        command: Command,
        *,
        timeout_s: float | None,
        cwd: str | None,
        stdin: bytes | str,
        variables: Mapping[str, str] | None,
    ) -> Completed:
        """Runs a command to its end; see `Instance.exec`."""
        self.check()
        await self.rouse()
        return await commandline.execute(
            self.waiting,
            self.session,
            self.instance,
            command,
            stdin=content_of(stdin),
            cwd=cwd,
            variables=variables,
            timeout_s=timeout_s,
        )

    def start(self, command: Command, cwd: str | None, variables: Mapping[str, str] | None) -> Process:
        """Starts a command with pipes to its streams; see `Instance.popen`."""
        self.check()
        self.rouse_blocking()
        return Process(self.session, self.instance, command, cwd, variables)

    def terminal(self, command: Command, rows: int, columns: int) -> Terminal:
        """Starts a command on a terminal; see `Instance.shell`."""
        self.check()
        self.rouse_blocking()
        return Terminal(self.session, self.instance, command, rows, columns)

    async def log_file(self, service: str = "") -> int:
        """Returns a descriptor of what its actions, or a service, printed; the caller's, for positional reads."""
        self.check()
        _, descriptors = await self.session.ask(
            self.waiting, "log", {"id": self.instance, "service": service}
        )
        return descriptors[0]

    async def logs(self, tail_bytes: int | None, service: str = "") -> str:
        """Returns what its actions printed; see `Instance.logs`."""
        fd = await self.log_file(service)
        try:
            # The box may give its log any size, without writing as much.
            size = os.fstat(fd).st_size
            wanted = min(size, tail_bytes or MAX_EXEC_OUTPUT_BYTES, MAX_EXEC_OUTPUT_BYTES)
            return os.pread(fd, wanted, size - wanted).decode(errors="replace")
        finally:
            os.close(fd)

    async def diff(self) -> list[Change]:
        """Lists what it changed since it was spawned, in order of path."""
        self.check()
        channel, theirs = Channel.pair()
        try:
            self.session.order("diff", {"id": self.instance}, [theirs.fileno()])
            theirs.close()
            found: list[Change] = []
            while batch := await channel.receive(self.waiting):
                if batch[0] == "failed":
                    raise refusal_error(batch[2])
                found += [
                    Change(kind=kind, path=f"/{os.fsdecode(path)}", size=size) for kind, path, size in batch
                ]
            return found
        except wire.Closed:
            raise await self.why_gone() from None
        finally:
            theirs.close()
            channel.close()

    async def why_gone(self) -> KiboError:
        """Finds out why something that ran in the box ended: with the box, or alone."""
        if not self.session.alive:
            self.ended = RUNTIME_ENDED
            return lost()
        if await self.session.lives_on(self.waiting, self.instance):
            return Unavailable(
                "what the runtime ran in the box was ended", hint="Call again; the instance lives on."
            )
        answer, _ = await self.session.ask(self.waiting, "destroy", {"id": self.instance})
        self.ended = self.ended or str(answer["reason"])
        return ended_error(self.ended)

    async def destroy(self) -> None:
        """Ends it. Returns once its last process is gone. Cancelled, it has been ordered and goes on."""
        try:
            if self.session.alive:
                await self.session.ask(self.waiting, "destroy", {"id": self.instance})
        except RuntimeLost:
            pass  # the kernel has ended it with the runtime
        finally:
            self.ended = self.ended or "destroyed"


def ended_error(reason: str) -> KiboError:
    """The error for a call on an instance that is gone."""
    if reason == OUT_OF_DISK:
        return DiskFull(
            "the instance wrote more to its files than its box may, and was ended",
            hint="Raise Limits.disk_bytes, or write less.",
        )
    if reason == OUT_OF_FILES:
        return DiskFull(
            "the instance made more files than its box may, and was ended",
            hint="Raise Limits.disk_files, or make fewer; its branch's diff() lists them.",
        )
    of_branch = reason.startswith("its branch")
    return InstanceEnded(
        f"the instance has ended: {reason}",
        hint="What it wrote can be read, by the branch's diff(). Go on in its parent, or fork that again."
        if of_branch
        else "Spawn another one.",
    )
