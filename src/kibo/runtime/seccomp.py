"""Compiles a system call policy into a seccomp filter, and installs it.

The filter is classic BPF: it checks the architecture, then finds the call's number by a search tree over
ranges of numbers that are treated alike. The tree is balanced by how many calls each range holds, because the
kernel runs the filter once for every number when it is installed (to learn which calls are always allowed,
which then cost nothing) and for every call that it cannot answer from that. Sources: seccomp(2),
Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import struct
from typing import Final, NamedTuple

from kibo.runtime.seccomp_policy import BOX, NEW_LISTENER, Allow, Check, Deny, Policy
from kibo.runtime.syscalls import ARCHITECTURES, Architecture

# Actions, seccomp(2).
RET_ALLOW: Final = 0x7FFF0000
RET_ERRNO: Final = 0x00050000
RET_USER_NOTIF: Final = 0x7FC00000
RET_KILL_PROCESS: Final = 0x80000000

# Opcodes, linux/filter.h: load a word of seccomp_data; return; and; compare.
_LOAD: Final = 0x20
_RETURN: Final = 0x06
_AND: Final = 0x54
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35

# Offsets in struct seccomp_data. Both architectures are little-endian: an argument's low half comes first.
_NUMBER_OFFSET: Final = 0
_ARCHITECTURE_OFFSET: Final = 4
_ARGUMENTS_OFFSET: Final = 16

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5

_ASK: Final = struct.pack("=HBBI", _RETURN, 0, 0, RET_USER_NOTIF)
_REFUSE: Final = struct.pack("=HBBI", _RETURN, 0, 0, RET_ERRNO | errno.EPERM)

#: As the kernel itself answers numbers it does not know.
_UNKNOWN: Final = RET_ERRNO | errno.ENOSYS


_RANGE_WEIGHT: Final = 2


class Instruction(NamedTuple):
    """One instruction of classic BPF, ``struct sock_filter``."""

    code: int
    if_true: int
    if_false: int
    operand: int


class _Range(NamedTuple):
    """Numbers from ``first`` up to the next range's first, all treated alike."""

    first: int
    outcome: int | Check
    weight: int


