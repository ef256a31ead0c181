"""Reaching other processes: signals, debugging and process tables, across boxes and up to the host."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from security.attack import PRELUDE, HostProcess, Refused, Target, refusal


def test_a_box_sees_no_process_but_its_own(host: HostProcess, box: Target, other: Target, via: str) -> None:
    seen = box.attack("result = [name for name in os.listdir('/proc') if name.isdigit()]", via)
    assert "1" in seen
    assert len(seen) <= 4


def test_a_signal_to_everyone_reaches_no_other_box_and_not_the_host(host: HostProcess, other: Target) -> None:
    box = host.spawn()
    refusal(box.exec, ["python3", "-c", "import os, signal; os.kill(-1, signal.SIGKILL)"])
    assert host.here("result = 1") == 1
    assert other.answers()


def test_a_signal_to_a_number_of_the_hosts_finds_nobody(host: HostProcess, box: Target, via: str) -> None:
    pids = [host.process.pid, os.getpid(), *host.descendants()]
    code = f"result = [attempt(os.kill, pid, 0) for pid in {pids} if not os.path.exists('/proc/%d' % pid)]"
    assert set(box.attack(code, via)) == {"ESRCH"}


def test_every_process_that_can_be_signalled_is_the_boxs_own(box: Target, other: Target, via: str) -> None:
    code = """
own = {int(name) for name in os.listdir('/proc') if name.isdigit()}
result = [pid for pid in range(2, 70000) if pid not in own and attempt(os.kill, pid, 0) is None]
"""
    # Threads answer to signals too, and end with the process they are part of.
    assert len(box.attack(code, via)) <= 4


def test_nothing_outside_can_be_traced(host: HostProcess, box: Target, other: Target, via: str) -> None:
    pids = [host.process.pid, *host.descendants()]
    code = f"""
attach = 16
result = [syscall('ptrace', attach, pid, 0, 0) for pid in {pids} if not os.path.exists('/proc/%d' % pid)]
"""
    assert set(box.attack(code, via)) == {"ESRCH"}


def test_no_process_outside_can_be_opened_or_robbed_of_a_descriptor(
    host: HostProcess, box: Target, via: str
) -> None:
    pids = [host.process.pid, *host.descendants()]
    code = (
        f"result = [syscall('pidfd_open', pid, 0) for pid in {pids} if not os.path.exists('/proc/%d' % pid)]"
    )
    assert set(box.attack(code, via)) == {"ESRCH"}


def test_no_memory_outside_can_be_read(host: HostProcess, box: Target, via: str) -> None:
    code = f"""
import struct
buffer = ctypes.create_string_buffer(64)
vector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(buffer), 64))
result = syscall('process_vm_readv', {host.process.pid}, ctypes.c_void_p(ctypes.addressof(vector)), 1,
                 ctypes.c_void_p(ctypes.addressof(vector)), 1, 0)
"""
    assert box.attack(code, via) == "ESRCH"


def test_debugging_works_within_a_box(box: Target) -> None:
    code = """
pid = os.fork()
if pid == 0:
    syscall('ptrace', 0, 0, 0, 0)
    os.kill(os.getpid(), 19)
    os._exit(5)
