"""A lease from when it is asked for to its end, as coroutines that every face is thin over."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from kibo.effects.sessions import presence, register
from kibo.effects.sessions.content import Contents, Manifest, each_content, on_disk, packed
from kibo.effects.sessions.port import Copy, Waits
from kibo.effects.sessions.presence import Presence, Watch
from kibo.effects.sessions.register import LeaseRow, ProfileRow, Register
from kibo.effects.sessions.staging import staging as staging_of
from kibo.effects.sessions.versions import Save, Versions
from kibo.model.clock import up_s
from kibo.model.errors import InvalidInput, LeaseEnded, PersonTimedOut, ProfileBusy
from kibo.model.ids import LeaseId
from kibo.model.limits import LEASE_LOOK_S, LEASE_SETTLE_S
from kibo.store.database import Transaction
from kibo.store.wakeups import BELL, ringing

Result = TypeVar("Result")

#: What a person may be asked to do, in characters: a paragraph.
MAX_WHY: Final = 2000


class Saved(NamedTuple):
    """What a save came to.

    Attributes:
        version: The profile's newest version now; None where it waits for the commit of its branch.
        changed: Paths that were changed, added or removed by it; empty where it waits.
        conflicts: What another had changed too since the load, and this save won: paths, with the name of an entry
            where that alone is meant.
        left_out: Links, which are no part of a profile.
    """

    version: int | None
    changed: tuple[str, ...]
    conflicts: tuple[str, ...]
    left_out: tuple[str, ...]


class Place:
    """Where one profile is.

    Args:
        records: Who holds it.
        home: The state directory.
        row: The profile.
    """

    def __init__(self, records: Register, home: Path, row: ProfileRow) -> None:
        self.register: Final = records
        self.id: Final = row.id
        self.name: Final = row.name
        self.contents: Final = Contents(home / "profiles" / row.id)
        self.holders: Final = self.contents.place / "leases"
        self.versions: Final = Versions(records.store, row.id, self.contents)

    def gone(self, queue: list[LeaseRow]) -> set[str]:
        """Names those leases whose holders have ended."""
        return {row.id for row in queue if presence.is_dead(self.holders, row.id)}


class Lease:
    """One holder's claim on a profile.

    Args:
        place: Where the profile is.
        waiting: How to wait.
        holder: Who it is, for people.
    """

    def __init__(self, place: Place, waiting: Waits, holder: str = "") -> None:
        self.place: Final = place
        self.id: Final = LeaseId.new()
        self.epoch = 0
        self._waiting = waiting
        self._holder = holder or program()
        self._presence: Presence | None = None
        #: What of others it has to hear of while it waits, and after how long to look in any case.
        self._awaited: set[str] = set()
        self._again_s = LEASE_LOOK_S
        #: What boxes outside of branches have loaded or saved last.
        self._alone: dict[tuple[str, str], Manifest] = {}
        #: What was loaded last: the base of what a box saves that nobody knows to have loaded anything.
        self._last: Manifest = {}

    async def begin(self, wait_s: float, idle_s: float) -> None:
        """Waits for the profile, and takes it; see `kibo.wiring.sessions.Profile.lease`."""
        _check_seconds("wait_s", wait_s)
        _check_seconds("max_s", idle_s)
        try:
            await self._waiting.aside(lambda: self._ask(idle_s))
            if not await self._until(self._granted, wait_s):
                raise await self._waiting.aside(lambda: self._busy(wait_s))
            await self._waiting.aside(self._tidy)
        except BaseException:
            await self.end()
            raise

    def _ask(self, idle_s: float) -> None:
        place = self.place
        with on_disk(place.contents.place):
            place.contents.prepare()
            self._presence = Presence(place.holders, self.id)
        place.register.ask(place.id, self.id, self._holder, idle_s)

    def _tidy(self) -> None:
        """Removes what dead holders left, and has what was committed be part of the profile from here on."""
        presence.sweep(self.place.holders, {row.id for row in self.place.register.queue(self.place.id)})
        self.place.versions.newest()

    def _granted(self) -> bool:
        place = self.place
        queue = place.register.queue(place.id)
        if self.id not in (row.id for row in queue):
            raise LeaseEnded("the wait for the lease was ended: the session was revoked or forgotten")
        before = queue[: [row.id for row in queue].index(self.id)]
        gone: set[str] = set()
        for row in reversed(before):
            if presence.is_dead(place.holders, row.id):
                gone.add(row.id)
            elif not register.overdue(row):
                # Who comes just before is all there is to wait for, and that the holder is overdue.
                self._awaited = {row.id, BELL}
                first = before[0]
                self._again_s = first.expires - up_s() if first.epoch else LEASE_LOOK_S
                return False
        epoch = place.register.grant(place.id, self.id, gone)
        self.epoch = epoch or 0
        return epoch is not None

    def _busy(self, wait_s: float) -> ProfileBusy:
        place = self.place
        queue = [row for row in place.register.queue(place.id) if row.id != self.id]
        first = queue[0] if queue else None
        who = first.holder if first is not None else "another"
        since = first.since if first is not None else time.time()
        return ProfileBusy(
            f"session {place.name!r} is held by {who}, and was for the {wait_s:g} s of this wait",
            hint=f"Wait longer, or take it away: kibo sessions revoke {place.name!r}",
            details={
                "session": place.name,
                "holder": who,
                "since_s": since,
                "waiting": max(0, len(queue) - 1),
            },
        )

    async def end(self) -> None:
        """Ends it, or the wait for it. Idempotent; what was not saved is the box's alone."""
        await self._waiting.aside(self._end)

    def _end(self) -> None:
        sign, self._presence = self._presence, None
        if sign is None or sign.owner_pid != os.getpid():
            return
        try:
            self.place.register.end(self.id)
        finally:
            sign.end()

    # -- files

    async def load(self, copy: Copy, path: str, version: int | None) -> int:
        """Puts the profile's files into a box; see `kibo.wiring.sessions.Lease.load`. Returns how many."""
        self._check()
        place = self.place
        found, base = await self._waiting.aside(lambda: self._found(copy, version))
        files = each_content(place.contents, found, base[1])
        await copy.files.replace(path, ((name, file.mode, content) for name, file, content in files))
        self._last = self._loaded(copy)[place.id, copy.name] = base[0]
        return len(found)

    def _found(self, copy: Copy, version: int | None) -> tuple[Manifest, tuple[Manifest, dict[str, bytes]]]:
        place = self.place
        place.register.renew(place.id, self.id)
        if copy.tree:
            place.versions.mark(copy.tree)
        seen = place.versions.seen_in(copy.lineage)
        # To go back to an older version is a change of what there is now.
        found = seen.manifest if version is None else place.versions.at(version)
        return found, (seen.manifest, dict(seen.made))

    async def save(self, copy: Copy, path: str) -> Saved:
        """Merges a box's files into the profile; see `kibo.wiring.sessions.Lease.save`."""
        self._check()
        place = self.place
        await self._waiting.aside(lambda: place.register.renew(place.id, self.id))
        with staging_of(place.contents) as staging:
            await copy.files.collect(path, staging.take)
            theirs = staging.finish()
            base = self._loaded(copy).get((place.id, copy.name), self._last)
            if not copy.lineage:
                done = await self._waiting.aside(
                    lambda: place.versions.write(staging, base, theirs, self._holder, self._fence)
                )
                saved = Saved(done.version, done.changed, done.conflicts, tuple(staging.left_out))
            else:
                draft = self._draft(copy, base, theirs)
                await self._waiting.aside(lambda: place.versions.put(staging, draft, self._fence))
                saved = Saved(None, (), (), tuple(staging.left_out))
        self._loaded(copy)[place.id, copy.name] = theirs
        return saved

    def _loaded(self, copy: Copy) -> MutableMapping[tuple[str, str], Manifest]:
        return self._alone if copy.loaded is None else copy.loaded

    def _draft(self, copy: Copy, base: Manifest, theirs: Manifest) -> Save:
        branch = copy.lineage[0]
        return Save(
            0, self.place.id, branch, branch, copy.name, self.epoch, 0, packed(base), packed(theirs),
            self._holder, time.time(),
        )  # fmt: skip

    def _fence(self, tx: Transaction, row: ProfileRow) -> None:
        register.change(tx, register.renewed(register.fenced(tx, row, self.id)))

    # -- a person

    async def hand_over(self, why: str, timeout_s: float) -> None:
        """Has a person go on, and waits; see `kibo.wiring.sessions.Lease.hand_over`."""
        self._check()
        _check_seconds("timeout_s", timeout_s)
        if not 0 < len(why) <= MAX_WHY:
            raise InvalidInput(
                f"what a person is to do has 1 to {MAX_WHY} characters", hint="Say it in a sentence or two."
            )
        place = self.place
        self._awaited, self._again_s = {BELL}, LEASE_LOOK_S
        await self._waiting.aside(lambda: self._ask_person(why, timeout_s))
        try:
            done = await self._until(self._given, timeout_s)
        except LeaseEnded:
            raise
        except BaseException:
            await self._waiting.aside(lambda: place.register.recall(place.id, self.id))
            raise
        if not done and await self._waiting.aside(lambda: place.register.recall(place.id, self.id)):
            raise PersonTimedOut(
                f"nobody has given session {place.name!r} back within {timeout_s:g} s: {why}",
                hint=f"A person runs: kibo sessions take {place.name!r} DIRECTORY, and then: "
                f"kibo sessions give {place.name!r} DIRECTORY",
                details={"session": place.name, "why": why},
            )

    def _ask_person(self, why: str, timeout_s: float) -> None:
        with ringing(self.place.holders):
            self.place.register.ask_person(self.place.id, self.id, why, timeout_s)

    def _given(self) -> bool:
        return not self.place.register.state(self.id).with_person

    # -- within

    async def _until(self, look: Callable[[], bool], wait_s: float) -> bool:
        """Looks whenever something has happened, until it is so. Returns whether it was, within so long."""
        deadline = time.monotonic() + wait_s
        with Watch(self.place.holders) as watch:
            while not await self._waiting.aside(look):
                awake = False
                while not awake:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    pause_s = min(left, watch.pause_s, max(self._again_s, LEASE_SETTLE_S))
                    try:
                        await self._waiting.ready(watch.fds[:1], timeout_s=pause_s)
                    except TimeoutError:
                        watch.slept()
                        awake = True
                    else:
                        awake = watch.woken(self._awaited)
        return True

    def _check(self) -> None:
        sign = self._presence
        if sign is None:
            raise LeaseEnded("the lease has ended")
        if sign.owner_pid != os.getpid():
            raise LeaseEnded("the lease is of the process that this one was forked from")


def program() -> str:
    """Says which program this is, for people: never its arguments, which may be secret."""
    name = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    return _short(f"{name} (process {os.getpid()})")


def person() -> str:
    """Says who runs this program."""
    try:
        return _short(getpass.getuser())
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _short(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:200]


def _check_seconds(name: str, value: float) -> None:
    if not 0 <= value < 1e9:
        raise InvalidInput(f"{name}={value!r} is no duration", hint="Give seconds, from 0.")
