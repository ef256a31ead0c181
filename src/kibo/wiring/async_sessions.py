"""Puts the parts of sessions together, for coroutines; loaded by the first that has one."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, Self

from kibo.effects.sessions import leasing
from kibo.effects.sessions.leasing import Place, Saved
from kibo.effects.sessions.versions import Version
from kibo.model.limits import DEFAULT_LEASE_S
from kibo.runtime.anyio_waiting import AnyioWaiting
from kibo.wiring import runtime
from kibo.wiring.sessions import copy_of, place_of


async def session(name: str) -> Profile:
    """Finds a session of this state directory; see `kibo.session`."""
    home = runtime()
    return Profile(await AnyioWaiting().aside(lambda: place_of(home.records(), name, make=True)))


class Profile:
    """A session, whose calls are coroutines; see `kibo.wiring.sessions.Profile`.

    Attributes:
        name: What it is called in this state directory.
    """

    def __init__(self, place: Place) -> None:
        self._place: Final = place
        self.name: Final = place.name

    def lease(self, *, wait_s: float = 60.0, max_s: float = DEFAULT_LEASE_S) -> Leasing:
        """Waits for the profile and takes it; see `kibo.wiring.sessions.Profile.lease`.

        Returns:
            What to await for the lease, or to enter with ``async with``, which ends it. Cancelled, it is not taken.
        """
        return Leasing(self._place, wait_s, max_s)

    async def versions(self) -> list[Version]:
        """Lists the versions that are kept, the oldest first."""
        return await AnyioWaiting().aside(self._place.versions.kept)


class Leasing:
    """A lease to be: awaitable, and an async context manager."""

    def __init__(self, place: Place, wait_s: float, max_s: float) -> None:
        self._place, self._wait_s, self._max_s = place, wait_s, max_s
        self._lease: Lease | None = None

    async def _begin(self) -> Lease:
        lease = leasing.Lease(self._place, AnyioWaiting())
        await lease.begin(self._wait_s, self._max_s)
        return Lease(lease)

    def __await__(self) -> Generator[Any, None, Lease]:
        return self._begin().__await__()

    async def __aenter__(self) -> Lease:
        self._lease = await self._begin()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            await self._lease.end()


class Lease:
    """A profile that is this program's for now; what each call does is said in `kibo.wiring.sessions.Lease`."""

    def __init__(self, lease: leasing.Lease) -> None:
        self._lease: Final = lease

    async def load(self, box: Any, path: str, *, version: int | None = None) -> int:
        """Makes a directory in a box that has the profile's files, and nothing else."""
        return await self._lease.load(copy_of(box), path, version)

    async def save(self, box: Any, path: str) -> Saved:
        """Merges what has changed in a box since it loaded the profile into it, as a new version."""
        return await self._lease.save(copy_of(box), path)

    async def hand_over(self, why: str, *, timeout_s: float = 600.0) -> None:
        """Asks a person to go on with the profile, and waits until they have given it back."""
        await self._lease.hand_over(why, timeout_s)

    async def end(self) -> None:
        """Ends it, for the next who waits. Idempotent."""
        await self._lease.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
