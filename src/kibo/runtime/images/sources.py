"""What the interpreter's layer is made of on this host, and names for its state, by which it is found again.

Each process asks for these at its first spawn: they take some 20 ms, and bring along nothing that builds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import sysconfig
from functools import cache, lru_cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Final, NamedTuple

from kibo.model.errors import HostUnsupported

#: Raised when the layout of the layer changes, so that an older Kibo's is not taken for this one's.
_LAYOUT: Final = 6
_ROOT_PACKAGES: Final = ("cloudpickle", "msgspec", "pydantic")
#: Parts of Kibo that only the host's side uses.
_HOST_ONLY: Final = ("cli", "serve", "integrations", "client", "runtime/images", "runtime/layers")


class _Package(NamedTuple):
    version: str
    needs: tuple[str, ...]


@lru_cache(maxsize=1)
def base_signature() -> str:
    """Names the running interpreter and the guest packages that are installed beside it."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    facts = {
        "layout": _LAYOUT,
        "python": [
            sys.version,
            sys.implementation.cache_tag,
            str(stdlib),
            (stdlib / "os.py").stat().st_mtime_ns,
        ],
        "packages": sorted(f"{name}=={_package(name).version}" for name in guest_packages()),
    }
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=32).hexdigest()


@lru_cache(maxsize=1)
def guest_signature() -> str:
    """Names the state of Kibo's own guest half. One stat a module."""
    hasher = hashlib.blake2b(base_signature().encode(), digest_size=32)
    for source, name in guest_modules():
        info = os.stat(source)
        hasher.update(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
    return hasher.hexdigest()


@lru_cache(maxsize=1)
def guest_packages() -> tuple[str, ...]:
    """Lists the distributions that guests import, with all that they need, sorted.

    Raises:
        HostUnsupported: One is not installed for this interpreter.
    """
    found: set[str] = set()
    waiting = list(_ROOT_PACKAGES)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in _package(name).needs:
            if "extra ==" in requirement or "extra==" in requirement or "sys_platform" in requirement:
                continue
            waiting.append(re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower().replace("_", "-"))
    return tuple(sorted(found))


def distribution(name: str) -> Distribution:
    """Finds an installed package.

    Raises:
        HostUnsupported: It is not installed for this interpreter.
    """
    try:
        return Distribution.from_name(name)
    except PackageNotFoundError:
        raise HostUnsupported(
            f"the Python package {name} is not installed for {sys.executable}",
            hint="Install kibo with its dependencies: `pip install` brings them.",
            details={"missing": name},
        ) from None


@cache
def _package(name: str) -> _Package:
    """Reads the two fields that matter here. All of them, with the description, take the library ten times as long."""
    package = distribution(name)
    text = package.read_text("METADATA")
    if text is None:  # of an older form, which tells it elsewhere
        return _Package(package.version, tuple(package.requires or ()))
    fields = [line.partition(": ") for line in text.partition("\n\n")[0].splitlines()]
    version = next(value for field, _, value in fields if field == "Version")
    return _Package(version, tuple(value for field, _, value in fields if field == "Requires-Dist"))


def guest_modules() -> list[tuple[str, str]]:
    """Lists Kibo's modules that a guest may import: each file, and its name below the package; sorted by that."""
    import kibo

    root = kibo.__path__[0]
    found = []
    for directory, _, names in os.walk(root):
        below = os.path.relpath(directory, root).removeprefix(".")
        found += [
            (os.path.join(directory, name), os.path.join(below, name))
            for name in names
            if name.endswith(".py")
        ]
    return sorted(
        (each for each in found if not each[1].startswith(_HOST_ONLY)), key=lambda each: each[1].split("/")
    )
