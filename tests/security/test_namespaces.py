"""Changing the walls: mounts, new and foreign namespaces, other roots."""

from __future__ import annotations

import time

import pytest

from security.attack import PRELUDE, HostProcess, Refused, Target, refusal

NEW = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}


@pytest.mark.parametrize("kind", NEW)
def test_unshare_outside_a_fork_is_refused(box: Target, via: str, kind: str) -> None:
    assert box.attack(f"result = syscall('unshare', {NEW[kind]})", via) == "EPERM"


@pytest.mark.parametrize("kind", [name for name in NEW if name != "time"])
def test_a_clone_into_new_namespaces_that_nobody_ordered_is_refused(box: Target, via: str, kind: str) -> None:
    code = f"""
pid = syscall('clone', {NEW[kind]} | 17, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
result = pid
"""
    assert box.attack(code, via) == "EPERM"


def test_a_clone_like_the_wardens_own_that_nobody_ordered_is_refused(box: Target, via: str) -> None:
    flags = sum(value for name, value in NEW.items() if name != "time")
    code = f"""
pid = syscall('clone', {flags} | 17 | 0x01200000, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
result = pid
"""
    assert box.attack(code, via) == "EPERM"


def test_clone3_whose_flags_no_filter_can_read_does_not_exist(box: Target, via: str) -> None:
    code = """
import struct
arguments = ctypes.create_string_buffer(struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0))
result = syscall('clone3', ctypes.c_void_p(ctypes.addressof(arguments)), 88)
"""
    assert box.attack(code, via) == "ENOSYS"


def test_threads_and_processes_still_work(box: Target, via: str) -> None:
    code = """
import subprocess, threading
seen = []
thread = threading.Thread(target=lambda: seen.append(1))
thread.start(); thread.join()
result = [seen, subprocess.run(['true']).returncode]
"""
    assert box.attack(code, via) == [[1], 0]


@pytest.mark.parametrize("cls", ["Attacker", "Root", "Nested"])
def test_nothing_can_be_mounted(host: HostProcess, via: str, cls: str) -> None:
    box = host.spawn(cls)
    code = """
os.makedirs('/tmp/m', exist_ok=True)
text = ctypes.c_char_p
result = {
    'bind': syscall('mount', text(b'/'), text(b'/tmp/m'), None, ctypes.c_ulong(4096), None),
    'tmpfs': syscall('mount', text(b'none'), text(b'/tmp/m'), text(b'tmpfs'), 0, None),
    'proc': syscall('mount', text(b'proc'), text(b'/tmp/m'), text(b'proc'), 0, None),
    'remount': syscall('mount', None, text(b'/usr'), None, ctypes.c_ulong(32 | 4096), None),
    'umount': syscall('umount2', text(b'/proc'), 2),
    'umount dev': syscall('umount2', text(b'/dev'), 2),
    'pivot': syscall('pivot_root', text(b'/tmp'), text(b'/tmp')),
    'fsopen': syscall('fsopen', text(b'tmpfs'), 0),
    'open_tree': syscall('open_tree', -100, text(b'/'), 1),
    'setattr': syscall('mount_setattr', -100, text(b'/usr'), 0, None, 0),
    'chroot': syscall('chroot', text(b'/tmp')),
}
"""
    answers = box.attack(code, via)
    if cls == "Nested":
        assert answers.pop("chroot") == "EPERM"
    assert set(answers.values()) == {"EPERM"}, answers


def test_no_namespace_of_another_process_can_be_joined(box: Target, via: str) -> None:
    code = """
import glob
result = []
for path in glob.glob('/proc/[0-9]*/ns/*'):
    fd = attempt(os.open, path, os.O_RDONLY)
    result.append(fd if isinstance(fd, str) else syscall('setns', fd, 0))
"""
    answers = box.attack(code, via)
    assert answers
    assert set(answers) <= {"EPERM", "EACCES", "ENOENT"}


def test_a_program_that_lives_in_a_cached_state_gets_no_namespace_while_boxes_are_forked(
    host: HostProcess,
) -> None:
    # The warden lets a namespace through while it forks a box: only the runner's own, never a neighbour's.
    spawned = [host.spawn("Spammer") for _ in range(10)]
    for box in spawned:
        assert box.attack("result = os.path.exists('/tmp/spam/won')") is False


def test_an_attacker_in_a_fork_gets_no_second_namespace(host: HostProcess) -> None:
    for _ in range(5):
        box = host.spawn()
        assert box.attack("result = syscall('unshare', 0x10000000)") == "EPERM"


@pytest.mark.parametrize("cls", ["Keeper", "Threaded", "Helped"])
def test_a_fork_that_keeps_the_rights_it_was_born_with_is_not_let_in(host: HostProcess, cls: str) -> None:
    # A fork is born with every capability over its own namespaces, and is a copy of memory that the box could change.
    code = """
import glob
found = [read(path).decode().split('CapEff:')[1].split()[0] for path in glob.glob('/proc/[0-9]*/task/*/status')]
result = [value for value in found if int(value, 16)]
"""
    refused = refusal(lambda: host.spawn(cls).attack(f"{code}\nassert not result, result"))
    assert refused is not None
    assert refused.code == "guest.protocol", refused
    assert host.spawn().answers()


@pytest.mark.parametrize("cls", ["Mute", "Deaf"])
def test_a_cached_state_that_no_longer_forks_is_an_error_in_time(
    host: HostProcess, other: Target, cls: str
) -> None:
    began = time.monotonic()
    with pytest.raises(Refused):
        host.spawn(cls)
    assert time.monotonic() - began < 30
    assert other.answers()
    assert host.spawn().answers()


def test_the_commands_unshare_and_nsenter_are_of_no_use(box: Target) -> None:
    for command in (
        ["unshare", "-Urm", "true"],
        ["nsenter", "-t", "1", "-m", "true"],
        ["chroot", "/", "true"],
    ):
        _, err, status = box.exec(command)
        assert status != 0, command
        assert "not permitted" in err or "Permission denied" in err, err


def test_a_box_that_asked_for_namespaces_gets_them_and_no_power_over_the_host(host: HostProcess) -> None:
    box = host.spawn("Nested")
    code = """
pid = os.fork()
if pid == 0:
    made = syscall('unshare', 0x10000000)
    named = syscall('sethostname', ctypes.c_char_p(b'x'), 1)
    os._exit(0 if made == 0 and named == 'EPERM' else 1)
result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    assert box.attack(code, "command") == 0


def test_the_attack_program_itself_is_sound() -> None:
    compile(PRELUDE, "prelude", "exec")