stopped = os.waitpid(pid, 0)[1]
syscall('ptrace', 7, pid, 0, 0)
result = [os.WIFSTOPPED(stopped), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
"""
    assert box.attack(code, "command") == [True, 5]


def test_a_command_that_enters_the_box_can_be_robbed_of_nothing(
    host: HostProcess, box: Target, as_user: Path
) -> None:
    # A program inside waits for each process that comes in from outside, and takes what it can before the
    # process has given up what it came with (as CVE-2016-9962 and CVE-2019-5736 did).
    watcher = f"""
import time
first, second = {host.secret[:16]!r}, {host.secret[16:]!r}
found, seen, end = set(), set(), time.monotonic() + 6
while time.monotonic() < end:
    for pid in [n for n in os.listdir('/proc') if n.isdigit() and int(n) != os.getpid() and n != '1']:
        seen.add(pid)
        data = attempt(read, f'/proc/{{pid}}/environ')
        if isinstance(data, bytes) and (first + second).encode() in data:
            found.add('environment')
        for name in attempt(os.listdir, f'/proc/{{pid}}/fd') or []:
            path = f'/proc/{{pid}}/fd/{{name}}'
            link = attempt(os.readlink, path)
            # A program's own loader opens files of the box; what is not that file of the box has come along.
            own = attempt(lambda: os.path.samestat(os.stat(path), os.stat(link)))
            if link.startswith('/') and own is False:
                found.add(link)
            if 'seccomp' in link or 'mnt:' in link or 'pidfd' in link:
                found.add(link)
            data = attempt(read, f'/proc/{{pid}}/fd/{{name}}/../../../../..{as_user / "home" / ".secret"}')
            if isinstance(data, bytes):
                found.add('secret')
        data = attempt(read, f'/proc/{{pid}}/root{as_user / "home" / ".secret"}')
        if isinstance(data, bytes):
            found.add('root')
        memory = attempt(os.open, f'/proc/{{pid}}/mem', os.O_RDWR)
        if not isinstance(memory, str):
            os.close(memory)
with open('/tmp/found', 'w') as out:
    out.write(repr([sorted(found), len(seen)]))
"""
    box.attack(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        for fd in (1, 2): os.dup2(os.open('/dev/null', os.O_WRONLY), fd)\n"
        f"        os.execvp('python3', ['python3', '-c', {PRELUDE + watcher!r}])\n    os._exit(0)\n"
        "result = None",
        "command",
    )
    end = time.monotonic() + 5
    while time.monotonic() < end:
        box.exec(["true"])
    time.sleep(3)
    found, seen = box.attack("import ast\nresult = ast.literal_eval(read('/tmp/found').decode())")
    assert found == []
    assert seen > 5, "the watcher saw too few commands to prove anything"


@pytest.mark.parametrize("cls", ["Small", "Attacker"])
def test_a_fork_bomb_is_stopped_and_leaves_the_others_working(
    host: HostProcess, other: Target, cls: str
) -> None:
    box = host.spawn(cls)
    before = len(host.descendants())
    code = """
started = 0
try:
    for _ in range(5000):
        if os.fork() == 0:
            os.closerange(0, 100)
            time.sleep(60)
            os._exit(0)
        started += 1
except OSError as error:
    result = [errno.errorcode[error.errno], started]
else:
    result = ['not stopped', started]
"""
    kind, started = box.attack(code, "command", timeout_s=30)
    assert kind == "EAGAIN"
    assert started <= (64 if cls == "Small" else 1024)
    assert other.answers()
    box.destroy()
    end = time.monotonic() + 5
    while len(host.descendants()) > before and time.monotonic() < end:
        time.sleep(0.05)
    assert len(host.descendants()) <= before


def test_a_box_whose_first_process_is_killed_ends_and_says_so(host: HostProcess, other: Target) -> None:
    box = host.spawn()
    with pytest.raises(Refused) as caught:
        box.attack("os._exit(3)")
    assert caught.value.code in ("action.exited", "instance.ended", "runtime.lost")
    assert other.answers()


@pytest.mark.parametrize(
    "hunger",
    [
        "kept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))",
        "with open('/dev/shm/full', 'wb', 0) as out:\n    while True:\n        out.write(b'x' * (8 << 20))",
        "[os.fork() for _ in range(4)]\nkept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))",
    ],
    ids=["one process", "shared memory", "many processes"],
)
def test_a_box_that_eats_memory_is_ended_alone(host: HostProcess, other: Target, hunger: str) -> None:
    box = host.spawn("Small")
    began = time.monotonic()
    refused = refusal(box.attack, hunger)
    assert refused is not None
    assert refused.code in ("limit.memory", "action.exited", "action.raised", "action.timeout"), refused
    assert time.monotonic() - began < 40
    assert other.answers()
