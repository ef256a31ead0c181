"""One change of a file as text that people read and `git apply` takes: unified hunks under git's headers."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from kibo.model.limits import MIB
from kibo.runtime.trees.changes import Change
from kibo.runtime.trees.lines import Hunk, hunks
from kibo.runtime.trees.stack import Node

#: Lines around each hunk.
CONTEXT: Final = 3
#: Above this a text is not compared line by line; it is named as one that differs.
MAX_TEXT_BYTES: Final = 8 * MIB
#: As git does: a file is text where its beginning has no NUL.
_LOOKED_AT: Final = 8000
_QUOTED: Final = re.compile(rb'[\x00-\x1f"\\\x7f]')


def patch(place: bytes, change: Change) -> Iterator[bytes]:
    """Yields a change as patches, one a file.

    Args:
        place: Where the change's path is relative to; empty, or with a slash at its end.
        change: The change; its files can be read.

    Yields:
        Nothing for directories, whose contents are changes of their own unless they were removed, and for FIFOs.
    """
    before, after = change.before, change.after
    if before is not None and before.kind == "directory" and (after is None or after.kind != "directory"):
        for node in _inside(before):
            yield from _patch(place + node.path, node, None)
        before = None
    yield from _patch(place + change.path, before, after)


def _patch(path: bytes, before: Node | None, after: Node | None) -> Iterator[bytes]:
    old, new = (
        node if node is not None and node.kind in ("file", "link") else None for node in (before, after)
    )
    if old is not None and new is not None and old.kind != new.kind:
        yield from _patch(path, old, None)
        old = None
    if old is None and new is None:
        return
    a, b = _name(b"a/" + path), _name(b"b/" + path)
    head = b"diff --git %b %b\n" % (a, b)
    mode = b""
    if old is None:
        head += b"new file mode %b\n" % _mode(new)
        a = b"/dev/null"
    elif new is None:
        head += b"deleted file mode %b\n" % _mode(old)
        b = b"/dev/null"
    elif _mode(old) != _mode(new):
        mode = b"old mode %b\nnew mode %b\n" % (_mode(old), _mode(new))
    if old is not None and new is not None and old.same_content(new):
        if mode:
            yield head + mode
        return
    one, two = _text(old), _text(new)
    if one is None or two is None:
        yield head + mode + b"Binary files %b and %b differ\n" % (a, b)
        return
    body = b"".join(unified(one, two))
    yield head + mode + (b"--- %b\n+++ %b\n" % (a, b) + body if body else b"")


def unified(old: bytes, new: bytes) -> Iterator[bytes]:
    """Yields the hunks that make one text of another, with lines around them."""
    one, two = _lines(old), _lines(new)
    for group in _grouped(hunks(one, two)):
        start, end = max(group[0][0] - CONTEXT, 0), min(group[-1][1] + CONTEXT, len(one))
        shift = group[0][2] - group[0][0]
        new_start, new_end = start + shift, end + group[-1][3] - group[-1][1]
        yield b"@@ -%b +%b @@\n" % (_range(start, end), _range(new_start, new_end))
        at = start
        for first, last, new_first, new_last in group:
            yield from (_line(b" ", line) for line in one[at:first])
            yield from (_line(b"-", line) for line in one[first:last])
            yield from (_line(b"+", line) for line in two[new_first:new_last])
            at = last
        yield from (_line(b" ", line) for line in one[at:end])


def _grouped(found: Sequence[Hunk]) -> Iterator[list[Hunk]]:
    """Joins hunks whose surroundings would touch."""
    group: list[Hunk] = []
    for hunk in found:
        if group and hunk[0] - group[-1][1] > 2 * CONTEXT:
            yield group
            group = []
        group.append(hunk)
    if group:
        yield group


def _range(start: int, end: int) -> bytes:
    count = end - start
    # An empty stretch is named by the line before it. Source: the GNU diff manual, "Detailed Unified".
    first = start + 1 if count else start
    return b"%d" % first if count == 1 else b"%d,%d" % (first, count)


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + (line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")


def _lines(text: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", text)


def _text(node: Node | None) -> bytes | None:
    """Returns what a patch compares of a file or link, or None where it is no text."""
    if node is None:
        return b""
    if node.kind == "link":
        return node.target()
    if node.size > MAX_TEXT_BYTES:
        return None
    data = node.read()
    return None if b"\0" in data[:_LOOKED_AT] else data


def _mode(node: Node | None) -> bytes:
    """The modes that git knows."""
    if node is not None and node.kind == "link":
        return b"120000"
    return b"100755" if node is not None and node.mode & stat.S_IXUSR else b"100644"


def _name(path: bytes) -> bytes:
    if not _QUOTED.search(path):
        return path
    return b'"%b"' % _QUOTED.sub(lambda found: b"\\%03o" % found[0][0], path)


def _inside(directory: Node) -> Iterator[Node]:
    pending = [directory.children()]
    while pending:
        child = next(pending[-1], None)
        if child is None:
            pending.pop()
        elif child.kind == "directory":
            pending.append(child.children())
        else:
            yield child
