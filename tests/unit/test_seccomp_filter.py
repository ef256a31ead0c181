"""The compiled filter, run by an interpreter written apart from the compiler."""

from __future__ import annotations

import errno
import os
import signal
import struct

import pytest

from kibo.runtime import guest, kernel, seccomp
from kibo.runtime.seccomp_policy import BOX, Check, Deny, Policy
from kibo.runtime.syscalls import ARCHITECTURES

pytestmark = pytest.mark.unit

ALLOW, ERRNO, NOTIFY, KILL = 0x7FFF0000, 0x00050000, 0x7FC00000, 0x80000000
BOTH = pytest.mark.parametrize("arch", ["x86_64", "aarch64"])


def run(
    program: bytes,
    number: int,
    arguments: tuple[int, ...] = (),
    audit: int | None = None,
    arch: str = "x86_64",
):
    """Interprets classic BPF over one call. Returns the filter's value and how many instructions it took."""
    audit = ARCHITECTURES[arch].audit if audit is None else audit
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, position, steps = 0, 0, 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position, steps = position + 1, steps + 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                position += if_true if accumulator == operand else if_false
            case 0x35:
                position += if_true if accumulator >= operand else if_false
            case 0x06:
                return operand, steps
            case _:
                raise AssertionError(f"not an instruction that the compiler makes: {code:#x}")


def names(policy: Policy) -> list[str]:
    return [
        name
        for entry in (*policy.entries, *policy.nested)
        for name in ((entry.name,) if isinstance(entry, Check) else entry.names.split())
    ]


def call(program: bytes, name: str, *arguments: int, arch: str = "x86_64") -> int:
    return run(program, ARCHITECTURES[arch].numbers[name], arguments, arch=arch)[0]


@BOTH
def test_every_call_of_the_kernel_is_decided_once(arch: str) -> None:
    decided = names(Policy(BOX.entries, ()))
    assert sorted(decided) == sorted(set(decided))
    assert set(ARCHITECTURES[arch].numbers) <= set(decided)


def test_the_policy_names_no_call_that_no_architecture_has() -> None:
    known = set().union(*(architecture.numbers for architecture in ARCHITECTURES.values()))
    assert set(names(BOX)) <= known


def test_every_entry_has_a_reason_of_its_own() -> None:
    reasons = [entry.reason for entry in (*BOX.entries, *BOX.nested)]
    assert all(len(reason) >= 12 or reason in ("as mknod", "random bytes") for reason in reasons)
    assert len(set(reasons)) == len(reasons)


@BOTH
def test_no_call_takes_more_than_twelve_instructions_before_its_arguments_are_read(arch: str) -> None:
    program = seccomp.compile_filter(arch=arch)
    checked = {entry.name for entry in BOX.entries if isinstance(entry, Check)}
    steps = {name: run(program, number, arch=arch)[1] for name, number in ARCHITECTURES[arch].numbers.items()}
    assert max(count for name, count in steps.items() if name not in checked) <= 13  # and the return
    assert sum(steps.values()) / len(steps) <= 10.5


@BOTH
def test_each_entry_gets_the_answer_it_states(arch: str) -> None:
    program = seccomp.compile_filter(arch=arch, notify=frozenset())
    for entry in BOX.entries:
        if isinstance(entry, Check):
            continue
        expected = ERRNO | entry.number if isinstance(entry, Deny) else ALLOW
        for name in entry.names.split():
            if name in ARCHITECTURES[arch].numbers:
                assert call(program, name, arch=arch) == expected, name


def test_a_process_or_thread_is_allowed_and_a_namespace_waits_for_the_supervisor() -> None:
    program = seccomp.compile_filter()
    assert call(program, "clone", 0x3D0F00) == ALLOW  # pthread_create
    assert call(program, "clone", 17) == ALLOW
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert call(program, "clone", flag | 17) == NOTIFY


def test_without_a_supervisor_a_namespace_is_refused() -> None:
    program = seccomp.compile_filter(notify=frozenset())
    assert call(program, "clone", 0x10000000) == ERRNO | errno.EPERM


def test_calls_named_for_the_supervisor_wait_in_place_of_failing() -> None:
    program = seccomp.compile_filter(notify=frozenset({"clone", "unshare", "mount"}))
    assert call(program, "unshare", 0x10000000) == NOTIFY
    assert call(program, "mount") == NOTIFY
    assert call(program, "setns") == ERRNO | errno.EPERM


def test_a_supervised_call_must_exist() -> None:
    with pytest.raises(KeyError, match="frobnicate"):
        seccomp.compile_filter(notify=frozenset({"frobnicate"}))