def compile_filter(
    policy: Policy = BOX,
    *,
    arch: str | None = None,
    notify: frozenset[str] = frozenset({"clone"}),
    nested_namespaces: bool = False,
) -> bytes:
    """Compiles a policy. Pure; costs about 2 ms, so callers keep the result.

    Args:
        policy: What is allowed.
        arch: ``"x86_64"`` or ``"aarch64"``; None is this machine's.
        notify: Calls that, where the policy would refuse them, wait for an answer on the listener instead.
        nested_namespaces: Puts the policy's ``nested`` entries in the place of others for the same calls.

    Returns:
        The program, an array of ``struct sock_filter``.

    Raises:
        KeyError: There is no table for this architecture, or ``notify`` names an unknown call.
    """
    target = ARCHITECTURES[arch or platform.machine()]
    unknown = notify - target.numbers.keys()
    if unknown:
        raise KeyError(f"no such system call on this architecture: {', '.join(sorted(unknown))}")
    ranges = _ranges(_outcomes(policy, target, notify, nested_namespaces), target)
    program = [
        Instruction(_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        Instruction(_EQUAL, 1, 0, target.audit),
        Instruction(_RETURN, 0, 0, RET_KILL_PROCESS),
        Instruction(_LOAD, 0, 0, _NUMBER_OFFSET),
        *_tree(ranges, notify),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _outcomes(
    policy: Policy, target: Architecture, notify: frozenset[str], nested: bool
) -> dict[int, int | Check]:
    """Says for each number what is done with it: a filter's return value, or a check of an argument."""
    outcomes: dict[int, int | Check] = {}
    for entry in (*policy.entries, *(policy.nested if nested else ())):
        names = (entry.name,) if isinstance(entry, Check) else entry.names.split()
        for name in names:
            # A call that this architecture never had is simply not in its table.
            if (number := target.numbers.get(name)) is None:
                continue
            if isinstance(entry, Allow):
                outcomes[number] = RET_ALLOW
            elif isinstance(entry, Deny):
                outcomes[number] = RET_USER_NOTIF if name in notify else RET_ERRNO | entry.number
            else:
                outcomes[number] = entry
    return outcomes


def _ranges(outcomes: dict[int, int | Check], target: Architecture) -> list[_Range]:
    """Joins neighbouring numbers with the same outcome, and closes the gaps with ENOSYS."""
    points: list[tuple[int, int | Check, int]] = []
    last = max(outcomes)
    points += [(number, outcomes.get(number, _UNKNOWN), 1) for number in range(last + 1)]
    points.append((last + 1, _UNKNOWN, 1))
    if target.foreign_from is not None:
        points.append((target.foreign_from, RET_KILL_PROCESS, 1))
        # -1 is how a tracer says "skip this call", and no call of any convention.
        points.append((0xFFFFFFFF, _UNKNOWN, 1))
    ranges: list[_Range] = []
    for first, outcome, weight in points:
        if ranges and ranges[-1].outcome == outcome:
            ranges[-1] = ranges[-1]._replace(weight=ranges[-1].weight + weight)
        else:
            ranges.append(_Range(first, outcome, weight))
    return ranges


def _tree(ranges: list[_Range], notify: frozenset[str]) -> list[Instruction]:
    """Builds the search tree: a comparison, the lower half, the upper half."""
    if len(ranges) == 1:
        outcome = ranges[0].outcome
        return (
            _check(outcome, notify) if isinstance(outcome, Check) else [Instruction(_RETURN, 0, 0, outcome)]
        )
    # A little for the range itself keeps rare ones from lying too deep.
    weights = [each.weight + _RANGE_WEIGHT for each in ranges]
    total, below = sum(weights), list(itertools.accumulate(weights))
    split = min(range(1, len(ranges)), key=lambda index: abs(total - 2 * below[index - 1]))
    lower, upper = _tree(ranges[:split], notify), _tree(ranges[split:], notify)
    assert len(lower) < 256, "a jump of classic BPF is one byte"
    return [Instruction(_AT_LEAST, len(lower), 0, ranges[split].first), *lower, *upper]


def _check(check: Check, notify: frozenset[str]) -> list[Instruction]:
    """Compares one argument: comparisons, the answer for none, the answer for any, narrower checks."""
    refusal = RET_USER_NOTIF if check.name in notify else RET_ERRNO | check.number
    hit, miss = (RET_ALLOW, refusal) if check.allow else (refusal, RET_ALLOW)
    tail = [Instruction(_RETURN, 0, 0, miss), Instruction(_RETURN, 0, 0, hit)]
    targets = dict.fromkeys(check.values, 1)
    for value, narrower in check.narrowed:
        targets[value] = len(tail)
        tail += _check(narrower, notify)
    program = []
    if check.wide:
        # Past the lower half's load, mask and comparisons, to the answer for none.
        ahead = 1 + (check.mask != 0xFFFFFFFF) + len(check.values)
        program.append(Instruction(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * check.argument + 4))
        program.append(Instruction(_EQUAL, 0, ahead, 0))
    program.append(Instruction(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * check.argument))
    if check.mask != 0xFFFFFFFF:
        program.append(Instruction(_AND, 0, 0, check.mask))
    for index, value in enumerate(check.values):
        after = len(check.values) - index - 1
        program.append(Instruction(_EQUAL, after + targets[value], 0, value))
    return program + tail


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_libc: Final = ctypes.CDLL(None, use_errno=True)


def install(program: bytes, *, listener: bool = False) -> int | None:
    """Puts the calling thread, and all it starts from now on, under a filter for good. Needs no privilege.

    Sets ``no_new_privs`` first, without which the kernel would ask for CAP_SYS_ADMIN. Costs about 2.5 us for
    each instruction that one pass over all numbers executes: install it once and fork.

    Args:
        program: What `compile_filter` returned.
        listener: Whether calls in ``notify`` are to be answered by a supervisor; else they are refused.

    Returns:
        The listener's descriptor (closed on exec), to be sent to the supervisor and closed here; None without
        one.

    Raises:
        OSError: The kernel has no seccomp filters (ENOSYS, EINVAL), or a listener exists already (EBUSY).
    """
    number = ARCHITECTURES[platform.machine()].numbers["seccomp"]
    if _libc.prctl(
        _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
    ):
        raise _error("prctl(PR_SET_NO_NEW_PRIVS)")
    if not listener:
        # Left as they are, these calls would be anyone's to answer who installs a listener later.
        program = program.replace(_ASK, _REFUSE)
    descriptor = _Program(len(program) // 8, program)
    # WAIT_KILLABLE_RECV (Linux 5.19): once the supervisor has taken a notification, signals other than deadly
    # ones wait, so that it does not answer a call that a stray SIGCHLD has meanwhile restarted.
    flags = NEW_LISTENER | _FLAG_WAIT_KILLABLE_RECV if listener else 0
    result = _libc.syscall(number, _SET_MODE_FILTER, ctypes.c_uint(flags), ctypes.byref(descriptor))
    if result < 0:
        raise _error("seccomp(SECCOMP_SET_MODE_FILTER)")
    return int(result) if listener else None


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
