"""Deltas, and whatever else makes up a snapshot, as one file that is verified byte by byte.

Magic; a head in JSON, with the length and the BLAKE2b-256 of every section, and its own; then one Zstandard frame
with the sections one after the other: an opaque ``history``, then each tree as `records` writes it. Exporting reads
everything twice, once for the digests; both ways need a few megabytes of memory, whatever the size.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import zstandard

from kibo.model.errors import ArchiveInvalid
from kibo.runtime.trees.building import building
from kibo.runtime.trees.flatten import PARTS
from kibo.runtime.trees.records import PIECE_BYTES, Counted, write_records
from kibo.runtime.trees.unpack import Reader, unpack

MAGIC: Final = b"KIBO-SNAPSHOT-1\n"
_LENGTH: Final = struct.Struct(">I")
_DIGEST_BYTES: Final = 32
#: A head names sections: a thousand of them take a hundred kilobytes.
MAX_HEAD_BYTES: Final = 1 << 20
#: What an import takes at most where its caller gives no limit, in bytes.
MAX_IMPORT_BYTES: Final = 64 << 30
#: How many files, directories and whiteouts: as many as a large file system has inodes.
MAX_IMPORT_ENTRIES: Final = 16 << 20
#: What the history of a snapshot takes at most; it is held in memory.
MAX_HISTORY_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        digest: BLAKE2b-256 of the head, and through it of everything, as hex.
        entries: Entries of all deltas.
        total_bytes: Before compression.
        dropped: Sockets and devices that were left out.
    """

    digest: str
    entries: int
    total_bytes: int
    dropped: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read.

    Attributes:
        digest: See `Exported`.
        deltas: Where each delta is now, by the name it was exported under, in that order.
        history: The opaque section.
    """

    digest: str
    deltas: dict[str, Path]
    history: bytes


def export_deltas(deltas: Sequence[tuple[str, Path]], out: IO[bytes], *, history: bytes = b"") -> Exported:
    """Writes deltas into one file.

    Args:
        deltas: Names, and directories ``{u,...}``; names are unique and at most 255 bytes.
        out: Where to, in binary; need not be seekable.
        history: Anything that belongs to them.

    Raises:
        OSError: A delta cannot be read, or the file not written. What was written is worth nothing then.
    """
    trees = [
        (name, part, delta / part) for name, delta in deltas for part, _ in PARTS if (delta / part).is_dir()
    ]
    counted = Counted()
    sections = [
        _section(
            "", "history", len(history), hashlib.blake2b(history, digest_size=_DIGEST_BYTES).hexdigest(), 0
        )
    ]
    for name, part, tree in trees:
        hasher, size, before = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0, counted.entries
        for piece in write_records(bytes(tree), counted):
            hasher.update(piece)
            size += len(piece)
        sections.append(_section(name, part, size, hasher.hexdigest(), counted.entries - before))
    head = json.dumps({"version": 1, "deltas": [name for name, _ in deltas], "sections": sections}).encode()
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES).digest()
    out.write(MAGIC + _LENGTH.pack(len(head)) + head + digest)
    compressor = zstandard.ZstdCompressor(level=3, threads=0, write_checksum=True)
    with compressor.stream_writer(out, closefd=False) as stream:
        stream.write(history)
        for _, _, tree in trees:
            for piece in write_records(bytes(tree), Counted()):
                stream.write(piece)
    total = sum(section["bytes"] for section in sections)
    return Exported(digest.hex(), counted.entries, total, tuple(counted.dropped))


def _section(name: str, part: str, size: int, digest: str, entries: int) -> dict[str, Any]:
    return {"delta": name, "part": part, "bytes": size, "digest": digest, "entries": entries}


def import_deltas(
    source: IO[bytes],
    home: Path,
    place: Callable[[str], Path],
    *,
    limit_bytes: int = MAX_IMPORT_BYTES,
    limit_entries: int = MAX_IMPORT_ENTRIES,
    owners: Callable[[int, int], tuple[int, int]] | None = None,
) -> Imported:
    """Reads deltas from a file that anybody may have made.

    A delta appears by one rename, once all of it has been verified; if a later one fails, the earlier ones stay, and
    the error names them in ``details["deltas"]`` as what to remove. Set-id bits do not survive.

    Args:
        source: The file, in binary; need not be seekable.
        home: The state directory.
        place: Gives the directory for a delta by the name it was exported under; on the state directory's file system.
        limit_bytes: What all of it may take, holes counted.
        limit_entries: How many entries all of it may have.
        owners: Gives the ids that files get for those that they had; without it, everything is this process's own.

    Raises:
        ArchiveInvalid: The file is damaged, cut short, too large, or tries to write where it must not.
        HostDiskFull: There is no room.
    """
    head, digest = _read_head(source)
    sections = _checked(head, limit_bytes, limit_entries)
    reader = Reader(zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(source, closefd=False))
    history = _history(reader, sections[0])
    deltas: dict[str, Path] = {}
    left = limit_bytes, limit_entries
    try:
        for name in head["deltas"]:
            into = place(name)
            with building(into, home, "import") as made:
                for section in sections[1:]:
                    if section["delta"] == name:
                        left = _tree(reader, section, made, left, owners)
            deltas[name] = into
        reader.expect_end()
    except ArchiveInvalid as error:
        error.details["deltas"] = [str(path) for path in deltas.values()]
        raise
    return Imported(digest, deltas, history)


def _tree(
    reader: Reader,
    section: dict[str, Any],
    made: Path,
    left: tuple[int, int],
    owners: Callable[[int, int], tuple[int, int]] | None,
) -> tuple[int, int]:
    """Makes one tree. Given and returns what may still be imported, in bytes and in entries."""
    work = dict(PARTS)[section["part"]]
    (made / section["part"]).mkdir(mode=0o755)
    (made / work).mkdir(mode=0o755)
    reader.begin(section["bytes"])
    used, entries = unpack(reader, made / section["part"], *left, owners)
    reader.finish(section["digest"])
    return left[0] - used, left[1] - entries


def _read_head(source: IO[bytes]) -> tuple[dict[str, Any], str]:
    if _exactly(source, len(MAGIC)) != MAGIC:
        raise ArchiveInvalid(
            "this is no exported snapshot", hint="give a file that `kibo snapshot export` wrote"
        )
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if length > MAX_HEAD_BYTES:
        raise ArchiveInvalid(f"its head claims {length} bytes", details={"limit": MAX_HEAD_BYTES})
    head = _exactly(source, length)
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES).digest()
    if _exactly(source, _DIGEST_BYTES) != digest:
        raise ArchiveInvalid("its head is damaged", hint="get the file again")
    try:
        found = json.loads(head)
    except (ValueError, RecursionError):
        raise ArchiveInvalid("its head is no JSON") from None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise ArchiveInvalid("it is of a version that this Kibo does not know", hint="upgrade Kibo")
    return found, digest.hex()


def _exactly(source: IO[bytes], count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = source.read(count - len(found))
        if not piece:
            raise ArchiveInvalid("it is cut short", hint="get the file again")
        found += piece
    return found


def _checked(head: dict[str, Any], limit_bytes: int, limit_entries: int) -> list[dict[str, Any]]:
    """Checks what the head says before anything of it is believed."""
    names, sections = head.get("deltas"), head.get("sections")
    parts = [part for part, _ in PARTS]
    if not isinstance(names, list) or not isinstance(sections, list) or not sections:
        raise ArchiveInvalid("its head lacks what it must have")
    for name in names:
        if not isinstance(name, str) or not name or len(name) > 255 or not name.replace("_", "").isalnum():
            raise ArchiveInvalid(f"{name!r} is no name for a delta")
    if len(set(names)) != len(names):
        raise ArchiveInvalid("it names a delta twice")
    expected = [section for name in names for section in sections[1:] if _of(section, "delta") == name]
    wanted = [("", "history")] + [(name, part) for name in names for part in parts]
    kept = [(_of(section, "delta"), _of(section, "part")) for section in sections]
    in_order = kept == [pair for pair in wanted if pair in kept]
    if expected != sections[1:] or not in_order or kept[0] != ("", "history"):
        raise ArchiveInvalid("its sections are not those of its deltas, in order")
    for section in sections:
        size, entries, digest = (section.get(key) for key in ("bytes", "entries", "digest"))
        counts = all(type(count) is int and count >= 0 for count in (size, entries))
        if not counts or not isinstance(digest, str) or len(digest) != 2 * _DIGEST_BYTES:
            raise ArchiveInvalid("a section has no size or digest")
    total, count = (sum(section[key] for section in sections) for key in ("bytes", "entries"))
    if count > limit_entries:
        raise ArchiveInvalid(
            f"it claims {count:,} entries, more than the {limit_entries:,} that may be imported",
            hint="raise limit_entries if you trust where it comes from",
            details={"entries": count, "limit": limit_entries},
        )
    if total > limit_bytes:
        raise ArchiveInvalid(
            f"it claims {total} bytes, more than the {limit_bytes} that may be imported",
            hint="raise limit_bytes if you trust where it comes from",
            details={"bytes": total, "limit": limit_bytes},
        )
    return sections


def _of(section: Any, key: str) -> Any:
    if not isinstance(section, dict):
        raise ArchiveInvalid("a section of its head is malformed")
    return section.get(key)


def _history(reader: Reader, section: dict[str, Any]) -> bytes:
    if section["bytes"] > MAX_HISTORY_BYTES:
        raise ArchiveInvalid(
            f"its history claims {section['bytes']} bytes", details={"limit": MAX_HISTORY_BYTES}
        )
    reader.begin(section["bytes"])
    pieces = []
    while reader.left:
        pieces.append(reader.take(min(reader.left, PIECE_BYTES)))
    reader.finish(section["digest"])
    return b"".join(pieces)
