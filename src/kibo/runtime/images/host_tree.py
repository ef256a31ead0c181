"""The small root that a box on the host's system sees around the host's /usr: /etc, users, mount points.

It is a curated copy, never a view: nothing of /etc that may hold a secret (keys, passwords, package indexes with
credentials, host names) is in the list below, and what is not in the list is not in the box.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from kibo.model.errors import HostUnsupported
from kibo.runtime.idmap import BOX_ID
from kibo.runtime.layers.normalise import MACHINE_ID

#: Names below /etc that programs need in order to behave as on the host. Settings only: no keys, no accounts.
_ETC: Final = (
    "X11", "adduser.conf", "alternatives", "bash.bashrc", "bindresvport.blacklist", "ca-certificates",
    "ca-certificates.conf", "dbus-1", "dconf", "debconf.conf", "debian_version", "default/locale", "deluser.conf",
    "dpkg", "ethertypes", "fonts", "gai.conf", "glvnd", "groff", "gss", "gtk-2.0", "gtk-3.0", "gtk-4.0", "host.conf",
    "inputrc", "issue", "issue.net", "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "libaudit.conf", "localtime", "locale.alias", "locale.conf", "locale.gen",
    "login.defs", "lsb-release", "magic", "magic.mime", "mailcap", "manpath.config", "mime.types", "netconfig",
    "networks", "nsswitch.conf", "os-release", "pam.conf", "pam.d", "perl", "pki/ca-trust", "pki/tls/certs",
    "profile", "protocols", "python3", "rpc", "security", "services", "sgml", "shells", "skel",
    "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone", "ucf.conf", "vulkan", "xattr.conf", "xml",
)  # fmt: skip
_ETC_GLOBS: Final = (
    "python3.*",
    "java-*-openjdk",
    "chromium*",
    "debian_*",
    "redhat-release",
    "fedora-release",
)

_DIRECTORIES: Final[tuple[tuple[str, int, int], ...]] = (
    ("boot", 0o755, 0), ("dev", 0o755, 0), ("etc", 0o755, 0), ("home", 0o755, 0), ("home/box", 0o755, BOX_ID),
    ("media", 0o755, 0), ("mnt", 0o755, 0), ("opt", 0o755, 0), ("opt/kibo", 0o755, 0), ("proc", 0o555, 0),
    ("root", 0o700, 0), ("run", 0o755, 0), ("run/kibo", 0o755, 0), ("run/lock", 0o1777, 0), ("srv", 0o755, 0),
    ("sys", 0o555, 0), ("tmp", 0o1777, 0), ("usr", 0o755, 0), ("var", 0o755, 0), ("var/cache", 0o755, 0),
    ("var/cache/apt", 0o755, 0), ("var/cache/apt/archives", 0o755, 0), ("var/cache/debconf", 0o755, 0),
    ("var/cache/fontconfig", 0o755, 0), ("var/cache/ldconfig", 0o700, 0), ("var/lib", 0o755, 0),
    ("var/lib/apt", 0o755, 0), ("var/lib/apt/lists", 0o755, 0), ("var/lib/dpkg", 0o755, 0),
    ("var/lib/pam", 0o755, 0), ("var/lib/ucf", 0o755, 0), ("var/local", 0o755, 0), ("var/log", 0o755, 0),
    ("var/log/apt", 0o755, 0), ("var/mail", 0o755, 0), ("var/opt", 0o755, 0), ("var/spool", 0o755, 0),
    ("var/tmp", 0o1777, 0), ("work", 0o755, BOX_ID),
)  # fmt: skip

#: What every base must have for a box to run in it, whatever else it brings.
BOX_DIRECTORIES: Final = tuple(
    entry
    for entry in _DIRECTORIES
    if entry[0]
    in {"dev", "etc", "home", "home/box", "opt", "opt/kibo", "proc", "run", "run/kibo", "sys", "tmp", "var",
        "var/tmp", "work"}
)  # fmt: skip


def merged_usr_links() -> dict[str, str]:
    """Reads the links by which the host's /bin, /lib and so on lead into /usr.

    Raises:
        HostUnsupported: They are directories of their own, as on distributions before 2020.
    """
    links = {}
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = f"/{name}"
        if os.path.islink(path):
            links[name] = os.readlink(path).lstrip("/")
        elif os.path.isdir(path):
            raise HostUnsupported(
                f'base="host" needs a merged /usr, but {path} is a directory of its own',
                hint='install the `usrmerge` package, or use base="debian:bookworm"',
                details={"missing": "merged-usr", "path": path},
            )
    return links


def signature() -> str:
    """Names the state of everything that the tree is made from. A stat a file: some milliseconds."""
    hasher = hashlib.blake2b(digest_size=32)
    for path, info in _sources():
        link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
        hasher.update(f"{path}\0{info.st_mode}\0{info.st_size}\0{info.st_mtime_ns}\0{link}\n".encode())
    hasher.update(repr(sorted(merged_usr_links().items())).encode())
    for path in ("/etc/passwd", "/etc/group"):
        hasher.update(Path(path).read_bytes())
    return hasher.hexdigest()


def write_host_tree(target: Path) -> None:
    """Writes the tree into an empty directory, with the ids that a box sees where this process may give them.

    Raises:
        HostUnsupported: The host has no merged /usr.
        OSError: The target cannot be written.
    """
    make_directories(target, _DIRECTORIES)
    for name, link in merged_usr_links().items():
        os.symlink(link, target / name)
    os.symlink("/run", target / "var/run")
    os.symlink("/run/lock", target / "var/lock")
    os.symlink("/proc/self/mounts", target / "etc/mtab")
    for path, info in _sources():
        _copy(path, info, target / path.lstrip("/"))
    (target / "var/lib/dpkg/status").touch()
    write_identity(target, Path("/etc/passwd").read_text(), Path("/etc/group").read_text())


def make_directories(target: Path, directories: tuple[tuple[str, int, int], ...]) -> None:
    """Makes directories given as (path, mode, owner), parents first."""
    for name, mode, owner in directories:
        path = target / name
        path.mkdir(exist_ok=True)
        path.chmod(mode)
        _own(path, owner)


def write_box_places(target: Path) -> None:
    """Adds to a base what every box needs and it lacks: its user, its directories, mount points. Keeps the rest."""
    make_directories(target, tuple(place for place in BOX_DIRECTORIES if not (target / place[0]).exists()))
    texts = [(target / "etc" / name) for name in ("passwd", "group")]
    passwd, group = (path.read_text() if path.is_file() else "" for path in texts)
    write_identity(target, passwd or "root:x:0:0::/root:/bin/sh\n", group or "root:x:0:\n", people=True)


def write_identity(target: Path, passwd: str, group: str, *, people: bool = False) -> None:
    """Writes the files that say who and what the machine is: users, groups, names.

    System accounts stay, so that files of installed packages have their owners; people's accounts, unless ``people``
    keeps them, and every password go; ``box`` is added.
    """
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") == 6]
    groups = [line.split(":") for line in group.splitlines() if line.count(":") == 3]
    users = [user for user in users if (people or _is_system(user[2])) and user[0] != "box"]
    groups = [entry for entry in groups if (people or _is_system(entry[2])) and entry[0] != "box"]
    names = {user[0] for user in users}
    for entry in groups:
        entry[1], entry[3] = "x", ",".join(name for name in entry[3].split(",") if name in names)
    for user in users:
        user[1], user[4] = "x", ""
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    # First, so that it is the name that id 1000 has even where an image brings an account of that id.
    users.insert(0, ["box", "x", str(BOX_ID), str(BOX_ID), "", "/home/box", shell])
    groups.insert(0, ["box", "x", str(BOX_ID), ""])
    etc = target / "etc"
    files = {
        "passwd": ("".join(":".join(user) + "\n" for user in users), 0o644),
        "group": ("".join(":".join(entry) + "\n" for entry in groups), 0o644),
        "shadow": ("".join(f"{user[0]}:*:19000:0:99999:7:::\n" for user in users), 0o600),
        "gshadow": ("".join(f"{entry[0]}:*::\n" for entry in groups), 0o600),
        "hostname": ("box\n", 0o644),
        "hosts": ("127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost\n", 0o644),
        "resolv.conf": ("# A box has no network of its own; names are resolved at its gateway.\n", 0o644),
        "machine-id": (MACHINE_ID + "\n", 0o444),
    }
    for name, (text, mode) in files.items():
        path = etc / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)


def _is_system(number: str) -> bool:
    return number.isdigit() and (int(number) < BOX_ID or int(number) == 65534)


def _own(path: Path, owner: int) -> None:
    if owner and may_give_away():
        os.chown(path, owner, owner)


@lru_cache(maxsize=1)
def may_give_away() -> bool:
    """Whether this process has more ids than its own to give files to, user_namespaces(7)."""
    counts = [int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return os.geteuid() == 0 and sum(counts) > BOX_ID


def _sources() -> Iterator[tuple[str, os.stat_result]]:
    """Yields every path to copy with its status, directories before what is in them."""
    names = {name for name in _ETC if os.path.lexists(f"/etc/{name}")}
    for pattern in _ETC_GLOBS:
        names |= {path.name for path in Path("/etc").glob(pattern)}
    for name in sorted(names):
        yield from _below(f"/etc/{name}")


def _below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Walks what every user of the host may read. What only some may may be a secret, and root must not spread it."""
    info = os.lstat(path)
    if stat.S_ISDIR(info.st_mode) and info.st_mode & 0o005 == 0o005:
        yield path, info
        for name in sorted(os.listdir(path)):
            yield from _below(f"{path}/{name}")
    elif stat.S_ISLNK(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_mode & 0o004):
        yield path, info


def _copy(path: str, info: os.stat_result, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISDIR(info.st_mode):
        target.mkdir(exist_ok=True)
        target.chmod(stat.S_IMODE(info.st_mode) & 0o755)
        return
    shutil.copy2(path, target, follow_symlinks=False)
    if stat.S_ISREG(info.st_mode):
        target.chmod(stat.S_IMODE(info.st_mode) & 0o755)
