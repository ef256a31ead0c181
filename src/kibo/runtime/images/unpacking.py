"""Unpacks an image's layer into a directory, in the form that overlayfs takes.

Runs inside a sandbox with the directory as its root, so that no name or link in an archive can lead out of it. Deleted
files (``.wh.<name>``) become character devices 0:0, replaced directories (``.wh..wh..opq``) get the opaque attribute.
Source: the OCI image specification, "Layer Filesystem Changeset".
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, Any, Final, cast

import zstandard

from kibo.runtime.images.host_tree import may_give_away
from kibo.runtime.images.inside import Inside, Refusal
from kibo.runtime.images.recipes import Recipe
from kibo.runtime.layers.temporary import remove_tree

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_CHUNK_BYTES: Final = 1 << 20


def unpack(archive: str, target: str) -> Recipe:
    """Unpacks ``archive`` into ``target``, both as seen inside the sandbox. The sandbox is of no other use after."""

    def run(inside: Inside) -> dict[str, Any]:
        file = open(archive, "rb")  # noqa: SIM115 - open for the process's life
        may_give_away()  # remembers its answer: /proc is not there after the next line
        inside.enter(target)
        with _decompress(file) as stream, tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                _place(members, member)
        return {}

    return run


def _decompress(file: IO[bytes]) -> IO[bytes]:
    """Opens a layer by what it is, not by what its media type says."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic == b"\x28\xb5\x2f\xfd":
        reader: IO[bytes] = zstandard.ZstdDecompressor().stream_reader(file)
        return io.BufferedReader(cast(Any, reader), _CHUNK_BYTES)
    return file


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = "/" + os.path.normpath("/" + member.name).lstrip("/")
    if "/../" in f"/{member.name}/":
        raise Refusal("failed", f"the image has a file named {member.name!r}", {"path": member.name})
    directory, name = os.path.split(path)
    _make_parents(directory)
    if name == _OPAQUE:
        os.setxattr(directory, "user.overlay.opaque", b"y")
        return
    if name.startswith(_WHITEOUT):
        hidden = os.path.join(directory, name.removeprefix(_WHITEOUT))
        if not os.path.lexists(hidden):
            os.mknod(hidden, stat.S_IFCHR | 0o000, os.makedev(0, 0))
        return
    if path != "/":
        _clear(path, directory=member.isdir())
    _create(archive, member, path)


def _create(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    if member.isdir():
        os.makedirs(path, exist_ok=True)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link("/" + os.path.normpath("/" + member.linkname).lstrip("/"), path, follow_symlinks=False)
        return
    elif member.isreg():
        source = archive.extractfile(member)
        with open(path, "wb") as file:
            while source is not None and (chunk := source.read(_CHUNK_BYTES)):
                file.write(chunk)
    elif member.isfifo():
        os.mkfifo(path)
    else:
        return  # devices: a box has its own, and nobody but the host's root may make others
    if may_give_away():
        os.lchown(path, min(member.uid, 65_535), min(member.gid, 65_535))
    if not member.issym():
        os.chmod(path, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            # Capabilities and other system attributes mean nothing in a box, which gets none.
            if key.startswith("SCHILY.xattr.user.") and "overlay" not in key:
                os.setxattr(path, key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))
    os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _make_parents(path: str) -> None:
    """Makes missing parents. A parent that is a link is followed, inside the root, as a container runtime does."""
    if not os.path.isdir(path):
        if os.path.lexists(path):
            os.unlink(path)
        os.makedirs(path, 0o755, exist_ok=True)


def _clear(path: str, *, directory: bool) -> None:
    """Makes room for a member: a later one of the same name replaces an earlier one."""
    if not os.path.lexists(path):
        return
    if os.path.isdir(path) and not os.path.islink(path):
        if directory:
            return
        remove_tree(Path(path))
        return
    os.unlink(path)
