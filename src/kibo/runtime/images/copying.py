"""The ``files`` step: puts files of the host, and given content, into a layer."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kibo.model.errors import InvalidDefinition
from kibo.runtime.idmap import BOX_ID
from kibo.runtime.images.host_tree import may_give_away
from kibo.runtime.layers.digest import hash_file

if TYPE_CHECKING:
    from kibo.runtime.images.inside import Inside
    from kibo.runtime.images.recipes import Recipe

#: What programs of the box must be able to change; all else that is put in belongs to root.
_BOX_PLACES: Final = ("/home/box", "/work")
_CHUNK_BYTES: Final = 1 << 20


def describe_source(destination: str, source: str | bytes) -> dict[str, Any]:
    """Names what is to be put at a destination, so that a change of it is another key. Reads the file.

    Raises:
        InvalidDefinition: There is no such file on the host.
    """
    import hashlib

    if isinstance(source, bytes):
        return {"to": destination, "hash": hashlib.blake2b(source, digest_size=32).hexdigest(), "mode": 0o644}
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            members = [
                [entry.relative_to(path).as_posix(), *_describe_member(entry)]
                for entry in sorted(path.rglob("*"))
                if not entry.is_dir() or entry.is_symlink()
            ]
            return {"to": destination, "members": members}
        return {"to": destination, "hash": hash_file(path), "mode": _mode(path.stat().st_mode)}
    except OSError as error:
        raise InvalidDefinition(
            f"Env.files: {source!r} for {destination!r} cannot be read: {error.strerror}",
            hint="A relative path begins beside the file that defines the class. Content can be given as bytes.",
            details={"path": source},
        ) from error


def _describe_member(path: Path) -> list[Any]:
    if path.is_symlink():
        return ["link", os.readlink(path)]
    return [hash_file(path), _mode(path.stat().st_mode)]


def _mode(mode: int) -> int:
    return 0o755 if mode & 0o111 else 0o644


def put(sources: list[tuple[str, Path]]) -> Recipe:
    """Writes staged files to their destinations. ``sources`` gives (destination, staged path) as seen inside."""

    def run(_inside: Inside) -> dict[str, Any]:
        for destination, staged in sources:
            owner = BOX_ID if destination.startswith(tuple(f"{place}/" for place in _BOX_PLACES)) else 0
            _make_parents(destination, owner)
            _put(os.fspath(staged), destination, owner)
        return {}

    return run


def _make_parents(destination: str, owner: int) -> None:
    parts = destination.strip("/").split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        path = "/" + "/".join(parts[:depth])
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
            _own(path, owner)


def _put(source: str, destination: str, owner: int) -> None:
    info = os.lstat(source)
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), destination)
    elif stat.S_ISDIR(info.st_mode):
        os.makedirs(destination, 0o755, exist_ok=True)
        for name in sorted(os.listdir(source)):
            _put(f"{source}/{name}", f"{destination}/{name}", owner)
    else:
        with open(source, "rb") as read, open(destination, "wb") as write:
            while chunk := read.read(_CHUNK_BYTES):
                write.write(chunk)
        os.chmod(destination, _mode(info.st_mode))
    _own(destination, owner)


def _own(path: str, owner: int) -> None:
    if owner and may_give_away():
        os.lchown(path, owner, owner)
