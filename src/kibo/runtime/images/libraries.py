"""Shared libraries that the guest's interpreter loads, lent to bases that do not have them, or have others.

A guest is forked, so its C library is the host's and already in memory; but ``import ssl`` opens libssl by name in the
box's own file system. On the host's base it is there. On another base what is missing is added, and what the base has
is left alone. Source: ld.so(8), on where libraries are looked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: Where the interpreter's layer keeps them.
NEEDED: Final = "/opt/kibo/python/lib/needed"
#: Where it keeps the C library, with its loader, for programs that are started by that.
C_LIBRARY: Final = "/opt/kibo/python/lib/c"
#: What that is called there, whatever the machine's has for a name.
LOADER: Final = f"{C_LIBRARY}/ld.so"
#: Parts of the C library itself, which is in memory from the start and must not be mixed.
_IN_MEMORY: Final = re.compile(
    r"^(ld-linux|libc|libm|libdl|librt|libpthread|libutil|libresolv|libnsl)[-.]|^libpython"
)
_PYTHON: Final = re.compile(r"^libpython")
_INTERPRETER: Final = re.compile(rb"/lib[\w/.-]*/ld[\w-]*[-.][\w.-]*\.so\.\d+(?=\0)")
_RESOLVED: Final = re.compile(r"^\s*(?P<name>\S+) => (?P<path>/\S+) ", re.M)


def copy_needed(modules: Iterable[Path], target: Path) -> None:
    """Copies the libraries that extension modules need, by the names they are asked for.

    The directory ``target`` gets one subdirectory: the host's library directory, such as ``x86_64-linux-gnu``.
    Without ldd (a C library other than glibc) there is nothing to lend.
    """
    for name, path in _loaded(modules):
        if not _IN_MEMORY.match(name):
            place = target / Path(path).parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
            (place / name).chmod(0o644)


def copy_c_library(program: Path, modules: Iterable[Path], target: Path) -> None:
    """Copies the loader of a program, and what it and extension modules load of the C library, so that it runs in any
    base: in one that has another version of that, and in one that has none. See `LOADER`. Without ldd there is nothing
    to copy.
    """
    found = _INTERPRETER.search(program.read_bytes())
    parts = [
        (name, path)
        for name, path in _loaded([program, *modules])
        if _IN_MEMORY.match(name) and not _PYTHON.match(name)
    ]
    if found is None or not parts:
        return
    target.mkdir(parents=True)
    for name, path in [*parts, (Path(LOADER).name, found[0].decode())]:
        shutil.copyfile(path, target / name)
        (target / name).chmod(0o755)


def _loaded(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Lists what programs and libraries load, by name, with where that is on this host."""
    program, paths = shutil.which("ldd"), [os.fspath(path) for path in files]
    if program is None or not paths:
        return []
    # Exits with 1 when one of the files is no dynamic program, which says nothing of the others.
    listing = subprocess.run([program, *paths], capture_output=True, text=True, check=False).stdout
    return sorted({match["name"]: match["path"] for match in _RESOLVED.finditer(listing)}.items())


def lend() -> list[str]:
    """Adds the libraries that the root lacks, where its loader looks. Runs inside a sandbox. Returns their paths."""
    added = []
    for source in sorted(Path(NEEDED).glob("*/*")):
        triplet = source.parent.name
        directories = ("lib", "usr/lib", "lib64", "usr/lib64", f"lib/{triplet}", f"usr/lib/{triplet}")
        if any(os.path.lexists(f"/{directory}/{source.name}") for directory in directories):
            continue
        target = Path("/usr/lib", triplet if triplet not in ("lib", "lib64") else "", source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)
        added.append(os.fspath(target))
    return added
