"""What a profile's files are: versions, and what forks have saved for when they are committed.

The transaction of a commit releases what its branch has saved; whoever uses the profile next merges that into it, in
order, before anything else. So a branch is never committed without its sessions, wherever anybody is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from kibo.effects.sessions import register
from kibo.effects.sessions.content import Contents, Manifest, ProfileFile, packed, shown, unpacked
from kibo.effects.sessions.merging import Merged, merge
from kibo.effects.sessions.register import ProfileRow
from kibo.effects.sessions.staging import Staging
from kibo.effects.sessions.staging import staging as staging_of
from kibo.model.errors import Exhausted, InvalidInput, LeaseEnded
from kibo.model.limits import MAX_PENDING_SAVES, PROFILE_VERSIONS
from kibo.store import crash, fencing
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import profile_saves, profile_trees, profile_versions, profiles

#: Checks, and changes, who may write; within the transaction that writes, which has locked the profile.
Fence = Callable[[Transaction, ProfileRow], None]

_FILES: Final = Prepared(
    select(profile_versions.c.files).where(
        profile_versions.c.profile == bindparam("profile"), profile_versions.c.version == bindparam("version")
    )
)
_KEPT: Final = Prepared(
    select(profile_versions.c.version, profile_versions.c.author, profile_versions.c.created)
    .where(profile_versions.c.profile == bindparam("profile"))
    .order_by(profile_versions.c.version)
)
_ADD: Final = insertion(profile_versions)
_FORGET: Final = Prepared(
    delete(profile_versions).where(
        profile_versions.c.profile == bindparam("profile"), profile_versions.c.version <= bindparam("last")
    )
)
_SAVE_COLUMNS: Final = tuple(profile_saves.columns)
_OF_PROFILE: Final = Prepared(
    select(*_SAVE_COLUMNS)
    .where(profile_saves.c.profile == bindparam("profile"))
    .order_by(profile_saves.c.position)
)
_PUT: Final = insertion(profile_saves, "position")
_REPLACE: Final = Prepared(
    update(profile_saves)
    .where(profile_saves.c.position == bindparam("at"))
    .values(files=bindparam("new_files"), epoch=bindparam("new_epoch"), created=bindparam("now"))
)
_TAKE: Final = Prepared(delete(profile_saves).where(profile_saves.c.position == bindparam("at")))
_PENDING: Final = (profile_saves.c.branch == bindparam("old"), profile_saves.c.released == 0)
_HELD_IN: Final = Prepared(
    select(profile_saves.c.profile, func.max(profile_saves.c.epoch))
    .where(*_PENDING)
    .group_by(profile_saves.c.profile)
)
_NOW: Final = Prepared(
    select(profiles.c.name, profiles.c.epoch).where(profiles.c.id == bindparam("id")).with_for_update()
)
_RELEASE: Final = Prepared(update(profile_saves).where(*_PENDING).values(branch=bindparam("new"), released=1))
_MOVE: Final = Prepared(update(profile_saves).where(*_PENDING).values(branch=bindparam("new")))
_DROP: Final = Prepared(delete(profile_saves).where(*_PENDING))
_UNDO: Final = Prepared(
    delete(profile_saves).where(profile_saves.c.origin == bindparam("old"), profile_saves.c.released == 1)
)
_MARKED: Final = Prepared(
    select(profile_trees.c.tree).where(
        profile_trees.c.tree == bindparam("tree"), profile_trees.c.profile == bindparam("profile")
    )
)
_MARK: Final = Prepared(insert(profile_trees).values(tree=bindparam("tree"), profile=bindparam("profile")))
_NAMES: Final = Prepared(
    select(profiles.c.name)
    .join(profile_trees, profile_trees.c.profile == profiles.c.id)
    .where(profile_trees.c.tree == bindparam("tree"))
    .order_by(profiles.c.name)
)


class Save(NamedTuple):
    """One row of `profile_saves`, column by column; see the table."""

    position: int
    profile: str
    branch: str
    origin: str
    instance: str
    epoch: int
    released: int
    base: bytes
    files: bytes
    author: str
    created: float


class Version(NamedTuple):
    """One version of a profile that is kept.

    Attributes:
        number: 1 for the first; it grows.
        author: Who saved it.
        created_s: In seconds since 1970.
    """

    number: int
    author: str
    created_s: float


class Written(NamedTuple):
    """What a save came to.

    Attributes:
        version: The newest version now.
        changed: Paths that this save has changed, added or removed.
        conflicts: What another had changed since, too; see `Merged`.
    """

    version: int
    changed: tuple[str, ...]
    conflicts: tuple[str, ...]


# -- within the transactions of a history


def pending(tx: Transaction, branch: str) -> bool:
    """Tells whether a branch has saved a session."""
    return bool(tx.rows(_HELD_IN, old=branch))


def settle(tx: Transaction, branch: str, parent: str, *, released: bool) -> None:
    """Makes what a committed branch has saved its parent's, in the transaction of the commit.

    Args:
        tx: The transaction, which has locked the branch.
        branch: What is committed.
        parent: Into what.
        released: Whether it is part of the profiles now: the parent is a root.

    Raises:
        LeaseEnded: Another has had one of the profiles since it was saved. Nothing is committed.
    """
    if not released:
        tx.run(_MOVE, old=branch, new=parent)
        return
    for profile, epoch in tx.rows(_HELD_IN, old=branch):
        name, now = tx.row(_NOW, id=profile) or ("", None)
        if epoch != now:
            raise LeaseEnded(
                f"branch {branch} has saved session {name!r}, whose lease another has had since",
                hint="Take a new lease and save it again in that branch, or abort() the branch.",
                details={"branch": branch, "session": name},
            )
    tx.run(_RELEASE, old=branch, new=parent)


def drop(tx: Transaction, branch: str) -> None:
    """Drops what a branch has saved, in the transaction that ends it."""
    tx.run(_DROP, old=branch)


def undo(tx: Transaction, origin: str) -> None:
    """Drops what a commit of a branch has released and nobody has used: it has not happened after all."""
    tx.run(_UNDO, old=origin)


class Versions:
    """The versions of one profile.

    Args:
        store: Where they are recorded.
        profile: Its id.
        contents: Its files.
    """

    def __init__(self, store: Store, profile: str, contents: Contents) -> None:
        self._store: Final = store
        self._profile: Final = profile
        self._contents: Final = contents

    def kept(self) -> list[Version]:
        """Lists those that are kept, the oldest first."""
        rows = self._store.read(lambda tx: tx.rows(_KEPT, profile=self._profile))
        return [Version._make(row) for row in rows]

    def at(self, number: int) -> Manifest:
        """Returns the files of one version; of version 0, which is before the first, none.

        Raises:
            InvalidInput: It is not kept.
        """
        if number == 0:
            return {}
        row = self._store.read(lambda tx: tx.row(_FILES, profile=self._profile, version=number))
        if row is None:
            known = ", ".join(str(each.number) for each in self.kept()) or "none"
            raise InvalidInput(f"version {number} is not kept", hint=f"Kept are: {known}.")
        return unpacked(bytes(row[0]))

    def newest(self) -> Manifest:
        """Returns the files as they are now, once what was committed is part of them."""
        self._use_released()
        return self._store.read(self._now)[1]

    def seen_in(self, lineage: Sequence[str]) -> Merged:
        """Returns the files as a branch sees them: as they would be if it were committed now.

        Args:
            lineage: The branch, and those above it; empty for none.
        """
        found = Merged(self.newest(), {}, ())
        if not lineage:
            return found
        made: dict[str, bytes] = {}

        def read(path: bytes, file: ProfileFile) -> bytes:
            content = made.get(file.digest)
            return self._contents.read(file, path) if content is None else content

        for save in self._saves():
            if save.branch in lineage and not save.released:
                found = merge(unpacked(save.base), found.manifest, unpacked(save.files), read)
                made.update(found.made)
        return found._replace(made=made)

    def write(self, staging: Staging, base: Manifest, theirs: Manifest, author: str, fence: Fence) -> Written:
        """Merges what was brought into what the profile is now, as a new version; where nothing changes, none is made.

        Args:
            staging: What was brought.
            base: What was loaded.
            theirs: What is saved.
            author: Who saves it.
            fence: Who may.

        Raises:
            KiboError: Of the fence. Nothing was written.
        """
        self._use_released()
        return self._write(staging, base, theirs, author, fence)

    def _write(
        self, staging: Staging, base: Manifest, theirs: Manifest, author: str, fence: Fence
    ) -> Written:
        while True:
            before, ours = self._store.read(self._now)
            merged = merge(base, ours, theirs, staging.read)
            for content in merged.made.values():
                staging.keep(content)

            def work(tx: Transaction) -> int | None:
                row = register.hold(tx, self._profile)
                if row.version != before.version:  # noqa: B023 - called at once
                    return None
                fence(tx, row)
                if merged.manifest == ours:  # noqa: B023 - called at once
                    return row.version
                staging.publish()
                number = row.version + 1
                self._add(tx, row, number, merged.manifest, author)  # noqa: B023 - called at once
                crash.point("session.before_save")
                return number

            number = self._store.write(work)
            if number is None:
                continue  # another has merged what a commit released: this save is merged with that
            crash.point("session.saved")
            if number != before.version:
                self._prune()
            changed = sorted(path for path in ours.keys() | merged.manifest if _differs(path, ours, merged))
            return Written(number, tuple(map(shown, changed)), merged.conflicts)

    def put(self, staging: Staging, save: Save, fence: Fence) -> None:
        """Keeps what a fork saves until that is committed.

        Raises:
            BranchClosed: It was committed or aborted.
            Exhausted: It has saved too often.
            KiboError: Of the fence. Nothing was kept.
        """

        def work(tx: Transaction) -> None:
            fencing.hold(tx, save.branch)
            row = register.hold(tx, self._profile)
            fence(tx, row)
            staging.publish()
            mine = [each for each in self._rows(tx) if each.branch == save.branch]
            last = mine[-1] if mine else None
            values = save._asdict()
            del values["position"]
            values["epoch"] = row.epoch
            # A save that goes on from the last of the same box takes its place.
            goes_on = last is not None and (last.origin, last.instance, last.files) == (
                save.origin,
                save.instance,
                save.base,
            )
            if last is not None and goes_on:
                now = time.time()
                tx.run(_REPLACE, at=last.position, new_files=save.files, new_epoch=row.epoch, now=now)
                return
            if len(mine) >= MAX_PENDING_SAVES:
                raise Exhausted(
                    f"branch {save.branch} has {MAX_PENDING_SAVES} saves of one session",
                    hint="Commit it, or abort it.",
                )
            tx.run(_PUT, **values)
            crash.point("session.before_put")

        self._store.write(work)

    def mark(self, tree: str) -> None:
        """Notes that boxes of a tree of branches have the profile's files."""

        def work(tx: Transaction) -> None:
            if tx.row(_MARKED, tree=tree, profile=self._profile) is None:
                register.hold(tx, self._profile)
                tx.run(_MARK, tree=tree, profile=self._profile)

        if not self._store.read(lambda tx: tx.rows(_MARKED, tree=tree, profile=self._profile)):
            self._store.write(work)

    # -- within

    def _now(self, tx: Transaction) -> tuple[ProfileRow, Manifest]:
        row = register.look(tx, self._profile)
        found = tx.row(_FILES, profile=row.id, version=row.version)
        return row, {} if found is None else unpacked(bytes(found[0]))

    def _rows(self, tx: Transaction) -> list[Save]:
        rows = tx.rows(_OF_PROFILE, profile=self._profile)
        return [Save._make([*row[:7], bytes(row[7]), bytes(row[8]), *row[9:]]) for row in rows]

    def _saves(self) -> list[Save]:
        return self._store.read(self._rows)

    def _use_released(self) -> None:
        """Merges what commits have released into the profile, in order."""
        for save in self._saves():
            if not save.released:
                continue

            def take(tx: Transaction, _row: ProfileRow, at: int = save.position) -> None:
                if not tx.run(_TAKE, at=at):
                    raise _Used

            with staging_of(self._contents) as staging:
                try:
                    self._write(staging, unpacked(save.base), unpacked(save.files), save.author, take)
                except _Used:
                    pass  # by another, who was here at the same moment

    def _add(self, tx: Transaction, row: ProfileRow, number: int, files: Manifest, author: str) -> None:
        tx.run(_ADD, profile=row.id, version=number, files=packed(files), author=author, created=time.time())
        tx.run(_FORGET, profile=row.id, last=number - PROFILE_VERSIONS)
        register.advance(tx, row, version=number)

    def _prune(self) -> None:
        """Removes files that no version and no save names."""

        def work(tx: Transaction) -> None:
            row = register.hold(tx, self._profile)
            wanted: set[str] = set()
            for version in [each[0] for each in tx.rows(_KEPT, profile=row.id)]:
                found = tx.row(_FILES, profile=row.id, version=version)
                wanted |= {file.digest for file in unpacked(bytes(found[0])).values()} if found else set()
            for save in self._rows(tx):
                for files in (save.base, save.files):
                    wanted |= {file.digest for file in unpacked(files).values()}
            self._contents.prune(wanted)

        self._store.write(work)


class _Used(Exception):
    """Somebody else has merged a save that a commit released."""


def _differs(path: bytes, ours: Manifest, merged: Merged) -> bool:
    return ours.get(path) != merged.manifest.get(path)


def loaded_into(tx: Transaction, tree: str) -> list[str]:
    """Names the sessions that boxes of a tree of branches have, or had."""
    return [name for (name,) in tx.rows(_NAMES, tree=tree)]
