"""A state directory and the database of its history belong together.

What no history names is removed from disk, so that a directory which was opened with another history would lose all
that it has. A database in the directory itself goes wherever that goes. One elsewhere has the directory's id in a row,
and the directory has it in a file; whatever does not fit is refused, before anything is removed or written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlalchemy import bindparam, insert, select

from kibo.model.errors import WrongState
from kibo.model.ids import HomeId
from kibo.store.address import own_url
from kibo.store.crash import point as crash_point
from kibo.store.database import Store, Transaction
from kibo.store.flushing import flush
from kibo.store.locking import holding
from kibo.store.prepared import Prepared
from kibo.store.schema import state_directory

#: The file that names the database's row, and the same until the row is sure to be there.
_NOTE: Final = "store"
_BEGUN: Final = "store.begun"

_FIND: Final = Prepared(select(state_directory.c.id).where(state_directory.c.number == 1))
_CLAIM: Final = Prepared(insert(state_directory).values(number=1, id=bindparam("home")))


def open_history(home: Path, url: str) -> Store:
    """Opens the database of a state directory's history, and claims it for that directory if nobody has.

    Args:
        home: The state directory, which `prepare_home` has made.
        url: See `Store.open`.

    Raises:
        WrongState: The history of this directory is in another database, or in this one is that of another directory.
            Nothing was changed.
        InvalidInput, StoreUnavailable, HostDiskFull: As `Store.open`.
    """
    own = url == own_url(home)
    if own and (home / _NOTE).exists():
        raise _elsewhere(home)
    if not own and not (home / _NOTE).exists() and (home / "history.db").exists():
        raise WrongState(
            f"the history of {home} is in its own history.db, and not in the database that KIBO_STORE names",
            hint="A history stays where it began: point KIBO_HOME at a directory for the new one, or leave KIBO_STORE "
            "out.",
            details={"path": str(home)},
        )
    store = Store.open(url)
    try:
        if not own:
            _belong(store, home)
    except BaseException:
        store.close()
        raise
    return store


def _belong(store: Store, home: Path) -> None:
    bound = _read(home / _NOTE)
    if bound is None:
        with holding(home / "locks" / _NOTE):  # of processes that begin at once, one claims
            bound = _read(home / _NOTE) or _claim(store, home)
    if store.read(_found) != bound:
        raise _elsewhere(home)


def _claim(store: Store, home: Path) -> str:
    """Writes the directory's id into an unclaimed database, then into the directory. Killed, the next call goes on."""
    begun, found = _read(home / _BEGUN), store.read(_found)
    if found is None:
        begun = HomeId.new()  # a new one each time: an earlier one may have reached another database
        (home / _BEGUN).write_text(begun)
        flush(home / _BEGUN)
        flush(home)
        crash_point("belong.begun")
        found = store.write(lambda tx: _claimed(tx, str(begun)))
        crash_point("belong.claimed")
    if found != begun:
        raise WrongState(
            f"{store.name} has the history of another state directory than {home}",
            hint="Give each state directory a database of its own, or point KIBO_HOME at the one that this is of.",
            details={"path": str(home), "store": store.name},
        )
    os.rename(home / _BEGUN, home / _NOTE)
    flush(home)
    crash_point("belong.noted")
    return begun


def _found(tx: Transaction) -> str | None:
    row = tx.row(_FIND)
    return None if row is None else str(row[0])


def _claimed(tx: Transaction, home: str) -> str:
    found = _found(tx)
    if found is None:
        tx.run(
            _CLAIM, home=home
        )  # where another process has been quicker, this is tried again, and finds its row
    return found or home


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _elsewhere(home: Path) -> WrongState:
    return WrongState(
        f"the history of {home} is in another database",
        hint="Name that one in KIBO_STORE or kibo.toml: it says which files of the directory are wanted. Or point "
        "KIBO_HOME at another directory.",
        details={"path": str(home)},
    )