def test_nested_namespaces_free_what_a_browser_sandbox_needs_and_no_mount() -> None:
    program = seccomp.compile_filter(nested_namespaces=True)
    for name in ("clone", "unshare", "chroot"):
        assert call(program, name, 0x10000000) == ALLOW
    for name in ("mount", "move_mount", "pivot_root", "setns", "bpf", "keyctl"):
        assert call(program, name) == ERRNO | errno.EPERM


def test_in_a_box_with_nested_namespaces_only_the_call_that_forks_it_is_held_back() -> None:
    program = seccomp.compile_filter(nested_namespaces=True)
    assert call(program, "clone", guest.FORK_FLAGS | signal.SIGCHLD) == NOTIFY
    assert call(program, "clone", guest.FORK_FLAGS & ~kernel.CLONE_NEWCGROUP) == ALLOW
    assert call(program, "clone", kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID) == ALLOW


def test_sockets_are_of_the_families_that_a_network_namespace_confines() -> None:
    program = seccomp.compile_filter()
    for family in (1, 2, 10):
        assert call(program, "socket", family, 1, 0) == ALLOW
    for family in (17, 31, 38, 40, 44):  # packet, bluetooth, kernel crypto, vsock, express data path
        assert call(program, "socket", family, 1, 0) == ERRNO | errno.EAFNOSUPPORT
    assert call(program, "socket", 16, 3, 0) == ALLOW
    for protocol in (6, 9, 12):  # xfrm, audit, netfilter
        assert call(program, "socket", 16, 3, protocol) == ERRNO | errno.EPROTONOSUPPORT


def test_the_upper_half_of_a_checked_argument_cannot_hide_the_lower() -> None:
    program = seccomp.compile_filter()
    assert call(program, "ioctl", 0, (1 << 32) | 0x5412) == ERRNO | errno.EPERM  # TIOCSTI
    assert call(program, "socket", (1 << 32) | 40) == ERRNO | errno.EAFNOSUPPORT
    assert call(program, "clone", (1 << 32) | 0x10000000) == NOTIFY


def test_device_nodes_are_refused_and_fifos_and_files_are_not() -> None:
    program = seccomp.compile_filter()
    for mode in (0o020600, 0o060600):
        assert call(program, "mknod", 0, mode) == ERRNO | errno.EPERM
        assert call(program, "mknodat", 0, 0, mode) == ERRNO | errno.EPERM
    for mode in (0o010600, 0o100600, 0o600, 0o140600):
        assert call(program, "mknodat", 0, 0, mode) == ALLOW


def test_a_program_in_a_box_may_filter_itself_but_not_listen() -> None:
    program = seccomp.compile_filter()
    assert call(program, "seccomp", 1, 0) == ALLOW
    assert call(program, "seccomp", 1, 1) == ALLOW  # TSYNC
    assert call(program, "seccomp", 1, 1 << 3) == ERRNO | errno.EPERM
    assert call(program, "seccomp", 1, 1 << 3 | 1 << 5) == ERRNO | errno.EPERM


def test_taking_the_questions_out_of_a_program_is_as_good_as_compiling_it_without() -> None:
    for arch in ARCHITECTURES:
        asking = seccomp.compile_filter(arch=arch)
        assert asking.replace(seccomp._ASK, seccomp._REFUSE) == seccomp.compile_filter(
            arch=arch, notify=frozenset()
        )


def test_a_foreign_calling_convention_ends_the_process() -> None:
    program = seccomp.compile_filter(arch="x86_64")
    assert run(program, 20, audit=0x40000003) == (KILL, 3)  # i386
    assert run(program, 0x40000000)[0] == KILL  # x32 read
    assert run(program, 0x40000000 | 520)[0] == KILL


def test_numbers_outside_the_table_do_not_exist() -> None:
    program = seccomp.compile_filter(arch="x86_64")
    for number in (400, 471, 1000, 0x3FFFFFFF, 0xFFFFFFFF):
        assert run(program, number)[0] == ERRNO | errno.ENOSYS


def test_the_kernel_accepts_the_size_of_every_variant() -> None:
    for nested in (False, True):
        for arch in ARCHITECTURES:
            assert len(seccomp.compile_filter(arch=arch, nested_namespaces=nested)) // 8 <= 4096


def test_the_tables_agree_with_this_interpreter_about_known_numbers() -> None:
    # Two that the standard library can prove: getpid answers this process, and gettid its thread.
    import ctypes

    numbers = ARCHITECTURES[os.uname().machine].numbers
    assert ctypes.CDLL(None).syscall(numbers["getpid"]) == os.getpid()
    assert ctypes.CDLL(None).syscall(numbers["getppid"]) == os.getppid()
