"""Which system calls a box may make: data only, each entry with its reason.

A call is allowed because some program that boxes are for needs it and it acts only on what the box already
has; it is refused because it reaches past the box or widens the kernel's attack surface for nothing.
``EPERM`` is what a program expects where it lacks a right; ``ENOSYS`` sends it to an older way of doing the
same. Every call of ``syscalls.py`` must stand here once: a test holds that, so that a new kernel's calls are
decided and not guessed. Ptrace, ``process_vm_*`` and ``pidfd_getfd`` are allowed: they reach only processes
of the box's own PID namespace, all of which belong to the box. What still guards an allowed call is the
namespace, the lack of capabilities and the cgroup.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Allow:
    """Calls that are let through, whatever their arguments."""

    reason: str
    names: str


@dataclass(frozen=True, slots=True)
class Deny:
    """Calls that fail with ``number``, whatever their arguments."""

    number: int
    reason: str
    names: str


@dataclass(frozen=True, slots=True)
class Check:
    """One call that is let through or fails by the low 32 bits of one argument.

    Checked arguments are 32-bit in the kernel, which ignores the upper half as this check does, but for wide ones.

    Attributes:
        name: The call.
        argument: Which argument, from 0.
        values: What the masked argument is compared with.
        allow: Whether a match is let through (else it is refused).
        number: The errno of a refusal.
        mask: Bits of the argument that count.
        wide: Whether the argument is a pointer, whose upper half must be zero for a match.
        narrowed: For a matching value, a further check in place of letting it through.
    """

    name: str
    argument: int
    values: tuple[int, ...]
    allow: bool
    number: int
    reason: str
    mask: int = 0xFFFFFFFF
    wide: bool = False
    narrowed: tuple[tuple[int, Check], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything a filter is compiled from.

    Attributes:
        nested: What holds instead in a box that asked for namespaces of its own.
    """

    entries: tuple[Allow | Deny | Check, ...]
    nested: tuple[Allow | Check, ...]


#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of clone(2). CLONE_NEWTIME shares its bit
#: with the exit signal there and is reachable only through clone3 and unshare.
NEW_NAMESPACES: Final = 0x7E020000

#: SECCOMP_FILTER_FLAG_NEW_LISTENER of seccomp(2).
NEW_LISTENER: Final = 1 << 3

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE, _NETLINK_SOCK_DIAG, _NETLINK_KOBJECT_UEVENT, _NETLINK_GENERIC = 0, 4, 15, 16
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PER_LINUX, _PER_LINUX32, _UNAME26, _ADDR_NO_RANDOMIZE, _QUERY = 0, 8, 0x20000, 0x40000, 0xFFFFFFFF

_RLIMIT_NPROC = 6
_EPERM, _ENOSYS = errno.EPERM, errno.ENOSYS

