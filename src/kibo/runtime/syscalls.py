"""The numbers of Linux system calls, as the kernel's own tables give them.

Each line is the number of its first name; the names after it follow in order. The tables reach to Linux 6.19
(``listns``, 470). Calls that were never implemented on 64-bit machines are here too, so that a policy must
say what it thinks of them. Sources: ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``scripts/syscall.tbl``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_X86_64: Final = """
0: read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction
14: rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield
25: mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm
38: setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind
50: listen getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve exit wait4
62: kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync
76: truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink
89: readlink chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times
101: ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid
114: setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid
124: getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime
133: mknod uselib personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam
143: sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
148: sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl
157: prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 swapon swapoff
169: reboot sethostname setdomainname iopl ioperm create_module init_module delete_module
177: get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security
186: gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr
196: flistxattr removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity
204: sched_getaffinity set_thread_area io_setup io_destroy io_getevents io_submit io_cancel
211: get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old remap_file_pages
217: getdents64 set_tid_address restart_syscall semtimedop fadvise64 timer_create timer_settime
224: timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime clock_getres
230: clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes vserver mbind set_mempolicy
239: get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load
247: waitid add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch
255: inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat
264: renameat linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list
274: get_robust_list splice tee sync_file_range vmsplice move_pages utimensat epoll_pwait signalfd
283: timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2
291: epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo perf_event_open recvmmsg
300: fanotify_init fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs
307: sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp finit_module sched_setattr
315: sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf execveat userfaultfd
324: membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx
333: io_pgetevents rseq uretprobe uprobe
424: pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen
431: fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2
440: process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule
446: landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat
452: fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount
459: lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat
466: removexattrat open_tree_attr file_getattr file_setattr listns
"""

_AARCH64: Final = """
0: io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr
9: lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd
18: lookup_dcookie eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1
27: inotify_add_watch inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat
36: symlinkat linkat renameat umount2 mount pivot_root nfsservctl statfs fstatfs truncate ftruncate
47: fallocate faccessat chdir fchdir chroot fchmod fchmodat fchownat fchown openat close vhangup pipe2
60: quotactl getdents64 lseek read write readv writev pread64 pwrite64 preadv pwritev sendfile
72: pselect6 ppoll signalfd4 vmsplice splice tee readlinkat newfstatat fstat sync fsync fdatasync
84: sync_file_range timerfd_create timerfd_settime timerfd_gettime utimensat acct capget capset
92: personality exit exit_group waitid set_tid_address unshare futex set_robust_list get_robust_list
101: nanosleep getitimer setitimer kexec_load init_module delete_module timer_create timer_gettime
109: timer_getoverrun timer_settime timer_delete clock_settime clock_gettime clock_getres
115: clock_nanosleep syslog ptrace sched_setparam sched_setscheduler sched_getscheduler sched_getparam
122: sched_setaffinity sched_getaffinity sched_yield sched_get_priority_max sched_get_priority_min
127: sched_rr_get_interval restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend rt_sigaction
135: rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn setpriority getpriority
142: reboot setregid setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid setfsgid
153: times setpgid getpgid getsid setsid getgroups setgroups uname sethostname setdomainname getrlimit
164: setrlimit getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid getppid getuid
175: geteuid getgid getegid gettid sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify
185: mq_getsetattr msgget msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt
198: socket socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt
209: getsockopt shutdown sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl clone
221: execve mmap fadvise64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore
233: madvise remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages
240: rt_tgsigqueueinfo perf_event_open accept4 recvmmsg
260: wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at clock_adjtime
267: syncfs setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module sched_setattr
275: sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat userfaultfd membarrier mlock2
285: copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq
294: kexec_file_load
424: pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen
431: fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2
440: process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule
446: landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat
452: fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount
459: lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat
466: removexattrat open_tree_attr file_getattr file_setattr listns
"""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A calling convention for system calls.

    Attributes:
        audit: The number the kernel gives it in ``seccomp_data.arch`` (``linux/audit.h``).
        numbers: Each call's number by its name.
        foreign_from: Numbers at or above this belong to another convention that shares the same ``audit``
            number (x32 on x86_64), or None.
    """

    audit: int
    numbers: dict[str, int]
    foreign_from: int | None


def _parse(table: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for line in table.split("\n"):
        first, _, names = line.partition(":")
        for offset, name in enumerate(names.split()):
            numbers[name] = int(first) + offset
    return numbers


ARCHITECTURES: Final = {
    "x86_64": Architecture(audit=0xC000003E, numbers=_parse(_X86_64), foreign_from=0x40000000),
    "aarch64": Architecture(audit=0xC00000B7, numbers=_parse(_AARCH64), foreign_from=None),
}
