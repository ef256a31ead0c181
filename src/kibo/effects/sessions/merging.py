"""What a profile becomes when two sides have changed it: decided purely, entry by entry where that can be done.

Files of cookies and storage in Playwright's form (``storage_state``) are merged by cookie and by key of each origin's
storage. Of all other files that both sides changed, the newest save wins, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from kibo.effects.sessions.content import Manifest, ProfileFile, digest_of, shown
from kibo.model.errors import ProfileDamaged
from kibo.model.limits import MAX_STORAGE_STATE_BYTES

#: What an entry of a storage file is known by: kind, and what names it there.
_Key = tuple[str, ...]
_Entries = dict[_Key, Any]
_GONE: Final = object()


class Merged(NamedTuple):
    """What a merge came to.

    Attributes:
        manifest: The files.
        made: Contents that neither side has, by digest.
        conflicts: Paths, with an entry's name where only that is meant, of what both sides changed and the newest
            save won.
    """

    manifest: Manifest
    made: Mapping[str, bytes]
    conflicts: tuple[str, ...]


def merge(
    base: Manifest, ours: Manifest, theirs: Manifest, read: Callable[[bytes, ProfileFile], bytes]
) -> Merged:
    """Brings what a save has changed into what the profile is now.

    Args:
        base: What was loaded before the changes.
        ours: What the profile is now.
        theirs: What is saved: the newest.
        read: Gives the content of a file of any of the three.
    """
    manifest, made, conflicts = dict(ours), dict[str, bytes](), list[str]()
    for path in sorted(base.keys() | ours.keys() | theirs.keys()):
        before, mine, new = base.get(path), ours.get(path), theirs.get(path)
        if new in (before, mine):
            continue  # not changed, or changed alike
        if mine != before:
            joined = _joined(path, before, mine, new, read)
            if joined is not None and new is not None:
                content, lost = joined
                made[digest_of(content)] = content
                manifest[path] = ProfileFile(digest_of(content), len(content), new.mode)
                conflicts += [f"{shown(path)}: {name}" for name in lost]
                continue
            conflicts.append(shown(path))
        if new is None:
            manifest.pop(path, None)
        else:
            manifest[path] = new
    _give_way(manifest, theirs, conflicts)
    return Merged(manifest, made, tuple(conflicts))


def _give_way(manifest: Manifest, theirs: Manifest, conflicts: list[str]) -> None:
    """Where one side made a directory of what is a file of the other's, the newest save's stays."""
    for path in sorted(theirs.keys() & manifest.keys()):
        at = path
        while b"/" in at:
            at = at.rpartition(b"/")[0]
            if at in manifest and at not in theirs:
                del manifest[at]
                conflicts.append(shown(at))
    files = set(manifest)
    for path in sorted(manifest):
        at = path
        while b"/" in at:
            at = at.rpartition(b"/")[0]
            if at in files and path not in theirs:
                manifest.pop(path, None)
                conflicts.append(shown(path))
                break


def _joined(
    path: bytes,
    before: ProfileFile | None,
    mine: ProfileFile | None,
    new: ProfileFile | None,
    read: Callable[[bytes, ProfileFile], bytes],
) -> tuple[bytes, list[str]] | None:
    """Merges a file of cookies and storage; None where one of the sides is none."""
    if mine is None or new is None:
        return None
    if any(side is not None and side.size > MAX_STORAGE_STATE_BYTES for side in (before, mine, new)):
        return None
    theirs = _entries(read(path, new))
    try:
        ours = _entries(read(path, mine))
        base = {} if before is None else _entries(read(path, before))
    except ProfileDamaged:
        return None  # the newest save takes its place; or it is so old that it is not kept
    if base is None or ours is None or theirs is None:
        return None
    result, lost = dict(ours), list[str]()
    for key in {**ours, **base, **theirs}:
        was, here, there = (side.get(key, _GONE) for side in (base, ours, theirs))
        if there in (was, here):
            continue
        if here != was:
            lost.append(" ".join(key))
        if there is _GONE:
            del result[key]
        else:
            result[key] = there
    return _written(result), lost


def _entries(content: bytes) -> _Entries | None:
    """Reads a file of cookies and storage by its entries; None where it is none, or nobody knows how to merge it."""
    try:
        state = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    try:
        if state.keys() != {"cookies", "origins"}:
            return None
        found: _Entries = {}
        for cookie in state["cookies"]:
            key = tuple(_word(cookie.get(name, "")) for name in ("name", "domain", "path", "partitionKey"))
            _add(found, ("cookie", *key), cookie)
        for origin in state["origins"]:
            where = _word(origin["origin"])
            _add(found, ("origin", where), None)
            for name, value in origin.items():
                if name == "localStorage":
                    for item in value:
                        _add(found, ("localStorage", where, _word(item["name"])), item)
                elif name != "origin":
                    _add(found, ("storage", where, name), value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("names are text")
    return value


def _add(entries: _Entries, key: _Key, value: Any) -> None:
    if key in entries:
        raise ValueError("one name for two")
    entries[key] = value


def _written(entries: _Entries) -> bytes:
    origins: dict[str, dict[str, Any]] = {}
    for kind, *where in entries:
        if kind != "cookie":
            origins.setdefault(where[0], {"origin": where[0], "localStorage": []})
    for key, value in entries.items():
        if key[0] == "localStorage":
            origins[key[1]]["localStorage"].append(value)
        elif key[0] == "storage":
            origins[key[1]][key[2]] = value
    cookies = [value for key, value in entries.items() if key[0] == "cookie"]
    return msgspec.json.encode({"cookies": cookies, "origins": list(origins.values())})
