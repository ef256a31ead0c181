"""A snapshot's world and log as lines of JSON, and back: verified as a whole before anything of it is written.

The first line says what follows, each further one is an entry, the last has the digest of all before it. A torn or
changed file is refused entirely.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

from kibo.branch.records import World, read_world, written
from kibo.branch.rows import SnapshotRow, insert_branches, insert_snapshot, read_snapshot
from kibo.model.errors import InvalidInput, KiboError, StoreDamaged
from kibo.model.ids import BranchId, SnapshotId
from kibo.model.limits import MIB
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.fencing import OPEN, BranchRow
from kibo.store.lineage import extend, segment_of
from kibo.store.log import Entry, following_in, insert_copies, position_of, settle, taken

FORMAT: Final = 1

#: Entries read or written at a time.
_PAGE: Final = 500


def export(store: Store, snapshot: str) -> Iterator[str]:
    """Yields a snapshot as lines without their ends; see `History.export`."""
    digest = hashlib.blake2b(digest_size=32)

    def line(value: dict[str, Any]) -> str:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        digest.update(text.encode() + b"\n")
        return text

    row = store.read(lambda tx: read_snapshot(tx, snapshot))
    world = None if row.world is None else read_world(row.id, row.world)
    yield line(
        {"kibo_snapshot": FORMAT, "id": row.id, "world": world, "seq": row.seq, "created": row.created}
    )
    after = 0
    while after < row.seq:
        page = store.read(lambda tx, after=after: following_in(tx, snapshot, after, _PAGE))  # type: ignore[misc]
        if [entry.seq for entry in page] != list(range(after + 1, min(after + _PAGE, row.seq) + 1)):
            raise StoreDamaged(
                f"the log of snapshot {snapshot} has a gap after entry {after}",
                hint="Its files are whole: check it out and apply what it is, or export a snapshot before it.",
                details={"table": "entries", "snapshot": snapshot, "after": after},
            )
        for entry in page:
            yield line(_described(entry))
        after = page[-1].seq
    yield json.dumps({"entries": row.seq, "digest": digest.hexdigest()}, sort_keys=True)


def receive(store: Store, lines: Iterable[str], world: World | None, goal: str, name: str) -> BranchId:
    """Makes a new root branch of what `export` gave; see `History.import_snapshot`."""
    with tempfile.SpooledTemporaryFile(max_size=16 * MIB) as copy:
        header = _verified(lines, copy)
        text = written(header["world"] if world is None else world)

        def write(tx: Transaction) -> BranchId:
            copy.seek(0)
            return _write(tx, copy, header, text, goal, name)

        return store.write(write)


def _described(entry: Entry) -> dict[str, Any]:
    body = base64.b64encode(entry.body).decode()
    return {"seq": entry.seq, "kind": entry.kind, "at": entry.at_s, "origin": entry.origin, "body": body}


#: Number, kind, body, time and origin of an entry.
_Copy = tuple[int, str, bytes, float, str | None]


def _read(value: dict[str, Any]) -> _Copy:
    """Reads what `_described` wrote, or somebody else did.

    Raises:
        KiboError, ValueError, KeyError, TypeError, AttributeError, OverflowError: It is no entry.
    """
    at, origin = float(value["at"]), value["origin"]
    if not math.isfinite(at):
        raise ValueError(f"no time: {at}")
    ((kind, body),) = settle([(value["kind"], base64.b64decode(value["body"], validate=True))])
    return value["seq"], kind, body, at, None if origin is None else BranchId.parse(origin)


def _verified(lines: Iterable[str], copy: IO[bytes]) -> dict[str, Any]:
    """Copies the lines of entries, and returns the first line once the last has vouched for all of them."""
    digest = hashlib.blake2b(digest_size=32)
    header: dict[str, Any] = {}
    count = 0
    for text in lines:
        try:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise _refused(f"line {count + 1} is no JSON object", count) from error
        if not header:
            world = value.get("world")
            seq_is_number = type(value.get("seq")) is int and value["seq"] >= 0
            if (
                value.get("kibo_snapshot") != FORMAT
                or not seq_is_number
                or not isinstance(world, dict | None)
            ):
                raise _refused("it does not begin as a snapshot of this version does", count)
            header = value
        elif "digest" in value:
            if (
                value["digest"] != digest.hexdigest()
                or value.get("entries") != count
                or header["seq"] != count
            ):
                raise _refused("its digest differs", count)
            return header
        else:
            count += 1
            if value.get("seq") != count:
                raise _refused(f"entry {count} is missing", count)
            try:
                _read(value)
            except (KiboError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise _refused(f"entry {count} is none: {error}", count) from error
            copy.write(text.rstrip("\n").encode() + b"\n")
        digest.update(text.rstrip("\n").encode() + b"\n")
    raise _refused("it ends before its digest", count)


def _write(
    tx: Transaction, copy: IO[bytes], header: dict[str, Any], world: str, goal: str, name: str
) -> BranchId:
    branch, snapshot, now, count = BranchId.new(), SnapshotId.new(), time.time(), header["seq"]
    while taken(tx, snapshot):
        snapshot = SnapshotId.new()
    page: list[_Copy] = []
    for text in copy:
        page.append(_read(json.loads(text)))
        if len(page) == _PAGE:
            insert_copies(tx, segment_of(snapshot), page)
            page = []
    insert_copies(tx, segment_of(snapshot), page)
    crash.point("import.before_snapshot")
    near = extend(b"", snapshot, count, position_of(tx, snapshot, count, count))
    row = SnapshotRow(snapshot, branch, branch, "import", None, None, world, count, count, near, "whole", now)
    insert_snapshot(tx, row, None)
    crash.point("import.before_branch")
    insert_branches(tx, [first_row(branch, snapshot, count, name, goal, now)])
    crash.point("import.before_commit")
    return branch


def first_row(branch: BranchId, head: str, seq: int, name: str, goal: str, now: float) -> BranchRow:
    """Returns the row of a root branch."""
    return BranchRow(
        id=branch,
        tree=branch,
        parent=None,
        name=name,
        goal=goal,
        status=OPEN,
        epoch=0,
        head=head,
        sealed=seq,
        next=SnapshotId.new(),
        tail=seq,
        base=None,
        base_seq=0,
        result=None,
        created=now,
        closed=None,
    )


def _refused(why: str, count: int) -> InvalidInput:
    return InvalidInput(
        f"this is not a whole exported snapshot: {why}",
        hint="Nothing was imported. Export it again, or copy the file again.",
        details={"entries_read": count},
    )
