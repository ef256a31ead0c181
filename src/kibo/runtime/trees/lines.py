"""Three-way merge of text, line by line.

Two versions are each compared with their base; changes that neither overlap nor touch are joined, others clash. Lines
that occur once on both sides are matched first (patience), which keeps functions whole and costs n log n; what lies
between two matches is compared by `difflib`, unless that would take too long: then it counts as rewritten, which may
clash where a finer look would not, and never joins what should clash. Sources: Khanna, Kunal and Pierce, "A formal
investigation of diff3", 2007; Bram Cohen, "Patience diff advantages".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

#: Lines of one side times lines of the other, up to which a stretch without unique lines is compared line by line.
MAX_CELLS: Final = 1_000_000

#: A stretch of the base (start, end) that became a stretch of a version (start, end).
Hunk = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Clash:
    """A place that both sides changed, with the lines of each."""

    base: bytes
    ours: bytes
    theirs: bytes

    def marked(self, ours: bytes = b"ours", theirs: bytes = b"theirs") -> bytes:
        """Writes it with the usual markers, for a person to decide."""
        text = [b"<<<<<<< ", ours, b"\n", _ended(self.ours), b"||||||| base\n", _ended(self.base)]
        text += [b"=======\n", _ended(self.theirs), b">>>>>>> ", theirs, b"\n"]
        return b"".join(text)


def merge_lines(base: bytes, ours: bytes, theirs: bytes) -> list[bytes | Clash]:
    """Joins two versions of a text.

    Args:
        base: What both came from.
        ours: One version.
        theirs: The other.

    Returns:
        Text and clashes, in order. Without a clash, the joined text is one piece at most.
    """
    texts = [_lines(text) for text in (base, ours, theirs)]
    sides = [hunks(texts[0], texts[1]), hunks(texts[0], texts[2])]
    joined: list[bytes | Clash] = []
    at = 0  # how far the base has been written
    for start, end, groups in _grouped(sides[0], sides[1]):
        _add(joined, b"".join(texts[0][at:start]))
        changed = [_version(texts[n + 1], group, start, end) for n, group in enumerate(groups) if group]
        if len(changed) == 1 or changed[0] == changed[1]:
            _add(joined, changed[0])
        else:
            joined.append(Clash(b"".join(texts[0][start:end]), changed[0], changed[1]))
        at = end
    _add(joined, b"".join(texts[0][at:]))
    return joined


def merged(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """Joins two versions of a text, or returns None where they clash."""
    pieces = merge_lines(base, ours, theirs)
    return None if any(isinstance(piece, Clash) for piece in pieces) else b"".join(pieces)  # type: ignore[arg-type]


def marked(pieces: Sequence[bytes | Clash], ours: bytes = b"ours", theirs: bytes = b"theirs") -> bytes:
    """Writes a merge with the usual markers around each clash, for a person to finish."""
    text = [piece if isinstance(piece, bytes) else piece.marked(ours, theirs) for piece in pieces]
    return b"".join(text)


def _ended(text: bytes) -> bytes:
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _add(pieces: list[bytes | Clash], text: bytes) -> None:
    if pieces and isinstance(pieces[-1], bytes):
        pieces[-1] += text
    elif text:
        pieces.append(text)


def _lines(text: bytes) -> list[bytes]:
    """Splits after every newline, and nowhere else; a last line without one differs from the same with one."""
    lines = text.split(b"\n")
    last = lines.pop()
    ended = [line + b"\n" for line in lines]
    return [*ended, last] if last else ended


def _version(lines: Sequence[bytes], group: Sequence[Hunk], start: int, end: int) -> bytes:
    """Returns what a side has between two lines of the base, which lie at or outside its hunks there."""
    first, last = group[0], group[-1]
    return b"".join(lines[first[2] - (first[0] - start) : last[3] + (end - last[1])])


def _grouped(
    ours: list[Hunk], theirs: list[Hunk]
) -> Iterator[tuple[int, int, tuple[list[Hunk], list[Hunk]]]]:
    """Yields stretches of the base whose changes overlap or touch, with the hunks of each side."""
    pending = sorted([(hunk, 0) for hunk in ours] + [(hunk, 1) for hunk in theirs])
    group: tuple[list[Hunk], list[Hunk]] = ([], [])
    start = end = -1
    for hunk, side in pending:
        if hunk[0] <= end:
            end = max(end, hunk[1])
        else:
            if end >= 0:
                yield start, end, group
            group = ([], [])
            start, end = hunk[0], hunk[1]
        group[side].append(hunk)
    if end >= 0:
        yield start, end, group


def hunks(old: Sequence[bytes], new: Sequence[bytes]) -> list[Hunk]:
    """Lists what changed from one text to another, in order; none of them touch."""
    found: list[Hunk] = []
    at = (0, 0)
    for i, j, length in _matches(old, new):
        if (i, j) != at:
            found.append((at[0], i, at[1], j))
        at = (i + length, j + length)
    if at != (len(old), len(new)):
        found.append((at[0], len(old), at[1], len(new)))
    return found


def _matches(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yields equal stretches (start in each, length), in order. Adjacent ones may follow each other."""
    pending = [(0, len(old), 0, len(new))]
    while pending:
        i, i_end, j, j_end = pending.pop()
        head = 0
        while i + head < i_end and j + head < j_end and old[i + head] == new[j + head]:
            head += 1
        if head:
            yield i, j, head
        i, j = i + head, j + head
        tail = 0
        while i < i_end - tail and j < j_end - tail and old[i_end - tail - 1] == new[j_end - tail - 1]:
            tail += 1
        i_end, j_end = i_end - tail, j_end - tail
        if tail:
            # The common end comes after what lies before it: an empty middle with a common head yields it.
            pending.append((i_end, i_end + tail, j_end, j_end + tail))
        if i == i_end or j == j_end:
            continue
        anchors = _anchors(old, new, i, i_end, j, j_end)
        if not anchors:
            yield from _plain(old, new, i, i_end, j, j_end)
            continue
        stops = [*anchors, (i_end, j_end)]
        starts = [(i, j), *anchors]
        parts = zip(starts, stops, strict=True)
        pending += [(start[0], stop[0], start[1], stop[1]) for start, stop in parts][::-1]


def _anchors(
    old: Sequence[bytes], new: Sequence[bytes], i: int, i_end: int, j: int, j_end: int
) -> list[tuple[int, int]]:
    """Returns the longest rising series of lines that occur once on either side."""
    once = {line for line, count in Counter(old[i:i_end]).items() if count == 1}
    counts = Counter(new[j:j_end])
    places = {
        line: number for number, line in enumerate(old[i:i_end], i) if line in once and counts[line] == 1
    }
    pairs = [(places[line], number) for number, line in enumerate(new[j:j_end], j) if line in places]
    tops: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for number, (place, _) in enumerate(pairs):
        at = bisect_left(tops, place)
        before.append(ends[at - 1] if at else -1)
        tops[at : at + 1] = [place]
        ends[at : at + 1] = [number]
    series = []
    number = ends[-1] if ends else -1
    while number >= 0:
        series.append(pairs[number])
        number = before[number]
    return series[::-1]


def _plain(
    old: Sequence[bytes], new: Sequence[bytes], i: int, i_end: int, j: int, j_end: int
) -> Iterator[tuple[int, int, int]]:
    if (i_end - i) * (j_end - j) > MAX_CELLS:
        return
    matcher = SequenceMatcher(None, old[i:i_end], new[j:j_end], autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.size:
            yield i + block.a, j + block.b, block.size
