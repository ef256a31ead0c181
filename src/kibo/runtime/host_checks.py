"""What each thing that boxes use of a host is for, and how to get it where it is missing."""

from __future__ import annotations

import os
import platform
import pwd
import resource
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kibo.runtime.cgroups import open_cgroups
from kibo.runtime.idmap import choose_map, granted_range

Level = Literal["required", "recommended", "optional"]


#: What Ubuntu needs from 24.04 on.
_APPARMOR: Final = (
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that boxes use of a host.

    Attributes:
        name: A few words, unique.
        ok: Whether it is there.
        level: Without ``required`` there are no boxes; without ``recommended`` something named is refused or
            slower; ``optional`` serves one feature or a benchmark.
        needed_for: What it is used for.
        found: What was seen.
        remedy: How to get it; empty where it is there.
    """

    name: str
    ok: bool
    level: Level
    needed_for: str
    found: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Describes the check for ``--json``."""
        return asdict(self)


def _tried(
    tried: dict[str, Any], key: str, name: str, needed_for: str, remedy: str, level: Level = "required"
) -> Check:
    """Makes a check of a trial; one that could not be made, because an earlier one failed, has failed."""
    failures: dict[str, str] = tried["failures"]
    untried = (
        failures.get("trials")
        or failures.get("user_namespace")
        or failures.get("box")
        or failures.get("id_map")
    )
    failure = failures.get(key, f"not tried: {untried or 'no folder to try in'}")
    if level == "required" and _is_confined(failure):
        remedy = _APPARMOR
    return Check(name, not failure, level, needed_for, failure or "works", remedy if failure else "")


def _is_confined(failure: str) -> bool:
    """Whether AppArmor is to blame: a process without a profile has no right in a user namespace that it made."""
    restricts = os.geteuid() != 0 and _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    return bool(restricts) and ("[Errno 1]" in failure or "[Errno 13]" in failure)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        # The setting does not exist in this kernel, or may not be read: unknown, which callers treat apart.
        return None


def namespaces(tried: dict[str, Any]) -> list[Check]:
    """Namespaces, and how many."""
    remedy = "sysctl -w user.max_user_namespaces=65536"
    if _number("/proc/sys/kernel/unprivileged_userns_clone") == 0:
        remedy = "sysctl -w kernel.unprivileged_userns_clone=1"
    elif _number("/proc/sys/user/max_user_namespaces") != 0:
        remedy = "where this is a container, start it with its seccomp profile allowing clone(CLONE_NEWUSER)"
    most = _number("/proc/sys/user/max_user_namespaces")
    checks = [
        _tried(tried, "user_namespace", "user namespaces", "isolation without root", remedy),
        Check(
            "number of user namespaces",
            most is None or most >= 4096,
            "recommended",
            "one a box: 1,000 idle boxes and their forks",
            "unlimited" if most is None else str(most),
            "" if most is None or most >= 4096 else "sysctl -w user.max_user_namespaces=65536",
        ),
    ]
    for name in ("mount", "pid", "ipc", "uts", "network"):
        remedy = f"a kernel with {name} namespaces; sysctl -w user.max_{name[:3]}_namespaces=65536"
        checks.append(_tried(tried, f"{name}_namespace", f"{name} namespaces", "isolation", remedy))
    return checks


def mounts(tried: dict[str, Any]) -> list[Check]:
    """Mounts and overlays."""
    release = platform.release()
    return [
        _tried(
            tried,
            "mount_api",
            "new mount API",
            "mounts without paths (Linux 5.2)",
            f"a newer kernel than {release}",
        ),
        _tried(
            tried,
            "overlay",
            "overlay in user namespaces",
            "layers under every box (Linux 6.6: extended attributes of users in memory)",
            f"Linux 6.6 or newer, this is {release}; Debian 12 has one in bookworm-backports; or: modprobe overlay",
        ),
        _tried(
            tried,
            "state_overlay",
            "state directory as an overlay",
            "sealing what a box wrote into a layer",
            "set KIBO_HOME to a folder on ext4, xfs, btrfs or tmpfs; NFS and overlays do not do",
        ),
        _tried(
            tried,
            "proc",
            "/proc in a PID namespace",
            "programs that read /proc",
            "in a container, unmask /proc (docker: --security-opt systempaths=unconfined)",
        ),
        _tried(
            tried,
            "newest_mounts",
            "newest mount calls",
            "spawns that take a millisecond less (Linux 6.17)",
            "nothing must be done; Linux 6.17 or newer has them all",
            "recommended",
        ),
        _tried(
            tried,
            "idmapped_mounts",
            "id-mapped mounts",
            "base 'host' with apt, for root (Linux 5.12, overlay 5.19)",
            "run Kibo as root on Linux 5.19 or newer, or use base='debian:bookworm' for apt steps",
            "recommended",
        ),
    ]


def kernel_calls(tried: dict[str, Any]) -> list[Check]:
    """Calls of the kernel that are neither."""
    abi = int(tried["landlock"])
    return [
        _tried(
            tried,
            "seccomp",
            "seccomp user notification",
            "system call filter; forks of live boxes (Linux 5.9)",
            "a kernel with CONFIG_SECCOMP_FILTER, 5.9 or newer",
        ),
        _tried(
            tried,
            "ptrace",
            "tracing one's own processes",
            "what boxes are forked from is held, and runs nothing of theirs",
            "sysctl -w kernel.yama.ptrace_scope=1; in a container, a seccomp profile that allows ptrace",
        ),
        _tried(
            tried,
            "pidfd",
            "pidfd",
            "signals that cannot hit a wrong process (Linux 5.3)",
            "Linux 5.3 or newer",
        ),
        Check(
            "Landlock",
            abi > 0,
            "recommended",
            "a second fence around files",
            f"ABI {abi}" if abi else str(tried["failures"].get("landlock", "not tried")),
            "" if abi else "boot with lsm=landlock,... on a kernel with CONFIG_SECURITY_LANDLOCK",
        ),
        _tried(
            tried,
            "thread_id",
            "PR_GET_TID_ADDRESS",
            "exact thread ids after a live fork",
            "a kernel with CONFIG_CHECKPOINT_RESTORE",
            "recommended",
        ),
    ]


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def ids(tried: dict[str, Any]) -> list[Check]:
    """How many users a box can have."""
    chosen = choose_map()
    granted = chosen.has_range or granted_range() is not None
    found = {
        "root": "65,536 ids, because Kibo runs as root",
        "subuid": "65,536 ids granted by /etc/subuid, as KIBO_IDS asks",
        "single": f"one id: {os.geteuid()}"
        + ("; KIBO_IDS=range uses those of /etc/subuid" if granted else ""),
    }[chosen.kind]
    helpers = [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    remedy = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {_user()}"
    if helpers:
        remedy = f"apt install uidmap, then {remedy}"
    return [
        Check(
            "range of ids",
            granted,
            "recommended",
            "packages whose files have several owners; programs as another user than the files' owner",
            found,
            "" if granted else remedy,
        ),
        _tried(tried, "id_map", "id map", "naming the box's users", remedy),
    ]


def limits() -> list[Check]:
    """Control groups."""
    cgroups = open_cgroups("probe")
    there = cgroups.available()
    found = f"cgroup v{cgroups.version}" if cgroups.version else "no control group that this user may use"
    uses = {
        "memory": "memory limits",
        "swap": "counting swap with memory",
        "cpus": "processor limits",
        "pids": "process limits",
    }
    return [
        Check(
            f"cgroup {name}",
            there[name],
            "recommended",
            use,
            found,
            "" if there[name] else cgroups.remedy or "boot with swapaccount=1",
        )
        for name, use in uses.items()
    ]


def machine(home: Path) -> list[Check]:
    """Processor, space, open files, and programs."""
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    watches = _number("/proc/sys/fs/inotify/max_user_instances")
    memory = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    gib = 1024**3
    checks = [
        Check(
            "processor",
            platform.machine() in ("x86_64", "aarch64"),
            "required",
            "the system call filter",
            platform.machine(),
            "" if platform.machine() in ("x86_64", "aarch64") else "an x86_64 or aarch64 machine",
        ),
        Check(
            "free disk",
            free >= 2 * gib,
            "recommended",
            "layers and images",
            f"{free / gib:.1f} GiB at {place}",
            "" if free >= 2 * gib else "free space there, run kibo gc, or set KIBO_HOME to a larger disk",
        ),
        Check(
            "/dev/shm",
            memory >= gib // 4,
            "recommended",
            "files that boxes have not sealed live in memory",
            f"{memory / gib:.1f} GiB",
            "" if memory >= gib // 4 else "mount -o remount,size=2G /dev/shm",
        ),
        Check(
            "open files",
            files >= 8192,
            "recommended",
            "some eight descriptors a box",
            "unlimited" if files == resource.RLIM_INFINITY else str(files),
            "" if files >= 8192 else "raise the hard limit: ulimit -Hn 65536, or LimitNOFILE= of the service",
        ),
        Check(
            "inotify instances",
            watches is None or watches >= 64,
            "recommended",
            "box.files.watch",
            "unlimited" if watches is None else str(watches),
            "" if watches is None or watches >= 64 else "sysctl -w fs.inotify.max_user_instances=1024",
        ),
    ]
    for program, package, use in (
        ("mmdebstrap", "mmdebstrap", "base 'debian:...'"),
        ("bwrap", "bubblewrap", "the comparison in make bench"),
        ("busybox", "busybox-static", "tests of a base without a C library"),
        ("skopeo", "skopeo", "tests of base 'oci:...'"),
        ("git", "git", "fetching examples and workspaces"),
    ):
        path = shutil.which(program)
        checks.append(
            Check(
                program,
                path is not None,
                "optional",
                use,
                path or "not installed",
                "" if path else f"apt install {package}",
            )
        )
    return checks
