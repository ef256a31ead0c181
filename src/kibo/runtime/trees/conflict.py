"""What two sides did to one path that cannot both stand, and what a resolver may say to it."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from kibo.model.errors import InvalidInput
from kibo.runtime.trees.lines import Clash, marked, merge_lines
from kibo.runtime.trees.stack import Node

#: Why the sides cannot be joined: `content` both wrote it; `added` both made it, differently; `deleted` one removed
#: what the other changed; `type` a directory on one side, something else on the other; `target` of a link;
#: `attributes` mode or extended attributes; `together` one side alone changed it, and the other what it is one thing
#: with, such as a database and its log: take all of them from one side; `destroyed` one destroyed the instance that the
#: other went on with, and the path is its root.
ConflictKind = Literal["content", "added", "deleted", "type", "target", "attributes", "together", "destroyed"]

#: Text longer than this is taken as a whole: a person would not read its merge either.
MAX_TEXT_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Conflict:
    """One path that both sides changed.

    The nodes can be read for as long as the conflict lives: they hold their stacks open.

    Attributes:
        path: Relative to the root, as bytes.
        kind: Why.
        base: What both came from, or None.
        ours: What our side has, or None where it removed it.
        theirs: What their side has, or None.
        instance: The name of the instance whose file it is; empty where trees are merged that are no instance's.
    """

    path: bytes
    kind: ConflictKind
    base: Node | None
    ours: Node | None
    theirs: Node | None
    instance: str = ""

    @property
    def shown(self) -> str:
        """The path as a box names it, and a diff."""
        return f"/{os.fsdecode(self.path)}"

    def texts(self) -> tuple[bytes, bytes, bytes] | None:
        """Returns base, ours and theirs where all that are there are text, a missing base as empty; else None."""
        if self.ours is None or self.theirs is None:
            return None
        found = []
        for node in (self.base, self.ours, self.theirs):
            text = b"" if node is None else text_of(node)
            if text is None:
                return None
            found.append(text)
        return found[0], found[1], found[2]

    def marked(self) -> bytes | None:
        """Returns the text with conflict markers, or None where a side is no text."""
        texts = self.texts()
        return None if texts is None else marked(merge_lines(*texts))

    def clashes(self) -> list[Clash]:
        """Returns the stretches of text that clash; empty where a side is no text."""
        texts = self.texts()
        return [] if texts is None else [piece for piece in merge_lines(*texts) if isinstance(piece, Clash)]

    def to_dict(self) -> dict[str, Any]:
        """Describes it as values that JSON can hold, without contents."""
        sides = {"base": self.base, "ours": self.ours, "theirs": self.theirs}
        return {
            **({"instance": self.instance} if self.instance else {}),
            "path": self.shown,
            "kind": self.kind,
            **{name: None if node is None else described(node) for name, node in sides.items()},
        }


def described(node: Node) -> dict[str, Any]:
    """Describes one version of a path as values that JSON can hold."""
    return {"kind": node.kind, "size": node.size, "mode": node.mode, "mtime_ns": node.info.st_mtime_ns}


def text_of(node: Node) -> bytes | None:
    """Returns a file's content if it is text: UTF-8, without zero bytes, not too long."""
    if node.kind != "file" or node.size > MAX_TEXT_BYTES:
        return None
    data = node.read()
    if b"\0" in data:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return data


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is to become of a path in conflict. Make one with the names below.

    Attributes:
        choice: Which way.
        content: For ``content``: the file's bytes, or the path of a file that has them, read before the resolver is
            called again.
        mode: For ``content``: permission bits, or None for those of ours, else theirs.
    """

    choice: Literal["ours", "theirs", "content", "delete", "keep"]
    content: bytes | os.PathLike[str] = b""
    mode: int | None = None

    @classmethod
    def write(cls, content: bytes | os.PathLike[str], mode: int | None = None) -> Resolution:
        """Says that the path is to be a file with this content."""
        return cls("content", content, mode)


OURS: Final = Resolution("ours")
THEIRS: Final = Resolution("theirs")
#: Nothing is to be there.
DELETE: Final = Resolution("delete")
#: The conflict stays, and with it the merge's refusal.
KEEP: Final = Resolution("keep")

Resolver = Callable[[Conflict], Resolution]


def asked(resolver: Resolver | None, conflict: Conflict) -> Resolution:
    """Asks what is to become of a conflict; without a resolver it stays.

    Raises:
        InvalidInput: The resolver returned something else than a resolution.
    """
    said = KEEP if resolver is None else resolver(conflict)
    if not isinstance(said, Resolution):
        raise InvalidInput(
            f"the resolver returned {reprlib.repr(said)} for {conflict.shown}",
            hint="Return OURS, THEIRS, DELETE, KEEP or Resolution.write(content).",
        )
    return said
