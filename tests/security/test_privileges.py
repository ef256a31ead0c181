"""Gaining rights: setuid programs, capabilities, devices, kernel interfaces, settings of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from security.attack import HostProcess, Target

USERS = pytest.mark.parametrize("cls", ["Attacker", "Root"])


@USERS
def test_no_process_has_a_capability_or_can_get_one(host: HostProcess, via: str, cls: str) -> None:
    status = host.spawn(cls).attack("result = read('/proc/self/status').decode()", via)
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(values[name], 16) == 0, name
    assert values["NoNewPrivs"] == "1"
    assert values["Seccomp"] == "2"


@USERS
def test_a_setuid_program_gives_nothing(host: HostProcess, cls: str) -> None:
    code = """
import shutil, subprocess
os.makedirs('/tmp/s', exist_ok=True)
shutil.copy('/usr/bin/python3', '/tmp/s/python3')
os.chmod('/tmp/s/python3', 0o6755)
show = "print(open('/proc/self/status').read())"
result = subprocess.run(['/tmp/s/python3', '-S', '-c', show], capture_output=True, text=True).stdout
"""
    box = host.spawn(cls)
    own = box.attack("result = os.getuid()", "command")
    status = dict(line.split(":\t", 1) for line in box.attack(code, "command").splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(own)] * 4
    assert int(status["CapEff"], 16) == 0


def test_the_hosts_setuid_programs_give_nothing(box: Target) -> None:
    code = """
import subprocess
results = []
for program in ('su', 'sudo'):
    try:
        done = subprocess.run([program, '-c', 'id -u'] if program == 'su' else [program, '-n', 'id', '-u'],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10)
        results.append([done.returncode == 0, done.stdout.strip()])
    except FileNotFoundError:
        results.append([False, ''])
result = results
"""
    assert all(not worked for worked, _ in box.attack(code, "command"))


def test_a_boxs_user_cannot_become_root(box: Target, via: str) -> None:
    code = "result = [attempt(os.setuid, 0), attempt(os.setresuid, 0, 0, 0), attempt(os.setgid, 0), os.getuid() != 0]"
    *refused, other = box.attack(code, via)
    # EINVAL where the box has one id only, and no root to become.
    assert set(refused) in ({"EPERM"}, {"EINVAL"})
    assert other


@USERS
def test_no_device_node_can_be_made(host: HostProcess, via: str, cls: str) -> None:
    code = """
