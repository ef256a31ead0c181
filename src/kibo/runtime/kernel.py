"""The Linux system calls that boxes are made of, as typed functions.

One function a call; each raises ``OSError`` with the kernel's errno. Nothing here decides anything. The calls are
made through ``ctypes`` because CPython wraps none of the namespace and mount calls in every version that Kibo
supports. Sources: the man pages named at each function, section 2.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from typing import Final, NamedTuple

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long

MACHINE: Final = platform.machine()
_X86: Final = MACHINE == "x86_64"

# Numbers differ by architecture only for calls older than the unified table (424 and up are common to all).
_OWN_NR: Final = (
    {
        "clone": 56, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
        "prctl": 157, "capset": 126, "seccomp": 317, "sethostname": 170, "socket": 41, "ioctl": 16,
        "renameat2": 316, "syncfs": 306, "fchownat": 260, "utimensat": 280, "prlimit64": 302, "ptrace": 101,
        "signalfd4": 289,
    }
    if _X86
    else {
        "clone": 220, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41,
        "prctl": 167, "capset": 91, "seccomp": 277, "sethostname": 161, "socket": 198, "ioctl": 29,
        "renameat2": 276, "syncfs": 267, "fchownat": 54, "utimensat": 88, "prlimit64": 261, "ptrace": 117,
        "signalfd4": 74,
    }
)  # fmt: skip
_NR: Final = _OWN_NR | {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434, "close_range": 436, "openat2": 437, "mount_setattr": 442,
    "landlock_create_ruleset": 444, "landlock_restrict_self": 446,
}  # fmt: skip

# clone(2), unshare(2), setns(2)
CLONE_FILES: Final = 0x00000400
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
_CLONE_CHILD_SETTID: Final = 0x01000000
_CLONE_CHILD_CLEARTID: Final = 0x00200000

# mount(2), umount2(2), the mount API of fsopen(2)
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_SET_FD: Final = 5
FSCONFIG_CMD_CREATE: Final = 6
FSCONFIG_CMD_RECONFIGURE: Final = 7
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_IDMAP: Final = 0x00100000

# socket(2), netdevice(7)
_AF_INET: Final = 2
_SOCK_DGRAM_CLOEXEC: Final = 2 | os.O_CLOEXEC
_SIOCSIFFLAGS: Final = 0x8914

# openat2(2)
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# renameat2(2)
RENAME_NOREPLACE: Final = 0x1
RENAME_EXCHANGE: Final = 0x2

# prctl(2)
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_TID_ADDRESS: Final = 40
SECBIT_LOCKED_NO_ROOT: Final = 0x2F  # noroot, no-setuid-fixup and keep-caps-off, each with its lock

_pythonapi: Final = ctypes.pythonapi
for _name in ("PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent"):
    getattr(_pythonapi, _name).restype = None


def _call(name: str, *args: object) -> int:
    result: int = _syscall(_NR[name], *args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _tid_address() -> int:
    """Finds where the C library keeps the main thread's id, so that a raw clone can correct it in the child.

    ``fork`` of the C library does the same with its private knowledge. Without it, ``raise`` and recursive locks in
    the child would use the parent's id. Returns 0 where the kernel cannot tell (no CHECKPOINT_RESTORE).
    """
    address = ctypes.c_ulong(0)
    if _syscall(_NR["prctl"], PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0:
        return 0
    return address.value


_TID_ADDRESS: Final = _tid_address()


def clone(flags: int) -> int:
    """Forks the calling process into new namespaces in one step, clone(2).

    Works as ``os.fork`` does, Python's own fork hooks included, for a process with one thread. Returns 0 in the
    child and the child's process id (in the caller's PID namespace) in the parent.
    """
    tid = ctypes.c_void_p(_TID_ADDRESS)
    if _TID_ADDRESS:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    _pythonapi.PyOS_BeforeFork()
    # The last two arguments stand in the other order on aarch64: (tls, child_tid).
    tail = (tid, None) if _X86 else (None, tid)
    pid: int = _syscall(_NR["clone"], ctypes.c_ulong(flags | signal.SIGCHLD), None, None, *tail)
    if pid == 0:
        _pythonapi.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    _pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid


def unshare(flags: int) -> None:
    """Moves the caller into new namespaces, unshare(2)."""
    _call("unshare", flags)


def setns(fd: int, flags: int) -> None:
    """Joins the namespaces of a process (a pidfd) or one namespace (its file), setns(2)."""
    _call("setns", fd, flags)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """Mounts by path, mount(2)."""
    _call(
        "mount",
        *(None if v is None else v.encode() for v in (source, target, fstype)),
        ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )


def umount2(target: str, flags: int = MNT_DETACH) -> None:
    """Unmounts by path, umount2(2)."""
    _call("umount2", target.encode(), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """Makes a mount the root of the mount namespace and of every process whose root was the old one, pivot_root(2)."""
    _call("pivot_root", new_root.encode(), put_old.encode())


def fsopen(fstype: str) -> int:
    """Opens a file system configuration context, fsopen(2). Returns its descriptor."""
    return _call("fsopen", fstype.encode(), 1)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Sets a string option, fsconfig(2)."""
    _call("fsconfig", fd, FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)


