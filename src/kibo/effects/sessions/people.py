"""A person's part: what a program has asked for is taken as a directory, and given back."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, select

from kibo.effects.sessions import presence, register
from kibo.effects.sessions.content import lay_out, on_disk, packed, unpacked
from kibo.effects.sessions.leasing import Lease, Place, person
from kibo.effects.sessions.port import Waits
from kibo.effects.sessions.register import TAKEN, LeaseRow, ProfileRow, answered
from kibo.effects.sessions.staging import staging as staging_of
from kibo.effects.sessions.staging import take_directory
from kibo.effects.sessions.versions import Written
from kibo.model.errors import InvalidInput, LeaseEnded, WrongState
from kibo.model.ids import CopyId
from kibo.model.limits import DEFAULT_LEASE_S
from kibo.store import crash
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import profile_copies
from kibo.store.wakeups import ringing

_COPY: Final = Prepared(
    select(*profile_copies.columns)
    .where(profile_copies.c.profile == bindparam("profile"))
    .order_by(profile_copies.c.created.desc())
)
_ADD: Final = insertion(profile_copies)
_END: Final = Prepared(delete(profile_copies).where(profile_copies.c.id == bindparam("copy")))


class CopyRow(NamedTuple):
    """One row of `profile_copies`, column by column; see the table."""

    id: str
    profile: str
    lease: str
    directory: bytes
    person: str
    files: bytes
    created: float


class Given(NamedTuple):
    """What came of giving a profile back.

    Attributes:
        written: What became of the profile.
        awaited: Whether a program was still waiting for it.
        left_out: Links, which are no part of a profile.
    """

    written: Written
    awaited: bool
    left_out: tuple[str, ...]


def take(place: Place, directory: Path) -> LeaseRow:
    """Gives a person the files of a profile that a program waits for a person with, in a new directory.

    Killed on the way, it has happened entirely, or can be asked for again with the same directory.

    Args:
        place: Where the profile is.
        directory: A new one, or an empty one. For its owner alone.

    Returns:
        What was asked for.

    Raises:
        WrongState: No program asks for a person, or another person has it.
        InvalidInput: There is something at the directory already.
        ProfileDamaged: A file is not what was saved.
    """
    directory = Path(os.path.abspath(directory))
    _asking(place, directory)
    _check_free(directory)
    files = place.versions.newest()
    new = directory.with_name(f".{directory.name}.kibo-take")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with on_disk(directory):
            lay_out(place.contents, files, {}, new)
        crash.point("session.before_take")
        taken = place.register.store.write(lambda tx: _taken(tx, place, directory, packed(files)))
        crash.point("session.taken")
        os.rename(new, directory)
    except OSError as error:
        raise InvalidInput(
            f"{directory} cannot be written: {error.strerror}", hint="Name a directory that is not there yet."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return taken


def _asking(place: Place, directory: Path) -> LeaseRow:
    queue = place.register.queue(place.id)
    first = queue[0] if queue else None
    if first is None or not first.with_person or first.id in place.gone([first]):
        raise WrongState(
            f"no program asks for a person with session {place.name!r}",
            hint="`kibo sessions` says which do. To bring a profile in, give it: kibo sessions give.",
        )
    copy = _copy_of(place, first)
    if copy is not None and copy.directory != os.fsencode(directory):
        raise _elsewhere(place, copy)
    return first


def _copy_of(place: Place, lease: LeaseRow) -> CopyRow | None:
    return next((copy for copy in copies(place) if copy.id == lease.copy), None)


def copies(place: Place) -> list[CopyRow]:
    """Lists the directories in which people have the profile, the newest first."""
    rows = place.register.store.read(lambda tx: tx.rows(_COPY, profile=place.id))
    return [CopyRow._make([*row[:3], bytes(row[3]), row[4], bytes(row[5]), row[6]]) for row in rows]


def _taken(tx: Transaction, place: Place, directory: Path, files: bytes) -> LeaseRow:
    register.hold(tx, place.id)
    queue = register.queue(tx, place.id)
    first = queue[0] if queue else None
    if first is None or not first.with_person:
        raise WrongState(
            f"no program asks for a person with session {place.name!r} any more",
            hint="It has timed out, or was ended. `kibo sessions` says who waits.",
        )
    named = os.fsencode(directory)
    for row in tx.rows(_COPY, profile=place.id):
        if row[0] == first.copy and bytes(row[3]) != named:
            raise _elsewhere(place, CopyRow(*row))
        if row[0] == first.copy or bytes(row[3]) == named:
            tx.run(_END, copy=row[0])
    copy = CopyRow(CopyId.new(), place.id, first.id, named, person(), files, time.time())
    tx.run(_ADD, **copy._asdict())
    taken = first._replace(state=TAKEN, copy=copy.id)
    register.change(tx, taken)
    return taken


def _elsewhere(place: Place, copy: CopyRow) -> WrongState:
    where = os.fsdecode(copy.directory)
    return WrongState(
        f"{copy.person} has session {place.name!r} already, in {where}",
        hint=f"Go on there. To start again elsewhere, end that: kibo sessions revoke {place.name!r}",
        details={"person": copy.person, "directory": where},
    )


def _check_free(directory: Path) -> None:
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidInput(f"{directory}: {error.strerror}", hint="Name a new directory.") from error
    if found or directory.is_symlink():
        raise InvalidInput(f"{directory} is not empty", hint="Name a new directory.")


async def give(place: Place, directory: Path, waiting: Waits, wait_s: float) -> Given:
    """Brings a person's directory into the profile, and wakes the program that waits for it.

    Where no program waits for it any more, or none has asked, this takes a lease of its own: what the person did is
    merged into what the profile is by then, and not lost. The directory stays as it is.

    Args:
        place: Where the profile is.
        directory: The one that was taken, or any that has a profile's files.
        waiting: How to wait.
        wait_s: How long to wait for the lease, where no program waits for the person.

    Raises:
        FileMissing, InvalidInput: The directory cannot be read.
        WrongState: Another person has the profile, in another directory.
        ProfileBusy: A program has the profile and does not wait for a person.
    """
    directory = Path(os.path.abspath(directory))
    named = os.fsencode(directory)
    mine = next((copy for copy in copies(place) if copy.directory == named), None)
    base = {} if mine is None else unpacked(mine.files)
    with staging_of(place.contents) as staging:
        take_directory(directory, staging.take)
        theirs = staging.finish()
        author = person()

        def back(tx: Transaction, row: ProfileRow) -> None:
            """Makes the lease its program's again, in the transaction that writes what the person made of it."""
            lease = None if mine is None else register.find(tx, mine.lease)
            if mine is None or lease is None or lease.copy != mine.id or lease.epoch != row.epoch:
                raise LeaseEnded("no program waits for this directory")
            tx.run(_END, copy=mine.id)
            register.change(tx, answered(lease))
            crash.point("session.before_give")

        try:
            if mine is not None and presence.is_dead(place.holders, mine.lease):
                raise LeaseEnded("the program that waited has ended")
            with ringing(place.holders):
                written = place.versions.write(staging, base, theirs, author, back)
            crash.point("session.given")
            return Given(written, True, tuple(staging.left_out))
        except LeaseEnded:
            _check_nobody_else(place, directory)
        lease = Lease(place, waiting, author)
        await lease.begin(wait_s, DEFAULT_LEASE_S)
        try:

            def alone(tx: Transaction, row: ProfileRow) -> None:
                register.fenced(tx, row, lease.id)
                if mine is not None:
                    tx.run(_END, copy=mine.id)

            written = place.versions.write(staging, base, theirs, author, alone)
        finally:
            await lease.end()
        return Given(written, False, tuple(staging.left_out))


def _check_nobody_else(place: Place, directory: Path) -> None:
    queue = place.register.queue(place.id)
    if queue and queue[0].with_person and not place.gone(queue[:1]):
        copy = _copy_of(place, queue[0])
        if copy is not None and copy.directory != os.fsencode(directory):
            raise _elsewhere(place, copy)


def revoke(place: Place) -> LeaseRow | None:
    """Takes the profile from who holds it; see `Register.revoke`."""
    with ringing(place.holders):
        return place.register.revoke(place.id)


def directory_of(place: Place, lease: LeaseRow) -> str:
    """Says where a person has the profile, or nothing where nobody has."""
    copy = _copy_of(place, lease)
    return "" if copy is None else os.fsdecode(copy.directory)
