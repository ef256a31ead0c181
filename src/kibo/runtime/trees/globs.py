"""Which changes touch what was read: paths against patterns.

``*`` and ``?`` match within one name, ``[...]`` one of some bytes, ``**`` any number of whole names, none included.
A pattern without wildcards names one path and, if that is a directory, all that is in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

Pattern = str | bytes


def compile_globs(patterns: Iterable[Pattern]) -> re.Pattern[bytes]:
    """Makes one expression of several patterns; it matches whole relative paths.

    Args:
        patterns: Relative to the root; a leading slash is the root's. No pattern at all matches nothing.
    """
    made = [_translated(os.fsencode(pattern).strip(b"/")) for pattern in patterns]
    return re.compile(b"|".join(made) if made else b"(?!)", re.DOTALL)


def matching(paths: Iterable[bytes], patterns: Sequence[Pattern]) -> Iterator[bytes]:
    """Yields those paths that a pattern matches, in their order."""
    wanted = compile_globs(patterns)
    return (path for path in paths if wanted.fullmatch(path))


def _translated(pattern: bytes) -> bytes:
    names = pattern.split(b"/") if pattern else [b"**"]
    parts = []
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == b"**":
            parts.append(b".*" if last else b"(?:[^/]+/)*")
        else:
            parts.append(_name(name) + (b"" if last else b"/"))
    # What is inside of a directory that was named is named with it.
    return b"(?:" + b"".join(parts) + (b"" if names[-1] == b"**" else b"(?:/.*)?") + b")"


def _name(name: bytes) -> bytes:
    """Translates one name: a wildcard stops at a slash."""
    parts = []
    at = 0
    while at < len(name):
        byte = name[at : at + 1]
        at += 1
        end = name.find(b"]", at + (name[at : at + 1] in (b"!", b"^")) + 1) if byte == b"[" else -1
        if end >= 0:
            inside = name[at:end]
            negated = inside[:1] in (b"!", b"^")
            inside = (
                inside[negated:]
                .replace(b"\\", b"\\\\")
                .replace(b"[", b"\\[")
                .replace(b"]", b"\\]")
                .replace(b"^", b"\\^")
            )
            parts.append((b"(?!/)[^" if negated else b"(?!/)[") + inside + b"]")
            at = end + 1
        else:
            parts.append({b"*": b"[^/]*", b"?": b"[^/]"}.get(byte) or re.escape(byte))
    return b"".join(parts)
