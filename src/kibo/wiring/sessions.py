"""Puts the parts of sessions together, for plain programs; loaded by the first that has one."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

from kibo.effects.sessions import leasing
from kibo.effects.sessions.leasing import Place, Saved
from kibo.effects.sessions.port import Copy
from kibo.effects.sessions.register import Register
from kibo.effects.sessions.versions import Version
from kibo.model.errors import InvalidInput
from kibo.model.limits import DEFAULT_LEASE_S
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime
from kibo.wiring.records import Records


def place_of(records: Records, name: str, *, make: bool) -> Place:
    """Finds where a session's profile is.

    Args:
        records: Of the state directory.
        name: Of the session.
        make: Whether to make one where there is none.

    Raises:
        InvalidInput: The name is none.
        ProfileUnknown: There is none.
    """
    register = Register(records.store)
    return Place(register, records.home, register.ensure(name) if make else register.find(name))


def copy_of(box: Any) -> Copy:
    """Says of an instance, of either face, where its files are and in whose name it saves."""
    access = getattr(box, "_access", None)
    if access is None:
        raise InvalidInput(
            f"{type(box).__name__} is no instance that this process has spawned",
            hint="Give the box itself, as spawn() returned it.",
        )
    running = getattr(box.branch, "_running", None)
    if running is None:
        return Copy(access, box.id, "", ())
    lineage: list[str] = []
    at = running
    while at is not None and at.asker.holds:
        lineage.append(at.id)
        at = at.parent
    return Copy(access, box._member, running.asker.tree, tuple(lineage), running.loaded)


def session(name: str) -> Profile:
    """Finds a session of this state directory: a profile of files by which somebody is signed in somewhere.

    It is made on first use, without files. Profiles are kept as they are, and are readable by this user alone.

    Args:
        name: 1 to 200 printable characters, such as ``"shop.example/ada"``.

    Raises:
        InvalidInput: The name is none.
        StoreUnavailable: The state directory cannot be opened.
    """
    return Profile(place_of(runtime().records(), name, make=True))


class Profile:
    """A session: files in versions, leased to one holder at a time. `kibo.aio.session` gives the same for coroutines.

    Attributes:
        name: What it is called in this state directory.
    """

    def __init__(self, place: Place) -> None:
        self._place: Final = place
        self.name: Final = place.name

    def __repr__(self) -> str:
        return f"<Profile {self.name!r}>"

    def lease(self, *, wait_s: float = 60.0, max_s: float = DEFAULT_LEASE_S) -> Lease:
        """Waits for the profile and takes it, across threads, processes and branches: first come, first served.

        Args:
            wait_s: How long to wait while others have it, in seconds from 0.
            max_s: After how many seconds without a load, a save or a hand-over another who waits may take it away.

        Returns:
            The lease. Use it as a context manager, or end it. It ends with this process, however that ends.

        Raises:
            ProfileBusy: Others had it for so long; ``details`` say who. Retry when you like.
            LeaseEnded: The session was revoked while this waited.
        """
        lease = leasing.Lease(self._place, Blocking())
        run(lease.begin(wait_s, max_s))
        return Lease(lease)

    def versions(self) -> list[Version]:
        """Lists the versions that are kept, the oldest first: the last 10."""
        return self._place.versions.kept()


class Lease:
    """A profile that is this program's for now. A context manager that ends it."""

    def __init__(self, lease: leasing.Lease) -> None:
        self._lease: Final = lease

    def load(self, box: Any, path: str, *, version: int | None = None) -> int:
        """Makes a directory in a box that has the profile's files, and nothing else.

        In a fork these are as they would be if it were committed now. Cost is in their size: 1 MB takes 20 ms.

        Args:
            box: An instance.
            path: The directory; relative ones are below ``/work``.
            version: An older version, or 0 for no files at all, to go back to: a save then takes the place of
                what there is now.

        Returns:
            How many files there are.

        Raises:
            LeaseEnded: Another has the profile now. Never retry.
            WrongState: A person has it.
            ProfileDamaged: A file is not what was saved.
            InvalidInput: The version is not kept.
            KiboError: As of `Instance.files`.
        """
        return run(self._lease.load(copy_of(box), path, version))

    def save(self, box: Any, path: str) -> Saved:
        """Merges what has changed in a box since it loaded the profile, as a new version, entirely or not at all.

        Of what another save has changed since, too, this one wins; in Playwright's ``storage_state`` that is decided
        cookie by cookie, and key by key of each origin. In a fork the save waits until the fork is committed into a
        root, and is dropped when it is aborted. Let the programs that write the files end first: they are read as
        they are. Links and empty directories are no part of a profile.

        Args:
            box: An instance.
            path: The directory; relative ones are below ``/work``.

        Raises:
            LeaseEnded: Another has the profile, or had it. Nothing is saved. Never retry.
            WrongState: A person has it.
            ProfileTooLarge: There are more than 20,000 files, or 256 MiB.
            HostDiskFull: No room; the profile is as it was.
            KiboError: As of `Instance.files`.
        """
        return run(self._lease.save(copy_of(box), path))

    def hand_over(self, why: str, *, timeout_s: float = 600.0) -> None:
        """Asks a person to go on with the profile, and waits until they have given it back. Save first, load after.

        `kibo sessions` shows what is asked. The person runs ``kibo sessions take NAME DIRECTORY``, goes on with the
        files there, and ``kibo sessions give NAME DIRECTORY``.

        Args:
            why: What they are to do, in a sentence or two.
            timeout_s: How long to wait.

        Raises:
            PersonTimedOut: Nobody has given it back. The profile is this program's again; what the person does
                after all is merged when they give it.
            LeaseEnded: It was revoked.
        """
        run(self._lease.hand_over(why, timeout_s))

    def end(self) -> None:
        """Ends it, for the next who waits. Idempotent."""
        run(self._lease.end())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