BOX: Final = Policy(
    entries=(
        Allow(
            "use of descriptors the process already holds",
            "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close "
            "close_range dup dup2 dup3 fcntl fsync fdatasync",
        ),
        Allow(
            "paths: the mount namespace holds nothing but the box's files",
            "open openat openat2 creat access faccessat faccessat2 stat lstat fstat newfstatat statx "
            "statfs fstatfs readlink readlinkat getcwd chdir fchdir getdents getdents64",
        ),
        Allow(
            "making, moving and removing the box's own files",
            "mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat unlink "
            "unlinkat truncate ftruncate fallocate umask utime utimes utimensat futimesat",
        ),
        Allow(
            "modes and owners: bounded by the id map; no_new_privs makes setuid bits inert",
            "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat",
        ),
        Allow(
            "extended attributes and file flags of the box's own files",
            "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr "
            "flistxattr removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat "
            "removexattrat file_getattr file_setattr",
        ),
        Allow(
            "bulk copies and hints; pipes of the box",
            "sendfile splice tee vmsplice copy_file_range readahead fadvise64 sync_file_range pipe "
            "pipe2 flock",
        ),
        Allow(
            "flushing: programs that value their data (databases, package managers) call it", "sync syncfs"
        ),
        Allow(
            "a file's handle names it and gives no access; opening by handle is refused", "name_to_handle_at"
        ),
        Allow("read-only lists of the box's own mounts", "statmount listmount"),
        Allow(
            "waiting for events, on descriptors and files the process can open",
            "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait "
            "epoll_pwait2 epoll_ctl_old epoll_wait_old eventfd eventfd2 signalfd signalfd4 "
            "timerfd_create timerfd_settime timerfd_gettime inotify_init inotify_init1 "
            "inotify_add_watch inotify_rm_watch",
        ),
        Allow(
            "the process's own memory; counted by the memory cgroup",
            "mmap mprotect munmap mremap brk madvise mincore msync mlock mlock2 mlockall munlock "
            "munlockall remap_file_pages memfd_create memfd_secret pkey_mprotect pkey_alloc pkey_free "
            "mseal map_shadow_stack cachestat",
        ),
        Allow(
            "placing one's own memory on NUMA nodes, as allocators of databases and numerics do",
            "mbind set_mempolicy get_mempolicy set_mempolicy_home_node",
        ),
        Allow(
            "processes and threads; the PID namespace and the pids cgroup bound them",
            "fork vfork execve execveat exit exit_group wait4 waitid set_tid_address rseq "
            "set_robust_list get_robust_list restart_syscall set_thread_area get_thread_area "
            "arch_prctl prctl membarrier",
        ),
        Allow(
            "locks between threads and processes of the box",
            "futex futex_waitv futex_wake futex_wait futex_requeue",
        ),
        Allow(
            "signals: they reach only the box's own PID namespace",
            "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo "
            "rt_tgsigqueueinfo rt_sigsuspend sigaltstack pause kill tkill tgkill pidfd_open "
            "pidfd_send_signal",
        ),
        Allow(
            "debuggers, profilers and crash handlers, within the box's own PID namespace",
            "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp",
        ),
        Allow(
            "who and where the process is",
            "getpid getppid gettid getuid geteuid getgid getegid getgroups getpgid getpgrp getsid "
            "getresuid getresgid getcpu uname sysinfo times getrusage capget",
        ),
        Allow(
            "changing ids and shrinking rights: bounded by the id map and by having no capabilities",
            "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups setpgid "
            "setsid capset",
        ),
        Allow(
            "scheduling of the box's own processes; raising needs a capability it lacks",
            "getpriority setpriority sched_yield sched_getparam sched_setparam sched_getscheduler "
            "sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval "
            "sched_getaffinity sched_setaffinity sched_getattr sched_setattr ioprio_get ioprio_set",
        ),
        Allow("resource limits, read", "getrlimit"),
        Check(
            "setrlimit",
            0,
            (_RLIMIT_NPROC,),
            False,
            _EPERM,
            "resource limits, whose hard ones only shrink; but that of processes has room for the boxes forked from "
            "this one, and is the warden's to set",
        ),
        Check(
            "prlimit64",
            1,
            (_RLIMIT_NPROC,),
            False,
            _EPERM,
            "as setrlimit",
            narrowed=(
                (
                    _RLIMIT_NPROC,
                    Check("prlimit64", 2, (0,), True, _EPERM, "reading it: there is no new value", wide=True),
                ),
            ),
        ),
        Allow(
            "reading clocks and setting timers; adjusting needs a capability it lacks",
            "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer "
            "setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete "
            "adjtimex clock_adjtime",
        ),
        Allow(
            "sockets: the network namespace has loopback only, and its own abstract names",
            "socketpair bind listen accept accept4 connect getsockname getpeername sendto recvfrom "
            "sendmsg recvmsg sendmmsg recvmmsg setsockopt getsockopt shutdown",
        ),
        Allow(
            "System V and POSIX queues, semaphores and memory: the IPC namespace is the box's own",
            "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl "
            "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
        ),
        Allow(
            "asynchronous reads and writes of databases; unlike io_uring they pass no other call by",
            "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
        ),
        Allow("random bytes", "getrandom"),
        Allow(
            "programs that confine themselves further: a filter or rule set can only take away",
            "landlock_create_ruleset landlock_add_rule landlock_restrict_self "
            "lsm_get_self_attr lsm_list_modules",
        ),
        Allow(
            "what the kernel itself places in a process that an administrator's probe watches",
            "uretprobe uprobe",
        ),
        Check(
            "clone",
            0,
            (0,),
            True,
            _EPERM,
            "processes and threads, but no new namespaces: they give capabilities over a copy of the "
            "kernel's tables",
            mask=NEW_NAMESPACES,
        ),
        Check(
            "ioctl",
            1,
            (_TIOCSTI, _TIOCLINUX),
            False,
            _EPERM,
            "device requests, save those that type into another's terminal",
        ),
        Check(
            "socket",
            0,
            (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK),
            True,
            errno.EAFNOSUPPORT,
            "families a network namespace confines: others, such as AF_VSOCK, reach the machine's "
            "hypervisor, or are little-read kernel code",
            narrowed=(
                (
                    _AF_NETLINK,
                    Check(
                        "socket",
                        2,
                        (_NETLINK_ROUTE, _NETLINK_SOCK_DIAG, _NETLINK_KOBJECT_UEVENT, _NETLINK_GENERIC),
                        True,
                        errno.EPROTONOSUPPORT,
                        "name lookup and browsers read routes and device events; firewalls are not for boxes",
                    ),
                ),
            ),
        ),
        Check(
            "seccomp",
            1,
            (0,),
            True,
            _EPERM,
            "browsers filter themselves; a listener of the box's own (FILTER_FLAG_NEW_LISTENER) would answer in "
            "place of the warden, because of two filters that both ask, the newer one is heard",
            mask=NEW_LISTENER,
        ),
        Check(
            "personality",
            0,
            (_PER_LINUX, _PER_LINUX32, _UNAME26, _UNAME26 | _PER_LINUX32, _ADDR_NO_RANDOMIZE, _QUERY),
            True,
            _EPERM,
            "debuggers switch off address randomisation; the other bits weaken memory protection",
        ),
        Check(
            "mknod",
            1,
            (stat.S_IFCHR, stat.S_IFBLK),
            False,
            _EPERM,
            "fifos and plain files, but no device nodes, nor the whiteouts that overlays are made of",
            mask=0o170000,
        ),
        Check("mknodat", 2, (stat.S_IFCHR, stat.S_IFBLK), False, _EPERM, "as mknod", mask=0o170000),
        Deny(
            _ENOSYS,
            "its flags lie in memory, where no filter can read them; C libraries then use clone",
            "clone3",
        ),
        Deny(_EPERM, "namespaces of other processes or new ones, with capabilities inside", "unshare setns"),
        Deny(
            _EPERM, "a second root is of use only with capabilities, and is a step of known escapes", "chroot"
        ),
        Deny(
            _EPERM,
            "mounts: the box's tree is fixed when it starts",
            "mount umount2 pivot_root open_tree move_mount fsopen fsconfig fsmount fspick "
            "mount_setattr open_tree_attr",
        ),
        Deny(_EPERM, "namespaces of the whole machine, listed", "listns"),
        Deny(_EPERM, "reaches a file past every directory's rights", "open_by_handle_at"),
        Deny(
            _EPERM,
            "keyrings are shared by user id and session, not by namespace",
            "add_key request_key keyctl",
        ),
        Deny(_EPERM, "runs programs in the kernel", "bpf"),
        Deny(
            _EPERM,
            "does file and socket calls that no filter sees",
            "io_uring_setup io_uring_enter io_uring_register",
        ),
        Deny(_EPERM, "stops the kernel within a copy, the lever of many kernel exploits", "userfaultfd"),
        Deny(_EPERM, "measures other processes and the kernel", "perf_event_open lookup_dcookie"),
        Deny(_EPERM, "watches whole file systems, which boxes share below", "fanotify_init fanotify_mark"),
        Deny(_EPERM, "moves other processes' pages and tells where they lie", "migrate_pages move_pages"),
        Deny(
            _EPERM,
            "replaces or extends the kernel",
            "kexec_load kexec_file_load init_module finit_module delete_module",
        ),
        Deny(
            _EPERM,
            "the machine's own state: power, names, clock, swap, accounts, quotas, terminal",
            "reboot sethostname setdomainname settimeofday clock_settime swapon swapoff acct quotactl "
            "quotactl_fd vhangup",
        ),
        Deny(_EPERM, "the kernel's log holds addresses and other tenants' names", "syslog"),
        Deny(_EPERM, "input and output ports of the machine", "iopl ioperm"),
        Deny(_EPERM, "segments for 16-bit programs, behind several kernel faults", "modify_ldt"),
        Deny(_EPERM, "changes how a security module confines the process", "lsm_set_self_attr"),
        Deny(
            _EPERM, "tells of mounted devices and file systems by number; superseded by statfs", "ustat sysfs"
        ),
        Deny(
            _ENOSYS,
            "not implemented by any kernel Kibo runs on",
            "uselib _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg "
            "afs_syscall tuxcall security vserver",
        ),
    ),
    nested=(
        Allow(
            "a program's own sandbox (Chromium's) makes a user namespace and an empty root; mounts stay refused",
            "unshare chroot",
        ),
        Check(
            "clone",
            0,
            (NEW_NAMESPACES,),
            False,
            _EPERM,
            "namespaces, but not all at once: that is how a box is forked, which the warden waits for",
            mask=NEW_NAMESPACES,
        ),
    ),
)