def fsconfig_flag(fd: int, key: str) -> None:
    """Sets a flag option, fsconfig(2)."""
    _call("fsconfig", fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Sets an option whose value is a descriptor, fsconfig(2)."""
    _call("fsconfig", fd, FSCONFIG_SET_FD, key.encode(), None, value)


def fsconfig_create(fd: int) -> None:
    """Creates the file system that was configured, fsconfig(2)."""
    _call("fsconfig", fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fd: int, attributes: int = 0) -> int:
    """Makes a detached mount of a created file system, fsmount(2). Returns its descriptor, which keeps it alive."""
    return _call("fsmount", fd, 1, attributes)


def fspick(path: str) -> int:
    """Opens the configuration of a mounted file system, fspick(2). Returns its descriptor, closed on exec."""
    return _call("fspick", AT_FDCWD, path.encode(), 1)


def fsconfig_reconfigure(fd: int) -> None:
    """Applies the options that were set on a picked file system, fsconfig(2)."""
    _call("fsconfig", fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def open_tree(fd: int, path: str, flags: int) -> int:
    """Opens, or with OPEN_TREE_CLONE copies, a mount (AT_RECURSIVE: and those below it), open_tree(2)."""
    return _call("open_tree", fd, path.encode(), flags | OPEN_TREE_CLOEXEC)


def move_mount(from_fd: int, to_path: str, to_fd: int = AT_FDCWD) -> None:
    """Attaches a detached mount at a path, move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_T_EMPTY_PATH if not to_path else 0)
    _call("move_mount", from_fd, b"", to_fd, to_path.encode(), flags)


