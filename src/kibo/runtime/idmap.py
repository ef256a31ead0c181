"""Which host ids a box's ids are, and how they are written into a user namespace.

Three ways: as the host's root, a private range of 65,536 ids; as an ordinary user one id, the user's own; or, where
``KIBO_IDS=range`` asks for it, a range granted in ``/etc/subuid``, by way of ``newuidmap``. What a way cannot do is
named by ``kibo doctor``; decision 0017 says why a granted range is not used unasked. Source: user_namespaces(7),
newuidmap(1).
"""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from kibo.model.errors import HostUnsupported, InvalidInput

#: First host id of the range that root's boxes use; inside the range that container tools keep free (systemd's
#: "container UIDs", 524288 to 1879048191), and fixed, because the files of stored layers carry these ids.
ROOT_BASE = 589_824_000
#: Ids in a full range: every 16-bit id that a distribution's packages may use.
RANGE = 65_536
#: A whole range by its own numbers, for namespaces below the first. In two extents, because each must lie within one of
#: the parent's, and a range that is granted begins with the user's own id, which stands alone.
ALL_IDS = ((0, 0, 1), (1, 1, RANGE - 1))
#: The id that programs in a box run as, unless the box asks for root.
BOX_ID = 1000


@dataclass(frozen=True, slots=True)
class IdMap:
    """How ids inside Kibo's user namespace stand for ids of the host.

    Attributes:
        kind: ``"root"`` (private range), ``"subuid"`` (granted range) or ``"single"`` (one id).
        uid_lines: Extents ``(inside, outside, count)`` for user ids.
        gid_lines: The same for group ids.
    """

    kind: Literal["root", "subuid", "single"]
    uid_lines: tuple[tuple[int, int, int], ...]
    gid_lines: tuple[tuple[int, int, int], ...]

    @property
    def has_range(self) -> bool:
        """Whether ids besides one exist inside, so that packages may own files as they like."""
        return self.kind != "single"


def format_lines(lines: tuple[tuple[int, int, int], ...]) -> str:
    """Writes extents the way ``/proc/<pid>/uid_map`` takes them."""
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)


def _granted(path: str, user: str, uid: int) -> int | None:
    """Finds the first granted range of at least 65,535 ids in a subuid(5) file."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return None
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)) and int(fields[2]) >= RANGE - 1:
            return int(fields[1])
    return None


def _owns(first: int) -> bool:
    """Tells whether a range exists in the process's own user namespace: a container's may be small."""
    for path in ("/proc/self/uid_map", "/proc/self/gid_map"):
        extents = [[int(field) for field in line.split()] for line in Path(path).read_text().splitlines()]
        if not any(inside <= first and first + RANGE <= inside + count for inside, _, count in extents):
            return False
    return True


@lru_cache(maxsize=1)
def choose_map() -> IdMap:
    """Chooses the map of this process's boxes, once.

    Raises:
        HostUnsupported: ``KIBO_IDS=range`` asks for a range, and none is granted.
        InvalidInput: ``KIBO_IDS`` says something else than ``range`` or ``single``.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _owns(ROOT_BASE):
        lines = ((0, ROOT_BASE, RANGE),)
        return IdMap("root", lines, lines)
    asked = os.environ.get("KIBO_IDS") or "single"
    if asked not in ("range", "single"):
        raise InvalidInput(
            f"KIBO_IDS={asked!r} says nothing", hint="Set it to range or single, or leave it out."
        )
    if asked == "single":
        return IdMap("single", ((0, uid, 1),), ((0, gid, 1),))
    granted = granted_range()
    if granted is None:
        raise HostUnsupported(
            "KIBO_IDS=range asks for a range of ids, and this user has none",
            hint="`kibo doctor` says how to have one granted; without KIBO_IDS boxes have your own id.",
            details={"missing": "range of ids"},
        )
    return granted


def granted_range() -> IdMap | None:
    """Returns the range that ``/etc/subuid`` and ``/etc/subgid`` grant an ordinary user, if it can be used."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        return None  # newuidmap(1) maps nothing for a user without a name
    import shutil  # late: it brings three compression libraries along, which every fork would pay for

    first_uid = _granted("/etc/subuid", user, uid)
    first_gid = _granted("/etc/subgid", user, uid)
    if first_uid and first_gid and shutil.which("newuidmap") and shutil.which("newgidmap"):
        return IdMap(
            "subuid",
            ((0, uid, 1), (1, first_uid, RANGE - 1)),
            ((0, gid, 1), (1, first_gid, RANGE - 1)),
        )
    return None


def write_maps(pid: int, idmap: IdMap) -> None:
    """Gives the new user namespace of process ``pid`` its map. The caller is in the parent namespace.

    Raises:
        OSError: The kernel, ``newuidmap`` or ``newgidmap`` refused the map.
    """
    if idmap.kind == "subuid":
        for program, lines in (("newuidmap", idmap.uid_lines), ("newgidmap", idmap.gid_lines)):
            arguments = [str(number) for line in lines for number in line]
            done = subprocess.run(
                [program, str(pid), *arguments], check=False, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise PermissionError(errno.EPERM, done.stderr.strip() or f"{program} refused")
        return
    if idmap.kind == "single":
        # An unprivileged writer may map its group only once setgroups(2) is given up in the namespace.
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(format_lines(idmap.uid_lines))
    Path(f"/proc/{pid}/gid_map").write_text(format_lines(idmap.gid_lines))
