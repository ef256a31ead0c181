"""One shared directory of a branch, as a plain program holds it: `kibo.branch.async_shared_face` is for coroutines."""

from __future__ import annotations

import builtins
import os
from typing import TYPE_CHECKING

from kibo.branch.deltas import BranchChange
from kibo.runtime.files import FileInfo, Progress
from kibo.runtime.waiting import run

if TYPE_CHECKING:
    from kibo.branch.running import RunningBranch


class SharedDirectory:
    """A directory that instances of a branch see at ``/shared/NAME``, and this program with them.

    Files are read and written with the rights of a box's programs, in a box of their own: a link that a box has left
    there leads nowhere else. Paths begin in the directory. Every call raises `BranchClosed` once the branch has ended,
    but for `diff`, and waits while the branch is forked or committed. Thread-safe.

    Attributes:
        name: What it is called.
    """

    def __init__(self, running: RunningBranch, name: str) -> None:
        self._running = running
        self.name = name

    def __repr__(self) -> str:
        return f"<SharedDirectory {self.name}>"

    def read(self, path: str) -> bytes:
        """Reads a whole file; raises as `Files.read`, and `PathRefused` for a path that leads out."""
        return run(self._running.use_shared(self.name, path, lambda files, place: files.read(place)))

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Writes a whole file, which all who have the directory see at once; makes the directories above it.

        Args:
            path: In the directory.
            content: Bytes, or text, which is written as UTF-8.
            mode: The file's permissions.

        Raises:
            DiskFull, PathRefused, InvalidInput: As `Files.write`.
        """
        run(self._running.use_shared(self.name, path, lambda files, place: files.write(place, content, mode)))

    def list(self, path: str = ".") -> list[FileInfo]:
        """Lists it, or a directory in it, in order of name; raises as `Files.list`."""
        return run(self._running.use_shared(self.name, path, lambda files, place: files.list(place)))

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it; raises as `Files.remove`."""
        run(self._running.use_shared(self.name, path, lambda files, place: files.remove(place)))

    def upload(self, source: str | os.PathLike[str], target: str, progress: Progress | None = None) -> int:
        """Copies a file or a tree of the host into it, under a new name; returns and raises as `Files.upload`."""
        return run(
            self._running.use_shared(
                self.name, target, lambda files, place: files.upload(source, place, progress)
            )
        )

    def download(self, source: str, target: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """Copies it, or what is in it, to the host; returns and raises as `Files.download`."""
        return run(
            self._running.use_shared(
                self.name, source, lambda files, place: files.download(place, target, progress)
            )
        )

    def diff(self) -> builtins.list[BranchChange]:
        """Lists what has changed in it since its branch was forked or, for a root, began; see `Branch.diff`."""
        return run(self._running.diff_shared(self.name))
