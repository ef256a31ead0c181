"""Sessions without boxes: profiles of a store, and directories of the host in the places of boxes' files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from kibo.effects.sessions.content import Take
from kibo.effects.sessions.leasing import Lease, Place, Saved
from kibo.effects.sessions.port import Copy
from kibo.effects.sessions.register import Register
from kibo.effects.sessions.staging import take_directory
from kibo.runtime.waiting import Blocking, run
from kibo.store.database import Store


class HostFiles:
    """A box's files that are a directory of the host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def replace(self, path: str, files: Iterable[tuple[bytes, int, bytes]]) -> None:
        place = self.root / path
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, mode, content in files:
            target = place / name.decode("utf-8", "surrogateescape")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(mode)

    async def collect(self, path: str, take: Take) -> None:
        take_directory(self.root / path, take)


class Sent:
    """A box's files as somebody sends them who means harm."""

    def __init__(self, *entries: tuple[bytes, int, str, bytes]) -> None:
        self.entries = entries

    async def replace(self, path: str, files: Iterable[tuple[bytes, int, bytes]]) -> None:
        list(files)

    async def collect(self, path: str, take: Take) -> None:
        for entry in self.entries:
            take(*entry)


class Box:
    """What stands for a box: a directory, and a lease's calls on it."""

    def __init__(self, root: Path, name: str = "box") -> None:
        root.mkdir(exist_ok=True)
        self.place = root / "profile"
        self.copy = Copy(HostFiles(root), name, "", ())

    def load(self, lease: Lease, version: int | None = None) -> dict[str, bytes]:
        run(lease.load(self.copy, "profile", version))
        return self.files()

    def save(self, lease: Lease, files: Mapping[str, bytes] | None = None) -> Saved:
        """Saves what is there or, of these files, just these."""
        if files is not None:
            shutil.rmtree(self.place, ignore_errors=True)
            write(self.place, files)
        return run(lease.save(self.copy, "profile"))

    def files(self) -> dict[str, bytes]:
        return read(self.place)


def write(place: Path, files: Mapping[str, bytes]) -> None:
    place.mkdir(exist_ok=True)
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


def read(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def profile(store: Store, home: Path, name: str = "shop.example/ada") -> Place:
    register = Register(store)
    return Place(register, home, register.ensure(name))


def leased(place: Place, wait_s: float = 10.0, max_s: float = 3600.0, holder: str = "a test") -> Lease:
    lease = Lease(place, Blocking(), holder)
    run(lease.begin(wait_s, max_s))
    return lease


def end(lease: Lease) -> None:
    run(lease.end())
