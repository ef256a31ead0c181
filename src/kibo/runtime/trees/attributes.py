"""Extended attributes as programs see them through an overlay, and as the overlay's layers hold them.

An overlay that is mounted with ``userxattr`` keeps its own notes under ``user.overlay.``; a program's attribute of
such a name is stored one level deeper, as ``user.overlay.overlay.``. Source: overlayfs in the kernel's documentation,
"Nesting overlayfs mounts".
"""

from __future__ import annotations

import errno
import os
from typing import Final

from kibo.model.errors import HostUnsupported

OPAQUE: Final = "user.overlay.opaque"
#: Says that a directory was copied up, and so may hold whiteouts although nothing is below it. Without it the kernel
#: lists them as names that nothing is at.
ORIGIN: Final = "user.overlay.origin"
WHITEOUT: Final = "user.overlay.whiteout"
_OWN: Final = "user.overlay."
_ESCAPED: Final = "user.overlay.overlay."
_ABSENT: Final = (errno.ENODATA, errno.ENOTSUP)
_NOT_KEPT: Final = (errno.ENOTSUP, errno.E2BIG, errno.ERANGE, errno.ENOSPC)
#: With less room than this, "no space" for an attribute is taken to mean the disk's.
_DISK_IS_FULL_BYTES: Final = 1 << 20

#: What the calls take: a path, or a descriptor.
Place = bytes | int


def read_one(place: Place, name: str) -> bytes | None:
    """Returns one attribute as it is stored, or None where there is none."""
    try:
        if isinstance(place, int):
            return os.getxattr(place, name)
        return os.getxattr(place, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def seen(place: Place, *, layer: bool = True) -> dict[str, bytes]:
    """Returns the ``user.`` attributes that a program sees, sorted by name.

    Args:
        place: A path whose last part is not followed, or a descriptor.
        layer: Whether the place is in a layer of an overlay; else in a plain directory.
    """
    try:
        names = os.listxattr(place) if isinstance(place, int) else os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise
    found = {}
    for name in sorted(names):
        shown = _shown(name) if layer else name
        if shown.startswith("user.") and (value := read_one(place, name)) is not None:
            found[shown] = value
    return found


def _shown(name: str) -> str:
    if name.startswith(_ESCAPED):
        return _OWN + name.removeprefix(_ESCAPED)
    return "" if name.startswith(_OWN) else name


def stored(name: str) -> str:
    """Returns the name under which a layer holds a program's attribute."""
    return _ESCAPED + name.removeprefix(_OWN) if name.startswith(_OWN) else name


def write(place: Place, attributes: dict[str, bytes], *, layer: bool = True) -> None:
    """Sets attributes, named as programs see them. Others that are there stay."""
    for name, value in attributes.items():
        own = stored(name) if layer else name
        with _keeping(place, name, value):
            if isinstance(place, int):
                os.setxattr(place, own, value)
            else:
                os.setxattr(place, own, value, follow_symlinks=False)


def write_through(place: bytes, attributes: dict[str, bytes]) -> None:
    """Sets attributes of what a descriptor's path leads to, and removes the others that programs see there."""
    for name in os.listxattr(place):
        if name.startswith("user.") and name not in attributes:
            os.removexattr(place, name)
    for name, value in attributes.items():
        with _keeping(place, name, value):
            os.setxattr(place, name, value)


class _keeping:
    """Says which attribute a file system cannot keep: none at all, or not as many or as long ones as another can."""

    def __init__(self, place: Place, name: str, value: bytes) -> None:
        self._place, self._name, self._value = place, name, value

    def __enter__(self) -> None:
        """Nothing to do before the block."""

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Translates what the kernel said; lets everything else through."""
        if not isinstance(error, OSError) or error.errno not in _NOT_KEPT:
            return
        if error.errno == errno.ENOSPC:
            # The room for attributes is used up, or that on the disk.
            room = os.statvfs(self._place)
            if room.f_bavail * room.f_frsize < _DISK_IS_FULL_BYTES:
                return
        raise HostUnsupported(
            f"a file system cannot keep the extended attribute {self._name!r} of {len(self._value)} bytes: "
            f"{os.strerror(error.errno)}",
            hint="remove it (`setfattr -x`), or use a file system that keeps it, such as XFS or Btrfs",
            details={"missing": "attributes", "attribute": self._name, "bytes": len(self._value)},
        ) from error


def seen_through(place: bytes) -> dict[str, bytes]:
    """Returns the ``user.`` attributes of what a descriptor's path leads to, outside of layers."""
    return {
        name: os.getxattr(place, name) for name in sorted(os.listxattr(place)) if name.startswith("user.")
    }
