"""Exported snapshots that somebody made by hand: their digests hold, and what they say is still checked."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kibo.model.errors import ArchiveInvalid, InvalidInput
from kibo.runtime.trees import records as r
from kibo.runtime.trees.archive import MAGIC
from kibo.wiring.records import Records

ROOT = r.HEAD.pack(r.DIRECTORY, 0, 0o755, 0, 0, 0, 0)
END = r.HEAD.pack(r.END, 0, 0, 0, 0, 0, 0)
MIB = 1 << 20


def entry(kind: int, path: bytes, mode: int = 0o644, rest: bytes = b"", *, attributes: int = 0) -> bytes:
    return r.HEAD.pack(kind, len(path), mode, 0, 0, 0, attributes) + path + rest


def file(path: bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    extents = [(0, len(content))] if content else []
    rest = r.SIZE.pack(len(content), len(extents)) + b"".join(r.EXTENT.pack(*each) for each in extents)
    return entry(r.FILE, path, mode, rest + content)


def directory(path: bytes, kind: int = r.DIRECTORY) -> bytes:
    return entry(kind, path, 0o755)


def link(path: bytes, target: bytes) -> bytes:
    return entry(r.LINK, path, 0o777, r.LENGTH.pack(len(target)) + target)


def hard_link(path: bytes, first: bytes) -> bytes:
    return entry(r.HARD_LINK, path, 0, r.LENGTH.pack(len(first)) + first)


def log(*lines: dict[str, Any], world: Any = None, seq: int | None = None) -> list[str]:
    """The lines of a history, with the digest that they have."""
    first = {"kibo_snapshot": 1, "id": "snap_0", "world": world, "seq": len(lines) if seq is None else seq}
    texts = [json.dumps(each) for each in (first | {"created": 0.0}, *lines)]
    digest = hashlib.blake2b("".join(text + "\n" for text in texts).encode(), digest_size=32).hexdigest()
    return [*texts, json.dumps({"entries": len(lines), "digest": digest})]


def world(*deltas: str) -> dict[str, Any]:
    one = {"box": "b2:00", "label": "Desk", "layers": [], "deltas": list(deltas), "turns": 0, "frozen": ""}
    return {"instances": {"Desk": one}}


def archive(
    place: Path,
    trees: Sequence[bytes] = (),
    *,
    lines: Sequence[str] | None = None,
    section: bytes | None = None,
    head: dict[str, Any] | None = None,
) -> Path:
    """Writes a file whose digests all hold. A tree is given as the bytes of its records."""
    names = [f"delta_{number}" for number in range(len(trees))]
    if section is None:
        note = json.dumps({"kibo_parcel": 1, "goal": "from elsewhere"})
        section = "".join(f"{line}\n" for line in [note, *(lines or log(world=world(*names)))]).encode()
    parts = [("", "history", section), *((name, "u", tree) for name, tree in zip(names, trees, strict=True))]
    sections = [
        {
            "delta": name,
            "part": part,
            "bytes": len(data),
            "digest": hashlib.blake2b(data, digest_size=32).hexdigest(),
            "entries": 0,
        }
        for name, part, data in parts
    ]
    found = json.dumps({"version": 1, "deltas": names, "sections": sections} | (head or {})).encode()
    return raw(place, found, b"".join(data for _, _, data in parts))


def raw(place: Path, head: bytes, body: bytes) -> Path:
    path = place / "made.kibo"
    digest = hashlib.blake2b(head, digest_size=32).digest()
    compressed = zstandard.ZstdCompressor(write_checksum=True).compress(body)
    path.write_bytes(MAGIC + struct.pack(">I", len(head)) + head + digest + compressed)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "home")
    yield records
    records.close()


def refused(home: Records, path: Path, match: str | None = None) -> None:
    """Sees that it is refused with one of our errors, and that nothing of it is left."""
    outside = sorted(os.listdir(path.parent))
    with pytest.raises((ArchiveInvalid, InvalidInput), match=match):
        home.standing().receive(path)
    assert os.listdir(home.deltas.home / "deltas") == []
    assert os.listdir(home.deltas.home / "tmp") == []
    assert home.history.roots() == []
    assert home.history.log.everything() == []
    assert sorted(os.listdir(path.parent)) == outside


def received(home: Records, path: Path) -> Path:
    branch = home.standing().receive(path).branch
    world = home.history.get_snapshot(branch.head).world
    assert world is not None
    return home.deltas.path(world["instances"]["Desk"]["deltas"][0]) / "u"


def test_a_well_made_file_is_taken(home: Records, tmp_path: Path) -> None:
    tree = b"".join(
        [
            ROOT,
            directory(b"d"),
            file(b"d/a", b"content", 0o6755),
            hard_link(b"d/b", b"d/a"),
            link(b"e", b"/etc"),
            hard_link(b"f", b"e"),
            END,
        ]
    )
    made = received(home, archive(tmp_path, [tree]))
    assert stat.S_IMODE((made / "d/a").stat().st_mode) == 0o755
    assert (made / "d/b").samefile(made / "d/a")
    assert [os.readlink(made / name) for name in "ef"] == ["/etc", "/etc"]


#: Trees that try to be somewhere else, or what none can be.
TREES = {
    "a path that climbs": [file(b"../out")],
    "a path that climbs later": [directory(b"d"), file(b"d/../../out")],
    "an absolute path": [file(b"/tmp/out")],
    "a path through a link": [link(b"d", b"/tmp"), file(b"d/out")],
    "a directory over a link": [link(b"d", b"/tmp"), directory(b"d"), file(b"d/out")],
    "a file twice": [file(b"a"), file(b"a", b"again")],
    "a file over a link": [link(b"a", b"/etc/hostname"), file(b"a", b"out")],
    "names out of order": [file(b"b"), file(b"a")],
    "a file in no directory": [file(b"d/a")],
    "a file in a file": [file(b"d"), file(b"d/a")],
    "a name with an end in it": [file(b"a\0b")],
    "an empty name": [directory(b"d"), file(b"d//a")],
    "a dot": [file(b".")],
    "a name that is too long": [file(b"n" * 256)],
    "a path that is too long": [entry(r.FILE, b"p" * 5000)],
    "a hard link outside": [hard_link(b"a", b"../../history.db")],
    "a hard link to an absolute path": [hard_link(b"a", b"/etc/passwd")],
    "a hard link through a link": [link(b"a", b"/etc"), hard_link(b"b", b"a/passwd")],
    "a hard link to a directory": [directory(b"a"), hard_link(b"b", b"a")],
    "a hard link to the tree": [hard_link(b"a", b"")],
    "a hard link to itself": [hard_link(b"a", b"a")],
    "a hard link to what comes later": [hard_link(b"a", b"b"), file(b"b")],
    "a hard link to a whiteout": [entry(r.WHITEOUT, b"a", 0), hard_link(b"b", b"a")],
    "a hard link with an end in it": [file(b"a"), hard_link(b"b", b"a\0c")],
    "a link to nothing": [link(b"a", b"")],
    "a kind that no delta has": [entry(ord("b"), b"a")],
    "a second root": [ROOT],
    "a file that claims more than there is": [entry(r.FILE, b"a", rest=r.SIZE.pack(1 << 60, 0))],
    "stretches that overlap": [
        entry(r.FILE, b"a", rest=r.SIZE.pack(9, 2) + r.EXTENT.pack(0, 5) + r.EXTENT.pack(4, 9))
    ],
    "a stretch past the end": [entry(r.FILE, b"a", rest=r.SIZE.pack(1, 1) + r.EXTENT.pack(0, 2) + b"xx")],
    "more stretches than any file has": [entry(r.FILE, b"a", rest=r.SIZE.pack(9, (1 << 32) - 1))],
    "too many attributes": [entry(r.FILE, b"a", attributes=65535)],
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_that_none_can_be_is_refused_entirely(home: Records, tmp_path: Path, name: str) -> None:
    refused(home, archive(tmp_path, [b"".join([ROOT, *TREES[name], END])]))


@pytest.mark.parametrize(
    "name",
    [
        "security.capability",
        "trusted.overlay.opaque",
        "system.posix_acl_access",
        "user.",
        "",
        "user.a\0b",
    ],
)
def test_an_attribute_that_gives_rights_is_refused(home: Records, tmp_path: Path, name: str) -> None:
    own = r.VALUE.pack(len(name), 1) + name.encode() + b"y"
    tree = ROOT + entry(r.FILE, b"a", rest=own + r.SIZE.pack(0, 0), attributes=1) + END
    refused(home, archive(tmp_path, [tree]), "no attribute")


@pytest.mark.parametrize("mark", ["opaque", "whiteout", "origin", "redirect", "metacopy"])
def test_an_attribute_that_is_the_overlays_own_comes_as_a_programs(
    home: Records, tmp_path: Path, mark: str
) -> None:
    name = f"user.overlay.{mark}"
    own = r.VALUE.pack(len(name), 1) + name.encode() + b"y"
    tree = (
        ROOT
        + entry(r.DIRECTORY, b"a", 0o755, own, attributes=1)
        + entry(r.FILE, b"b", rest=own + r.SIZE.pack(0, 0), attributes=1)
        + END
    )
    made = received(home, archive(tmp_path, [tree]))
    for path in ("a", "b"):
        assert os.listxattr(made / path) == [f"user.overlay.overlay.{mark}"]


def test_what_it_claims_is_bounded_before_any_of_it_is_written(home: Records, tmp_path: Path) -> None:
    section = {"delta": "", "part": "history", "bytes": 10, "digest": "0" * 64, "entries": 0}
    refused(home, archive(tmp_path, head={"sections": [section | {"bytes": 1 << 60}]}), "claims")
    refused(home, archive(tmp_path, head={"sections": [section | {"entries": 1 << 60}]}), "entries")
    refused(home, archive(tmp_path, head={"sections": [section | {"bytes": 1 << 29}]}), "history claims")
    for wrong in (True, -1, 1.5, "1", None):
        for key in ("bytes", "entries"):
            refused(home, archive(tmp_path, head={"sections": [section | {key: wrong}]}), "no size")
    refused(home, raw(tmp_path, b"[" * 500_000, b""), "no JSON")
    refused(home, raw(tmp_path, b"\xff", b""), "no JSON")
    refused(home, raw(tmp_path, b"{}", b""), "version")


def test_a_flood_of_empty_files_ends_at_the_bound_and_takes_no_memory(
    home: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of compressed records can be a billion of them."""
    from kibo.runtime.trees import archive as module

    bound = 2000
    monkeypatch.setitem(module.import_deltas.__kwdefaults__, "limit_entries", bound)
    many = b"".join(file(b"%06d" % number) for number in range(bound + 1))
    refused(home, archive(tmp_path, [ROOT + many + END]), "more than the 2,000 entries")
    exactly = b"".join(file(b"%06d" % number) for number in range(bound))
    assert len(os.listdir(received(home, archive(tmp_path, [ROOT + exactly + END])))) == bound