def mount_setattr(
    fd: int, *, set_: int = 0, clear: int = 0, userns_fd: int = 0, recursive: bool = False
) -> None:
    """Changes a mount's attributes; with MOUNT_ATTR_IDMAP maps its ids by a user namespace, mount_setattr(2)."""
    attributes = struct.pack("QQQQ", set_, clear, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", fd, b"", flags, attributes, len(attributes))


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Opens a path with a promise about how it is resolved, openat2(2). Returns a descriptor, closed on exec."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _call("openat2", dir_fd, os.fsencode(path), how, len(how))


def renameat2(from_fd: int, old: bytes, to_fd: int, new: bytes, flags: int) -> None:
    """Renames without replacing what is there, or exchanges two names in one step, renameat2(2)."""
    _call("renameat2", from_fd, old, to_fd, new, flags)


def syncfs(fd: int) -> None:
    """Waits until everything written to a file system is on its disk, syncfs(2)."""
    _call("syncfs", fd)


def fchownat(fd: int, uid: int, gid: int) -> None:
    """Gives what a descriptor refers to, a link opened with O_PATH included, to an owner, fchownat(2)."""
    _call("fchownat", fd, b"", uid, gid, AT_EMPTY_PATH)


def utimensat(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """Sets the times of what a descriptor refers to, opened with O_PATH or not, utimensat(2). Linux 5.8."""
    times = struct.pack("qqqq", *divmod(atime_ns, 10**9), *divmod(mtime_ns, 10**9))
    _call("utimensat", fd, b"", times, AT_EMPTY_PATH)


def pidfd_open(pid: int) -> int:
    """Opens a process, pidfd_open(2)."""
    return _call("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """Signals the process behind a pidfd, which cannot have been replaced by another, pidfd_send_signal(2)."""
    _call("pidfd_send_signal", pidfd, signum, None, 0)


def child_signals() -> int:
    """Opens what becomes readable when something happens to a child or a traced process, signalfd(2).

    The calling thread must have SIGCHLD blocked. Returns a descriptor, closed on exec, that does not block.
    """
    mask = struct.pack("Q", 1 << (signal.SIGCHLD - 1))
    return _call("signalfd4", -1, mask, ctypes.c_size_t(len(mask)), os.O_NONBLOCK | os.O_CLOEXEC)


#: The number of the call that `clone` makes.
CLONE: Final = _NR["clone"]

# ptrace(2)
PTRACE_EVENT_STOP: Final = 128
#: What a stop at a system call shows as its signal, with the option for it.
SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_PTRACE_CONT: Final = 7
_PTRACE_DETACH: Final = 17
_PTRACE_SYSCALL: Final = 24
_PTRACE_GETREGSET: Final = 0x4204
_PTRACE_SETREGSET: Final = 0x4205
_PTRACE_SEIZE: Final = 0x4206
_PTRACE_INTERRUPT: Final = 0x4207
_PTRACE_GET_SYSCALL_INFO: Final = 0x420E
_PTRACE_O_TRACESYSGOOD: Final = 0x1
_PTRACE_O_EXITKILL: Final = 0x100000
_NT_PRSTATUS: Final = 1
#: The general registers of both processors as the kernel gives them: struct user_regs_struct, user_pt_regs.
_REGISTERS: Final = struct.Struct("27Q" if _X86 else "34Q")


class SyscallStop(NamedTuple):
    """Where a traced process stands at a system call.

    Attributes:
        entering: Whether the call is still to be made.
        value: What it returned, or its number where it is still to be made.
    """

    entering: bool
    value: int


def ptrace_seize(pid: int) -> None:
    """Begins to trace a process without stopping it; it is killed when its tracer ends, ptrace(2)."""
    _call("ptrace", _PTRACE_SEIZE, pid, None, ctypes.c_ulong(_PTRACE_O_TRACESYSGOOD | _PTRACE_O_EXITKILL))


def ptrace_interrupt(pid: int) -> None:
    """Asks a traced process to stop, ptrace(2)."""
    _call("ptrace", _PTRACE_INTERRUPT, pid, None, None)


def ptrace_to_next_call(pid: int) -> None:
    """Has a stopped process go on until it enters or leaves a system call, without any signal, ptrace(2)."""
    _call("ptrace", _PTRACE_SYSCALL, pid, None, None)


def ptrace_continue(pid: int) -> None:
    """Has a stopped process go on, without any signal, ptrace(2)."""
    _call("ptrace", _PTRACE_CONT, pid, None, None)


def ptrace_detach(pid: int) -> None:
    """Has a stopped process go on untraced, ptrace(2)."""
    _call("ptrace", _PTRACE_DETACH, pid, None, None)


def ptrace_syscall(pid: int) -> SyscallStop:
    """Tells at which side of a system call a stopped process stands, ptrace(2)."""
    buffer = ctypes.create_string_buffer(88)
    _call("ptrace", _PTRACE_GET_SYSCALL_INFO, pid, ctypes.c_size_t(len(buffer)), buffer)
    entering = buffer.raw[0] == 1
    # What follows is a union: the number where it enters, the signed result where it leaves.
    (value,) = struct.unpack_from("=q", buffer, 24)
    return SyscallStop(entering, value)


def ptrace_registers(pid: int) -> tuple[int, ...]:
    """Reads the general registers of a stopped process, ptrace(2)."""
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    _call("ptrace", _PTRACE_GETREGSET, pid, ctypes.c_ulong(_NT_PRSTATUS), _io_vector(buffer))
    return _REGISTERS.unpack(buffer.raw)


def ptrace_call_again(pid: int, registers: tuple[int, ...]) -> None:
    """Puts a stopped process back to before a system call that it has made, ptrace(2).

    Args:
        pid: The process.
        registers: As `ptrace_registers` told them when it entered the call.
    """
    again = list(registers)
    if _X86:
        result, number, pointer, length = 10, 15, 16, 2
        # Where its number was is what tells the kernel that a call may have to be restarted: this one is none.
        again[result], again[number] = again[number], 0xFFFFFFFFFFFFFFFF
    else:
        pointer, length = 32, 4
    again[pointer] -= length
    buffer = ctypes.create_string_buffer(_REGISTERS.pack(*again), _REGISTERS.size)
    _call("ptrace", _PTRACE_SETREGSET, pid, ctypes.c_ulong(_NT_PRSTATUS), _io_vector(buffer))


def _io_vector(buffer: ctypes.Array[ctypes.c_char]) -> bytes:
    return struct.pack("PN", ctypes.addressof(buffer), len(buffer))


def prctl(option: int, value: int = 0) -> int:
    """Sets one of the process's attributes, or reads one, prctl(2)."""
    return _call("prctl", option, ctypes.c_ulong(value), 0, 0, 0)


def set_name(name: str) -> None:
    """Names the calling thread as ``ps`` shows it, at most 15 bytes."""
    _call("prctl", PR_SET_NAME, name.encode()[:15], 0, 0, 0)


#: RLIM_INFINITY of getrlimit(2).
INFINITE: Final = (1 << 64) - 1
_LIMITS: Final = struct.Struct("QQ")


def limit_of(pid: int, resource: int) -> tuple[int, int]:
    """Returns a process's soft and hard limit, prlimit(2)."""
    old = ctypes.create_string_buffer(_LIMITS.size)
    _call("prlimit64", pid, resource, None, old)
    soft, hard = _LIMITS.unpack(old.raw)
    return soft, hard


def set_limit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Sets a process's soft and hard limit; the hard one only falls, prlimit(2)."""
    _call("prlimit64", pid, resource, _LIMITS.pack(soft, hard), None)


_NO_CAPABILITIES: Final = struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)
_CAPABILITY_HEADER: Final = struct.pack("II", 0x20080522, 0)


def disarm_root() -> None:
    """Makes user ids give and take no capabilities from now on, for good, capabilities(7). Needs CAP_SETPCAP."""
    prctl(PR_SET_SECUREBITS, SECBIT_LOCKED_NO_ROOT)


def drop_capabilities() -> None:
    """Gives up every capability, capset(2). After `disarm_root` none comes back."""
    _call("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES)


def sethostname(name: str) -> None:
    """Names the UTS namespace, sethostname(2)."""
    data = name.encode()
    _call("sethostname", data, len(data))


def udp_socket() -> int:
    """Opens a socket to talk to the network's devices by, socket(2). By this way a fork touches few pages."""
    return _call("socket", _AF_INET, _SOCK_DGRAM_CLOEXEC, 0)


def set_interface_flags(fd: int, request: bytes) -> None:
    """Sets the flags of a network device, ioctl(2) with SIOCSIFFLAGS and a struct ifreq, netdevice(7)."""
    _call("ioctl", fd, _SIOCSIFFLAGS, request)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Closes a range of descriptors, close_range(2)."""
    _call("close_range", first, last, 0)


def landlock_create_ruleset(attributes: bytes, flags: int = 0) -> int:
    """Makes a Landlock rule set, or with flags 1 and no attributes tells the ABI, landlock_create_ruleset(2)."""
    return _call("landlock_create_ruleset", attributes or None, ctypes.c_size_t(len(attributes)), flags)


def landlock_restrict_self(fd: int) -> None:
    """Applies a rule set to the caller and its children, landlock_restrict_self(2). Needs no_new_privs."""
    _call("landlock_restrict_self", fd, 0)
