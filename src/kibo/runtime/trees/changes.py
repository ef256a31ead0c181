"""What differs between two stacks that share their lower layers. Costs what the layers above those hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kibo.runtime.trees.stack import AnyPath, Node, Stack, join

ChangeKind = Literal["added", "removed", "changed", "dropped"]
#: What no delta keeps: a socket means nothing without the process behind it, and no box can make a device.
DROPPED: Final = ("socket", "device")
MODE_BITS: Final = 0o7777


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs.

    Attributes:
        path: Relative to the root, as bytes.
        before: What it was, or None.
        after: What it is, or None. Of a directory that was removed or replaced, nothing below is listed.
        content: Whether the kind, the bytes or the link's target differ.
        attributes: Whether the mode or the extended attributes differ (where both are there).
        dropped: Whether it is now a socket or device, which counts as nothing.
    """

    path: bytes
    before: Node | None
    after: Node | None
    content: bool = True
    attributes: bool = False
    dropped: bool = False

    @property
    def kind(self) -> ChangeKind:
        """One word for it."""
        if self.before is None:
            return "added" if self.after is not None else "dropped"
        return "changed" if self.after is not None else "removed"


def changes(
    base: Stack, deltas: Sequence[AnyPath], *, owners: bool = False, bits: int = MODE_BITS
) -> Iterator[Change]:
    """Lists what deltas change in a stack, merged over all of them.

    A file that was rewritten with the same bytes and mode is no change; neither are times alone.

    Args:
        base: What lies below.
        deltas: Sealed writable layers, the lowest first.
        owners: Whether an owner alone is a change. Only where all layers hold the same ids: layers that boxes see
            through an id-mapped mount differ from a delta in every owner.
        bits: Of a mode, which count.

    Yields:
        Changes, a directory before what is in it, names in byte order.

    Raises:
        WorkspaceUnreadable, PathTooLong: A layer holds what this user cannot read, or what lies too deep.
    """
    # The upper stack is closed when the last node that was seen in it is gone.
    yield from difference(base, base.over(deltas), owners=owners, bits=bits)


def difference(
    before: Stack, after: Stack, *, owners: bool = False, bits: int = MODE_BITS, written: bool = False
) -> Iterator[Change]:
    """Lists what differs between two stacks; cheap where they share their lowest layers.

    Both must stay open while the nodes of a change are read. Arguments, order and errors as for `changes`.

    Args:
        before: One stack.
        after: The other.
        owners: As for `changes`.
        bits: As for `changes`.
        written: Whether to list whatever was written in the layers that are not shared, the same bytes again, sockets
            and devices included. No file is opened then.
    """
    shared = 0
    for one, two in zip(before.layers, after.layers, strict=False):
        if one != two:
            break
        shared += 1
    walk = _Walk(before, after, shared, owners=owners, bits=bits, written=written)
    levels = [walk.level(b"", before.root.layers, after.root.layers)]
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
            continue
        change, below = step
        if change is not None:
            yield change
        if below is not None:
            levels.append(walk.level(*below))


_Below = tuple[bytes, tuple[int, ...], tuple[int, ...]]
_Step = tuple[Change | None, _Below | None]


class _Walk:
    """Goes down two stacks at once, only where a layer that they do not share has something."""

    def __init__(
        self, before: Stack, after: Stack, shared: int, *, owners: bool, bits: int, written: bool
    ) -> None:
        self._before, self._after, self._shared = before, after, shared
        self._owners, self._bits, self._written = owners, bits, written

    def level(self, path: bytes, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[_Step]:
        """Compares one directory; ``old`` and ``new`` are the layers from which each side shows it."""
        for name in sorted(self._names(path, old, new)):
            place = join(path, name)
            was, now = self._before.see(place, old), self._after.see(place, new)
            dropped = (
                not self._written
                and now is not None
                and now.kind in DROPPED
                and (was is None or not _unmoved(was, now, self._shared))
            )
            if dropped:
                now = None
            yield self._compare(place, was, now, dropped=dropped), self._further(place, was, now)

    def _names(self, path: bytes, old: tuple[int, ...], new: tuple[int, ...]) -> set[bytes]:
        shared = self._shared
        own = [layer for layer in old if layer >= shared]
        found = self._before.names(path, own)
        found |= self._after.names(path, [layer for layer in new if layer >= shared])
        below = [layer for layer in old if layer < shared]
        if below != (kept := [layer for layer in new if layer < shared]):
            # Something hides on one side what the other shows.
            found |= self._before.names(path, sorted({*below, *kept}))
        return found

    def _further(self, path: bytes, was: Node | None, now: Node | None) -> _Below | None:
        if now is None or now.kind != "directory":
            return None
        old = was.layers if was is not None else ()
        if old == now.layers and all(layer < self._shared for layer in old):
            return None
        return path, old, now.layers

    def _compare(self, path: bytes, was: Node | None, now: Node | None, *, dropped: bool) -> Change | None:
        if was is None or now is None:
            if was is None and now is None and not dropped:
                return None
            return Change(path, was, now, dropped=dropped)
        if _unmoved(was, now, self._shared):
            return None
        if self._written and now.kind != "directory":
            return Change(path, was, now)
        content = not was.same_content(now)
        differs = differ(was, now, owners=self._owners, bits=self._bits)
        return Change(path, was, now, content, differs) if content or differs else None


def _unmoved(was: Node, now: Node, shared: int) -> bool:
    return was.layer == now.layer < shared


def differ(one: Node, two: Node, *, owners: bool = False, bits: int = MODE_BITS) -> bool:
    """Whether two nodes differ in mode or extended attributes and, where asked, in owner."""
    if one.kind == "link" or two.kind == "link":
        moded = False  # a link's mode means nothing, and it has no attributes
    else:
        moded = bool((one.mode ^ two.mode) & bits) or one.attributes() != two.attributes()
    return moded or (owners and owner(one) != owner(two))


def owner(node: Node) -> tuple[int, int]:
    """Returns the user and group ids that the layer holds."""
    return node.info.st_uid, node.info.st_gid


def changed_paths(base: Stack, deltas: Sequence[AnyPath]) -> Iterator[bytes]:
    """Lists every path that deltas add, change or remove, those inside of removed directories included.

    Yields:
        Paths, a directory before what is in it.
    """
    for change in changes(base, deltas):
        yield change.path
        gone = change.after is None or change.after.kind != "directory"
        if gone and change.before is not None and change.before.kind == "directory":
            yield from _inside(change.before)


def _inside(directory: Node) -> Iterator[bytes]:
    pending = [directory.children()]
    while pending:
        child = next(pending[-1], None)
        if child is None:
            pending.pop()
            continue
        yield child.path
        if child.kind == "directory":
            pending.append(child.children())