import stat
result = [attempt(os.mknod, '/tmp/sda', stat.S_IFBLK | 0o666, os.makedev(8, 0)),
          attempt(os.mknod, '/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1)),
          attempt(os.mknod, '/tmp/kmsg', stat.S_IFCHR | 0o666, os.makedev(1, 11)),
          attempt(os.mknod, '/tmp/white', stat.S_IFCHR | 0o666, 0)]
"""
    assert set(host.spawn(cls).attack(code, via)) == {"EPERM"}


@USERS
def test_only_harmless_devices_are_there(host: HostProcess, via: str, cls: str) -> None:
    code = """
import stat
found = []
for top, folders, names in os.walk('/dev'):
    for name in names:
        entry = os.lstat(os.path.join(top, name))
        if stat.S_ISBLK(entry.st_mode):
            found.append(os.path.join(top, name))
        elif stat.S_ISCHR(entry.st_mode):
            found.append((os.major(entry.st_rdev), os.minor(entry.st_rdev)))
result = found
"""
    harmless = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
    found = {entry if isinstance(entry, str) else tuple(entry) for entry in host.spawn(cls).attack(code, via)}
    assert {
        entry for entry in found if isinstance(entry, str) or (entry not in harmless and entry[0] != 136)
    } == set()


def test_the_devices_that_every_program_needs_work(box: Target, via: str) -> None:
    code = "open('/dev/null', 'w').write('x'); result = [len(open('/dev/urandom', 'rb').read(8)), read('/dev/null')]"
    assert box.attack(code, via) == [8, b""]


#: Settings that every IPC namespace has its own of, and from Linux 6.14 on every PID namespace; the box's root may
#: change the box's.
OWN_SETTINGS = (
    "fs/mqueue/",
    "kernel/msg",
    "kernel/shm",
    "kernel/sem",
    "kernel/auto_msgmni",
    "kernel/pid_max",
)
#: Reads those that boxes have of their own.
SETTINGS = "result = {p: read('/proc/sys/kernel/' + p) for p in ('msgmax', 'shmmni', 'sem', 'pid_max')}"


@USERS
def test_settings_of_the_machine_cannot_be_written(
    host: HostProcess, other: Target, via: str, cls: str
) -> None:
    code = """
found, tried = [], 0
for top, folders, names in os.walk('/proc/sys'):
    for name in names:
        path = os.path.join(top, name)
        tried += 1
        for how in (os.O_RDWR, os.O_WRONLY):  # some, such as vm/compact_memory, nobody may read
            try:
                fd = os.open(path, how)
            except OSError:
                continue
            for value in (b'7', b'4000'):
                if attempt(os.pwrite, fd, value, 0) not in ('EPERM', 'EACCES', 'EROFS'):
                    found.append(path)  # or it would have taken another value
            os.close(fd)
result = [tried, sorted(set(found))]
"""
    watched = [
        path
        for path in Path("/proc/sys/kernel").iterdir()
        if path.name.startswith(("msg", "shm", "sem", "ns_", "pid_max"))
    ]
    before = {path: path.read_text() for path in watched if path.name != "ns_last_pid"}
    others = other.attack(SETTINGS)
    there, written = host.spawn(cls).attack(code, via)
    assert there, "there was nothing to be written"
    assert not [path for path in written if not path.removeprefix("/proc/sys/").startswith(OWN_SETTINGS)]
    assert cls == "Root" or not written
    assert {path: path.read_text() for path in before} == before
    assert other.attack(SETTINGS) == others == host.spawn(cls).attack(SETTINGS)


@USERS
def test_nothing_that_commands_the_kernel_can_be_written(host: HostProcess, via: str, cls: str) -> None:
    code = """
paths = ['/proc/sysrq-trigger', '/proc/irq', '/proc/bus', '/proc/fs', '/proc/acpi', '/proc/mtrr',
         '/proc/asound', '/proc/1/oom_score_adj', '/sys/kernel/uevent_helper', '/sys/power/state',
         '/sys/module', '/sys/fs/cgroup', '/sys/kernel/security', '/sys/kernel/debug', '/sys/firmware']
found = []
for start in paths[:7] + paths[8:]:
    for top, folders, names in os.walk(start) if os.path.isdir(start) else [('', [], [start])]:
        for name in names:
            path = os.path.join(top, name)
            try:
                os.close(os.open(path, os.O_WRONLY))
            except OSError:
                continue
            found.append(path)
result = found
"""
    assert host.spawn(cls).attack(code, via) == []


@USERS
def test_sys_is_read_only_or_absent(host: HostProcess, via: str, cls: str) -> None:
    code = """
found = []
for top, folders, names in os.walk('/sys'):
    for name in names:
        path = os.path.join(top, name)
        if os.path.islink(path):
            continue
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError:
            continue
        found.append(path)
    if len(found) > 5:
        break
result = found
"""
    assert host.spawn(cls).attack(code, via) == []


KERNEL = {
    "keyring add": "syscall('add_key', ctypes.c_char_p(b'user'), ctypes.c_char_p(b'k'), ctypes.c_char_p(b'v'), 1, -4)",
    "keyring read": "syscall('keyctl', 0, -4, 0)",
    "keyring request": "syscall('request_key', ctypes.c_char_p(b'user'), ctypes.c_char_p(b'k'), None, 0)",
    "io_uring": "syscall('io_uring_setup', 8, ctypes.c_void_p(ctypes.addressof(ctypes.create_string_buffer(256))))",
    "bpf": "syscall('bpf', 0, ctypes.c_void_p(ctypes.addressof(ctypes.create_string_buffer(128))), 128)",
    "userfaultfd": "syscall('userfaultfd', 1)",
    "perf": "syscall('perf_event_open', ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "kexec": "syscall('kexec_load', 0, 0, None, 0)",
    "module": "syscall('init_module', None, 0, ctypes.c_char_p(b''))",
    "module file": "syscall('finit_module', 0, ctypes.c_char_p(b''), 0)",
    "module removal": "syscall('delete_module', ctypes.c_char_p(b'x'), 0)",
    "kernel log": "syscall('syslog', 3, ctypes.create_string_buffer(64), 64)",
    "reboot": "syscall('reboot', 0, 0, 0, None)",
    "hostname": "syscall('sethostname', ctypes.c_char_p(b'x'), 1)",
    "clock": "syscall('clock_settime', 0, None)",
    "swap": "syscall('swapon', ctypes.c_char_p(b'/tmp/x'), 0)",
    "file handles": "syscall('open_by_handle_at', -100, None, 0)",
    "file system watch": "syscall('fanotify_init', 0, 0)",
    "ports": "syscall('iopl', 3) if 'iopl' in NUMBERS else 'EPERM'",
    "quota": "syscall('quotactl', 0, None, 0, None)",
    "weaker memory": "syscall('personality', 0x0400000)",
}


@USERS
@pytest.mark.parametrize("what", KERNEL)
def test_the_kernel_is_asked_in_vain(host: HostProcess, via: str, what: str, cls: str) -> None:
    assert host.spawn(cls).attack(f"result = {KERNEL[what]}", via) == "EPERM"


def test_the_interpreter_that_runs_the_box_cannot_be_changed(
    host: HostProcess, box: Target, as_user: Path
) -> None:
    # /proc/self/exe leads past every mount to the file the process was started from (CVE-2019-5736), which
    # for an ordinary user is often the user's own.
    code = """
import glob
paths = ['/proc/self/exe', '/proc/1/exe']
paths += glob.glob('/proc/self/map_files/*') + glob.glob('/proc/1/map_files/*')
result = []
for path in paths:
    for act in (lambda: os.close(os.open(path, os.O_WRONLY)), lambda: os.truncate(path, 0),
                lambda: os.chmod(path, 0o700), lambda: os.utime(path, (1, 1)),
                lambda: os.setxattr(path, 'user.kibo', b'x'), lambda: os.link(path, '/tmp/linked')):
        try:
            act()
        except OSError:
            continue
        result.append([path, attempt(os.readlink, path)])
"""
    copied = "/memfd:kibo-python (deleted)"  # which may be renamed and marked, and not written
    assert [path for path, link in box.attack(code) if link != copied] == []
    assert [path for path, link in box.attack(code, "command") if link != copied] == []


def test_an_interpreter_kept_open_cannot_be_written_once_its_box_is_gone(host: HostProcess) -> None:
    binary = Path(host.here("import sys\nresult = os.path.realpath(sys.executable)"))
    before = (binary.stat().st_mode, binary.stat().st_mtime_ns, binary.stat().st_size)
    box = host.spawn()
    attack = """
import os, sys, time
path, end = '/proc/self/fd/' + sys.argv[1], time.monotonic() + 2
while time.monotonic() < end:
    for act in (lambda: os.open(path, os.O_WRONLY), lambda: os.chmod(path, 0o7777)):
        try:
            act()
        except OSError:
            pass
"""
    code = f"""
kept = os.open('/proc/self/exe', os.O_PATH)
pid = os.fork()
if pid == 0:
    os.set_inheritable(kept, True)
    os.execv('/usr/bin/python3', ['python3', '-c', {attack!r}, str(kept)])
result = os.waitpid(pid, 0)[1]
"""
    box.attack(code)
    assert (binary.stat().st_mode, binary.stat().st_mtime_ns, binary.stat().st_size) == before
