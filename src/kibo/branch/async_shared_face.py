"""One shared directory of a branch, for coroutines; what each call takes and raises is said in `shared_face`."""

from __future__ import annotations

import builtins
import os
from typing import TYPE_CHECKING

from kibo.branch.deltas import BranchChange
from kibo.runtime.files import FileInfo, Progress

if TYPE_CHECKING:
    from kibo.branch.running import RunningBranch


class AsyncSharedDirectory:
    """A directory that instances of a branch see at ``/shared/NAME``; see `kibo.branch.shared_face.SharedDirectory`.

    Attributes:
        name: What it is called.
    """

    def __init__(self, running: RunningBranch, name: str) -> None:
        self._running = running
        self.name = name

    def __repr__(self) -> str:
        return f"<aio.SharedDirectory {self.name}>"

    async def read(self, path: str) -> bytes:
        """Reads a whole file."""
        return await self._running.use_shared(self.name, path, lambda files, place: files.read(place))

    async def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Writes a whole file, which all who have the directory see at once. Cancelled, it was written in part."""
        await self._running.use_shared(
            self.name, path, lambda files, place: files.write(place, content, mode)
        )

    async def list(self, path: str = ".") -> list[FileInfo]:
        """Lists it, or a directory in it, in order of name."""
        return await self._running.use_shared(self.name, path, lambda files, place: files.list(place))

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it."""
        await self._running.use_shared(self.name, path, lambda files, place: files.remove(place))

    async def upload(
        self, source: str | os.PathLike[str], target: str, progress: Progress | None = None
    ) -> int:
        """Copies a file or a tree of the host into it, under a new name. Cancelled, what was copied stays."""
        return await self._running.use_shared(
            self.name, target, lambda files, place: files.upload(source, place, progress)
        )

    async def download(
        self, source: str, target: str | os.PathLike[str], progress: Progress | None = None
    ) -> int:
        """Copies it, or what is in it, to the host. Cancelled, what was copied stays."""
        return await self._running.use_shared(
            self.name, source, lambda files, place: files.download(place, target, progress)
        )

    async def diff(self) -> builtins.list[BranchChange]:
        """Lists what has changed in it since its branch was forked or, for a root, began."""
        return await self._running.diff_shared(self.name)
