"""The files of one profile, on the disk by digest.

``files/<digest>`` has a content, named by one version or several; ``staging/<random>`` is what one save has brought so
far, under a lock that ends with its process. What a save brought becomes files in the transaction that makes it a
version, and what no version names is removed in another: so neither ever sees the other half done.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from kibo.model.errors import (
    HostDiskFull,
    PathRefused,
    ProfileDamaged,
)
from kibo.model.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PROFILE_BYTES
from kibo.store.checking import damaged


class ProfileFile(NamedTuple):
    """One file of a profile.

    Attributes:
        digest: The BLAKE2b-256 of its content.
        size: In bytes.
        mode: Permission bits of its owner.
    """

    digest: str
    size: int
    mode: int


#: The files of one version by their paths, relative and in bytes: a name need not be text.
Manifest = dict[bytes, ProfileFile]
#: Takes one entry: path, mode, kind (``file``, ``more`` of the same, ``link``, ``directory``) and content.
Take = Callable[[bytes, int, str, bytes], None]

_ENCODER: Final = msgspec.msgpack.Encoder()
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_DECODER: Final = msgspec.msgpack.Decoder(dict[bytes, ProfileFile])


def packed(manifest: Manifest) -> bytes:
    """Returns a manifest as the store keeps it; equal ones give equal bytes."""
    return _ENCODER.encode({path: manifest[path] for path in sorted(manifest)})


def unpacked(data: bytes) -> Manifest:
    """Returns what `packed` was given.

    Raises:
        StoreDamaged: It is something else.
    """
    try:
        manifest = _DECODER.decode(data)
        for path, file in manifest.items():
            check_path(path)
            if not _DIGEST.fullmatch(file.digest) or not 0 <= file.size <= MAX_PROFILE_BYTES:
                raise ValueError(file)
    except (msgspec.DecodeError, PathRefused, ValueError) as error:
        raise damaged("profile_versions", "files", {}, "is no list of files") from error
    return manifest


def shown(path: bytes) -> str:
    """Returns a path as Python names files; one that is no text keeps its bytes as surrogates (PEP 383)."""
    return os.fsdecode(path)


def digest_of(content: bytes) -> str:
    """Names a content by what it is."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


class Contents:
    """What one profile has on the disk. Any number of processes may use it.

    Args:
        place: Its directory; made for its owner alone where it is not there.
    """

    def __init__(self, place: Path) -> None:
        self.place: Final = place
        self.files: Final = place / "files"

    def prepare(self) -> None:
        """Makes its directories."""
        for each in (self.place.parent, self.place, self.files, self.place / "staging"):
            each.mkdir(mode=0o700, exist_ok=True)

    def read(self, file: ProfileFile, path: bytes) -> bytes:
        """Reads one file and verifies it.

        Raises:
            ProfileDamaged: It is missing, or not what was saved.
        """
        try:
            fd = os.open(self.files / file.digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            raise self._damaged(file, path, "is missing") from None
        with open(fd, "rb") as found:
            content = found.read(file.size + 1)
        if len(content) != file.size or digest_of(content) != file.digest:
            raise self._damaged(file, path, "is not what was saved")
        return content

    def _damaged(self, file: ProfileFile, path: bytes, how: str) -> ProfileDamaged:
        return ProfileDamaged(
            f"{shown(path)!r} of the profile {how}",
            hint="load(..., version=) an older one that is whole, or version=0 to sign in anew; what is saved then "
            "takes its place.",
            details={"path": shown(path), "file": str(self.files / file.digest)},
        )

    def prune(self, wanted: set[str]) -> None:
        """Removes what no version names, within a transaction that nobody can add a version beside."""
        for name in os.listdir(self.files):
            if name not in wanted:
                (self.files / name).unlink(missing_ok=True)


def check_path(name: bytes) -> None:
    """Checks a path that is to be one of a profile's: relative, within the tree, of lengths that the kernel takes.

    Raises:
        PathRefused: It is not.
    """
    parts = name.split(b"/")
    if (
        len(name) < MAX_PATH_BYTES
        and b"\0" not in name
        and all(part not in (b"", b".", b"..") and len(part) <= MAX_NAME_BYTES for part in parts)
    ):
        return
    raise PathRefused(
        f"not a path of a profile: {shown(name[:80])!r}",
        hint="What was sent is no tree of files; nothing of it was kept.",
        details={"path": shown(name[:MAX_PATH_BYTES])},
    )


def lay_out(contents: Contents, manifest: Manifest, made: Mapping[str, bytes], place: Path) -> None:
    """Writes a profile's files into a new directory of the host, for its owner alone.

    Raises:
        ProfileDamaged: See `Contents.read`.
    """
    place.mkdir(mode=0o700)
    for path, file, content in each_content(contents, manifest, made):
        target = place / shown(path)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, file.mode)
        with open(fd, "wb") as written:
            written.write(content)


def each_content(
    contents: Contents, manifest: Manifest, made: Mapping[str, bytes]
) -> Iterable[tuple[bytes, ProfileFile, bytes]]:
    """Yields files with their contents, in order of path, one at a time.

    Args:
        contents: Where they are.
        manifest: What they are.
        made: Those that a merge has made and nobody has saved, by digest.
    """
    for path in sorted(manifest):
        file = manifest[path]
        content = made.get(file.digest)
        yield path, file, contents.read(file, path) if content is None else content


@contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """Says whose disk is full where something of a profile finds no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HostDiskFull(
            f"the disk that holds {place} is full; nothing of the session was saved",
            hint="Run `kibo gc`, or make room on that disk, and save again.",
            details={"path": str(place)},
        ) from error