def test_a_bomb_of_zeros_takes_no_more_memory_than_a_file_of_its_own_size(
    home: Records, tmp_path: Path
) -> None:
    size = 300 * MIB
    head = ROOT + entry(r.FILE, b"zeros", rest=r.SIZE.pack(size, 1) + r.EXTENT.pack(0, size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = archive(tmp_path, [head + bytes(size) + END])
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert path.stat().st_size < MIB
    assert (received(home, path) / "zeros").stat().st_size == size
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert made - before > size  # what this test holds itself
    assert after - made < 32 * MIB


def test_one_that_was_cut_or_changed_anywhere_is_refused(home: Records, tmp_path: Path) -> None:
    tree = ROOT + directory(b"d") + file(b"d/a", os.urandom(300)) + END
    path = archive(tmp_path, [tree])
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(home, path)
    for at in range(len(MAGIC), len(whole), 5):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        refused(home, path)
    path.write_bytes(whole + b"more")
    refused(home, path)


#: What no box can have made where every box has something mounted: at its own places, and at those of what it shares.
NO_DIRECTORIES = {
    "a link at dev": ("Desk", [link(b"dev", b"/etc")]),
    "a file at proc": ("Desk", [file(b"proc", b"x")]),
    "a link at sys that leads up": ("Desk", [link(b"sys", b"../../../../etc")]),
    "nothing at usr, whatever lies below": ("Desk", [directory(b"usr", r.WHITEOUT)]),
    "a link at shared": ("Desk", [link(b"shared", b"/etc")]),
    "a link for what is shared": ("/shared", [link(b"shared", b"/etc")]),
    "a link for one of them": ("/shared", [directory(b"shared"), link(b"shared/notes", b"/etc")]),
    "a file for one of them": ("/shared", [directory(b"shared"), file(b"shared/notes", b"x")]),
}


@pytest.mark.parametrize("name", NO_DIRECTORIES)
def test_what_is_mounted_on_must_be_a_directory(home: Records, tmp_path: Path, name: str) -> None:
    whose, entries = NO_DIRECTORIES[name]
    found = world("delta_0")
    found["instances"]["Desk"]["shared"] = ["notes"]
    if whose != "Desk":
        found["instances"] |= {whose: found["instances"]["Desk"], "Desk": world()["instances"]["Desk"]}
    refused(home, archive(tmp_path, [ROOT + b"".join(entries) + END], lines=log(world=found)), "no directory")


ENTRY = {
    "seq": 1,
    "kind": "note",
    "at": 1.0,
    "origin": None,
    "body": base64.b64encode(b"x").decode(),
}
#: Entries that no log has, in a history whose digest holds.
ENTRIES = {
    "without a body": {key: value for key, value in ENTRY.items() if key != "body"},
    "a body that is no base64": ENTRY | {"body": "?"},
    "a body of another kind": ENTRY | {"body": 7},
    "a kind that steers": ENTRY | {"kind": "note\x1b[2J"},
    "a kind of another kind": ENTRY | {"kind": ["note"]},
    "a time that is none": ENTRY | {"at": "yesterday"},
    "a time that never ends": ENTRY | {"at": float("inf")},
    "a time that is no number": ENTRY | {"at": float("nan")},
    "a time past all": ENTRY | {"at": 10**400},
    "a writer that is none": ENTRY | {"origin": "'; DROP TABLE branches"},
    "a writer of another kind": ENTRY | {"origin": 5},
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_none_can_be_is_refused_with_all_others(
    home: Records, tmp_path: Path, name: str
) -> None:
    refused(home, archive(tmp_path, lines=log(ENTRIES[name])), "not a whole")


@pytest.mark.parametrize("lines", [log(world=[1]), log(world={}, seq=True), log(world={}, seq=-1), [""] * 9])
def test_a_first_line_that_none_can_be_is_refused(home: Records, tmp_path: Path, lines: list[str]) -> None:
    refused(home, archive(tmp_path, lines=lines))


def test_a_history_that_is_nested_without_end_or_no_text_is_refused(home: Records, tmp_path: Path) -> None:
    note = json.dumps({"kibo_parcel": 1, "goal": ""}).encode()
    deep = b"[" * 200_000
    for section in (
        b"",
        b"\n",
        deep,
        note,
        note + b"\n" + deep,
        note + b"\n\xff\n",
        note + b"\n" + log(world={})[0].encode() + b"\n" + deep,
        note + b"\n" + log(world={})[0].encode() + b"\n\xff\n",
    ):
        refused(home, archive(tmp_path, section=section))


@pytest.mark.parametrize("goal", ["half \udcff", "null \0", 5, None])
def test_a_goal_that_no_database_can_hold_is_refused(home: Records, tmp_path: Path, goal: Any) -> None:
    lines = [json.dumps({"kibo_parcel": 1, "goal": goal}), *log(world={})]
    refused(home, archive(tmp_path, section="".join(f"{line}\n" for line in lines).encode()))


def test_a_history_of_empty_lines_takes_little_memory(home: Records, tmp_path: Path) -> None:
    size = 64 * MIB
    note = json.dumps({"kibo_parcel": 1, "goal": ""}).encode() + b"\n" + log(world={})[0].encode()
    path = archive(tmp_path, section=note + b"\n" * size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    refused(home, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < 3 * size


def test_a_goal_from_elsewhere_does_not_steer_the_terminal(
    home: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kibo.cli.options import Common
    from kibo.cli.tree import tree

    evil = "\x1b]0;owned\x07\x1b[2J\u202eevil\r\n"
    note = json.dumps({"kibo_parcel": 1, "goal": evil})
    section = "".join(f"{line}\n" for line in [note, *log(world={})]).encode()
    home.standing().receive(archive(tmp_path, section=section))
    assert home.history.roots()[0].goal == evil
    monkeypatch.setenv("KIBO_HOME", str(home.deltas.home))
    tree(common=Common())
    shown = capsys.readouterr().out
    assert all(char.isprintable() for char in shown.replace("\n", ""))
    assert "\\x1b]0;owned" in shown
