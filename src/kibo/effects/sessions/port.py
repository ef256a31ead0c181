"""What sessions need of whoever runs boxes, and of whoever waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kibo.effects.sessions.content import Manifest, Take

Result = TypeVar("Result")


class Waits(Protocol):
    """Waits for descriptors, and for the store; see `kibo.runtime.waiting.Waiting`."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """Returns the descriptors that can be read; raises `TimeoutError` after so long."""

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Does what waits for a disk or a database."""


class BoxFiles(Protocol):
    """The files of one box; see `kibo.runtime.fileaccess.FileAccess`."""

    async def replace(self, path: str, files: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Makes a directory that has these files, each a path, a mode and a content, and nothing else."""

    async def collect(self, path: str, take: Take) -> None:
        """Gives all that is below a directory."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One box that a profile is loaded into and saved from.

    Attributes:
        files: Its files.
        name: What it is called in all branches, or its id outside of them.
        tree: The tree of branches that it is in, or empty.
        lineage: The fork that it is in, and those above it but the root; empty where a save takes effect at once.
        loaded: What of each profile its branch has loaded or saved last, by profile and name; None outside of them.
    """

    files: BoxFiles
    name: str
    tree: str
    lineage: tuple[str, ...]
    loaded: MutableMapping[tuple[str, str], Manifest] | None = None
