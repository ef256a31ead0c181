"""A process that may mount, in namespaces of its own: makes deltas as the kernel writes them, and looks at stacks.

Started as ``python -m overlays`` inside of ``unshare``; takes requests as lines of JSON. Works as root and as an
ordinary user.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from kibo.runtime import kernel
from kibo.runtime.roots import overlay

Edit = list[Any]


def described(path: bytes) -> list[Any]:
    """What of one path a program can tell, times apart, as JSON holds it."""
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    content = ""
    attributes = {}
    if kind == stat.S_IFLNK:
        content = os.readlink(path).hex()
    else:
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            if name.startswith("user.") and not name.startswith("user.overlay."):
                attributes[name] = os.getxattr(path, name, follow_symlinks=False).hex()
    if kind == stat.S_IFREG:
        if not info.st_mode & 0o400 and os.geteuid():
            os.chmod(path, info.st_mode | 0o400)
        with open(path, "rb") as file:
            content = file.read().hex()
        if not info.st_mode & 0o400 and os.geteuid():
            os.chmod(path, info.st_mode)
    mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(info.st_mode)
    return [kind, mode, content, attributes]


def dumped(root: bytes) -> dict[str, list[Any]]:
    """Everything below a directory, by path; the root itself is left out."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            found[os.fsdecode(os.path.relpath(path, root))] = described(path)
    return found


def edit(root: bytes, edits: list[Edit]) -> None:
    """Does edits, each ``[what, path, argument]``; one that the tree does not allow is left out."""
    for what, name, argument in edits:
        with contextlib.suppress(OSError):
            _edit_one(what, os.path.join(root, os.fsencode(name)), argument, root)


def _opener(path: Any, flags: int) -> int:
    """Opens without waiting for the other end of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _edit_one(what: str, path: bytes, argument: Any, root: bytes) -> None:
    if what == "write":
        with open(path, "wb", opener=_opener) as file:
            file.write(argument.encode())
    elif what == "rewrite":
        with open(path, "rb", opener=_opener) as file:
            data = file.read()
        os.unlink(path)
        with open(path, "wb", opener=_opener) as file:
            file.write(data)
        os.chmod(path, 0o644)
    elif what == "mkdir":
        os.mkdir(path)
    elif what == "remove":
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif what == "empty":
        shutil.rmtree(path)
        os.mkdir(path)
    elif what == "todir":
        os.unlink(path)
        os.mkdir(path)
        with open(path + b"/in", "wb", opener=_opener) as file:
            file.write(argument.encode())
    elif what == "tofile":
        shutil.rmtree(path)
        with open(path, "wb", opener=_opener) as file:
            file.write(argument.encode())
    elif what == "symlink":
        os.symlink(argument, path)
    elif what == "link":
        os.link(os.path.join(root, os.fsencode(argument)), path, follow_symlinks=False)
    elif what == "rename":
        os.rename(path, os.path.join(root, os.fsencode(argument)))
    elif what == "chmod":
        if not os.path.islink(path):
            os.chmod(path, argument)
    elif what == "setxattr":
        os.setxattr(path, "user.note", argument.encode(), follow_symlinks=False)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "sparse":
        with open(path, "wb", opener=_opener) as file:
            file.truncate(1 << 20)
            file.seek(500_000)
            file.write(argument.encode())
    elif what == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o644)
    else:
        raise ValueError(what)


def serve() -> None:
    """Answers requests until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        layers = [os.fsdecode(layer) for layer in request["layers"]]
        if request["do"] == "edit":
            delta = request["delta"]
            for name in ("u", "w"):
                os.makedirs(f"{delta}/{name}", exist_ok=True)
            fd = overlay(layers, f"{delta}/")
            kernel.move_mount(fd, request["place"])
            edit(os.fsencode(request["place"]), request["edits"])
            found = dumped(os.fsencode(request["place"]))
        else:
            fd = overlay([request["empty"], *layers])
            kernel.move_mount(fd, request["place"])
            found = dumped(os.fsencode(request["place"]))
        os.close(fd)
        kernel.umount2(request["place"], 0)
        print(json.dumps(found), flush=True)


class Overlays:
    """Mounts for tests. ``place`` is a directory of the tests' own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "mount").mkdir()
        (place / "empty").mkdir()
        self._number = 0
        self._process = subprocess.Popen(
            ["unshare", "-Urm", sys.executable, "-c", "import overlays; overlays.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def _ask(self, **request: Any) -> dict[str, list[Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request |= {"place": str(self.place / "mount"), "empty": str(self.place / "empty")}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the mounting process has ended"
        return json.loads(line)

    def fresh(self, name: str = "") -> Path:
        """A path that nothing is at."""
        self._number += 1
        return self.place / f"{name}{self._number}"

    def delta(self, layers: list[Path], edits: list[Edit]) -> Path:
        """Does edits in an overlay; returns the tree that the kernel wrote."""
        made = self.fresh("delta")
        self._ask(do="edit", layers=[str(layer) for layer in layers], delta=str(made), edits=edits)
        return made / "u"

    def shown(self, layers: list[Path]) -> dict[str, list[Any]]:
        """What the kernel shows of a stack."""
        return self._ask(do="show", layers=[str(layer) for layer in layers])

    def tree(self, edits: list[Edit]) -> Path:
        """A plain directory."""
        made = self.fresh("tree")
        made.mkdir()
        edit(os.fsencode(made), edits)
        return made
