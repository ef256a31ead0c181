"""Real filters in forked children, as the host's root and as an ordinary user."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
import platform
import pwd
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kibo.runtime import kernel, seccomp, seccomp_listener
from kibo.runtime.seccomp_policy import BOX, Allow, Check, Deny, Policy
from kibo.runtime.syscalls import ARCHITECTURES

pytestmark = pytest.mark.runtime

NUMBERS = ARCHITECTURES[platform.machine()].numbers
libc = ctypes.CDLL(None, use_errno=True)
USERS = pytest.mark.parametrize(
    "uid",
    [
        pytest.param(0, marks=pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")),
        1000 if os.geteuid() == 0 else os.geteuid(),
    ],
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may use; pytest's own are for the user who runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="kibo-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def in_child(function: Callable[[], object], uid: int | None = None) -> str:
    """Runs a function in a forked child, as another user if asked. Returns the repr of what it returned."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if uid and os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            answer = repr(function())
        except BaseException:  # noqa: BLE001 (the child must say what went wrong, whatever it was)
            answer = traceback.format_exc()
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader) as stream:
            answer = stream.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # out of time; it would keep the tests' output open
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    return answer if not os.WIFSIGNALED(status) else f"killed by {signal.Signals(os.WTERMSIG(status)).name}"


def raw(name: str, *arguments: int) -> int:
    """Makes a system call. Returns 0, or the errno."""
    ctypes.set_errno(0)
    values = [ctypes.c_long(value) for value in (*arguments, *[0] * (6 - len(arguments)))]
    return ctypes.get_errno() if libc.syscall(NUMBERS[name], *values) < 0 else 0


@USERS
def test_each_refused_call_gives_the_errno_that_the_policy_states(uid: int) -> None:
    expected = {
        name: entry.number
        for entry in BOX.entries
        if isinstance(entry, Deny)
        for name in entry.names.split()
        if name in NUMBERS
    }

    def attack() -> dict[str, int]:
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        return {name: raw(name) for name in expected}

    assert in_child(attack, uid) == repr(expected)


@USERS
def test_checked_calls_are_refused_for_the_stated_arguments(uid: int, open_folder: Path) -> None:
    path = ctypes.create_string_buffer(str(open_folder / "device").encode())

    def attack() -> list[int]:
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        return [
            raw("clone", kernel.CLONE_NEWUSER | signal.SIGCHLD),
            raw("clone", kernel.CLONE_NEWNS | signal.SIGCHLD),
            raw("ioctl", 0, 0x5412),
            raw("socket", 40, 1, 0),
            raw("socket", 17, 3, 0),
            raw("socket", 16, 3, 12),
            raw("personality", 0x0400000),
            raw("mknodat", -100, ctypes.addressof(path), 0o020666, 0x103),
            raw("mknodat", -100, ctypes.addressof(path), 0o010666),
        ]

    refused = [errno.EPERM] * 3 + [errno.EAFNOSUPPORT] * 2 + [errno.EPROTONOSUPPORT, errno.EPERM, errno.EPERM]
    assert in_child(attack, uid) == repr([*refused, 0])


@USERS
def test_the_limit_of_processes_can_be_read_and_not_set_and_others_can(uid: int) -> None:
    # Its low half is zero, as that of no new value at all.
    far = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(ctypes.c_void_p(0x7_0000_0000), 4096, mmap.PROT_READ | mmap.PROT_WRITE, far, -1, 0)
    assert place == 0x7_0000_0000

    def attack() -> list[int]:
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        files = struct.pack("QQ", 64, 64)
        ctypes.memmove(place, files, 16)
        old = ctypes.addressof(ctypes.create_string_buffer(16))
        return [
            raw("prlimit64", 0, resource.RLIMIT_NPROC, place),
            raw("prlimit64", 0, resource.RLIMIT_NPROC, place, old),
            raw("setrlimit", resource.RLIMIT_NPROC, place),
            raw("prlimit64", 0, resource.RLIMIT_NPROC, 0, old),
            raw("prlimit64", 0, resource.RLIMIT_NOFILE, place, old),
            raw("setrlimit", resource.RLIMIT_NOFILE, place),
        ]

    try:
        assert in_child(attack, uid) == repr([errno.EPERM] * 3 + [0] * 3)
    finally:
        libc.munmap(ctypes.c_void_p(place), 4096)


def test_installing_takes_no_privilege_and_gives_up_new_ones() -> None:
    def act() -> tuple[bool, str]:
        seccomp.install(seccomp.compile_filter())
        status = Path("/proc/self/status").read_text()
        return "CapEff:\t0000000000000000" in status, status.split("NoNewPrivs:\t")[1][0]

    assert in_child(act, 1000) == "(True, '1')"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 alone has i386 and x32 beside it")
def test_a_32_bit_call_ends_the_process() -> None:
    def attack() -> int:
        code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20 (getpid); int 0x80; ret
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    assert in_child(attack) == "killed by SIGSYS"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 alone has i386 and x32 beside it")
def test_an_x32_call_ends_the_process() -> None:
    def attack() -> int:
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        return libc.syscall(0x40000000 | NUMBERS["getpid"])

    assert in_child(attack) == "killed by SIGSYS"


PROGRAMS = {
    "/usr/bin/python3": [
        "-c",
        "import ssl, sqlite3, threading, subprocess; subprocess.run(['true'], check=True)",
    ],
    "sh": ["-c", "echo $(uname) | cat; mkfifo f; mkdir -p d; rm -r f d"],
    "git": ["init", "--quiet", "repository"],
    "node": [
        "-e",
        "require('fs').promises.readFile('/etc/passwd').then(b => { if (!b.length) process.exit(1) })",
    ],
    "gcc": ["-xc", "-o", "program", "-"],
    "java": ["-version"],
    "perl": ["-e", "my $pid = fork; exit 0 unless $pid; waitpid $pid, 0"],
    "tar": ["cf", "archive.tar", "/etc/passwd"],
    "curl": ["--version"],
    "strace": ["-f", "-o", "trace", "true"],
    "chromium": [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--user-data-dir=profile",
        "--dump-dom",
        "data:text/html,<p>here",
    ],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_boxes_are_for_runs_under_the_filter(program: str, open_folder: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = filtered([program, *PROGRAMS[program]], open_folder, "int main(void) { return 0; }\n")
    assert done.returncode == 0, done.stderr
    assert "Bad system call" not in done.stderr


def filtered(
    command: list[str], folder: Path, text: str, nested: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command under the filter, as an ordinary user."""
    program = seccomp.compile_filter(notify=frozenset(), nested_namespaces=nested)

    def confine() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
        seccomp.install(program)

    return subprocess.run(
        command, cwd=folder, input=text, capture_output=True, text=True, timeout=50, preexec_fn=confine,
        env={"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(folder)},
    )  # fmt: skip


def test_a_database_server_starts_commits_and_stops_under_the_filter(open_folder: Path) -> None:
    servers = (
        sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
    )
    if not servers:
        pytest.skip("postgresql is not installed")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("postgresql asks for a user with a name, and this one has none")
    programs = servers[-1]
    made = filtered([str(programs / "initdb"), "-D", "data", "-A", "trust"], open_folder, "")
    assert made.returncode == 0, made.stderr
    single = filtered(
        [str(programs / "postgres"), "--single", "-D", "data", "postgres"],
        open_folder,
        "create table t (a int)\n",
    )
    assert single.returncode == 0, single.stderr


def test_chromium_keeps_its_own_sandbox_where_nested_namespaces_are_asked_for(open_folder: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    command = [
        "chromium",
        "--headless",
        "--disable-gpu",
        "--user-data-dir=profile",
        "--dump-dom",
        "data:text/html,<p>here",
    ]
    done = filtered(command, open_folder, "", nested=True)
    assert "here" in done.stdout, done.stderr
    refused = filtered(command, open_folder, "")
    assert "here" not in refused.stdout


class Supervised:
    """A child under a filter whose namespace calls come here."""

    def __init__(self, act: Callable[[], object]) -> None:
        ours, theirs = socket.socketpair()
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                listener = seccomp.install(seccomp.compile_filter(), listener=True)
                assert listener is not None
                socket.send_fds(theirs, [b"x"], [listener])
                os.close(listener)
                answer = repr(act())
            except BaseException as error:  # noqa: BLE001 (as above)
                answer = repr(error)
            os.write(writer, answer.encode())
            os._exit(0)
        os.close(writer)
        theirs.close()
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        self.listener = array.array("i", ancillary[0][2])[0]
        ours.close()

    def answer(self) -> str:
        """Waits for the child's end and returns what it said."""
        with os.fdopen(self._reader) as stream:
            answer = stream.read()
        os.waitpid(self.pid, 0)
        os.close(self.listener)
        return answer


def awaited(listener: int) -> seccomp_listener.Notification | None:
    select.select([listener], [], [], 10)
    return seccomp_listener.receive(listener)


def clone_user() -> str:
    pid = kernel.clone(kernel.CLONE_NEWUSER)
    if pid == 0:
        os._exit(7)
    return f"child left {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


def test_a_namespace_call_reaches_the_supervisor_who_may_let_it_through() -> None:
    child = Supervised(clone_user)
    notification = awaited(child.listener)
    assert notification is not None
    assert notification.pid == child.pid
    assert notification.number == NUMBERS["clone"]
    assert notification.arguments[0] & kernel.CLONE_NEWUSER
    assert seccomp_listener.still_waits(child.listener, notification)
    assert seccomp_listener.proceed(child.listener, notification)
    assert child.answer() == "'child left 7'"


def test_a_namespace_call_that_the_supervisor_refuses_fails() -> None:
    child = Supervised(clone_user)
    notification = awaited(child.listener)
    assert notification is not None
    seccomp_listener.refuse(child.listener, notification)
    assert "PermissionError(1" in child.answer()


def test_a_namespace_call_with_no_supervisor_left_fails() -> None:
    child = Supervised(clone_user)
    os.close(child.listener)
    child.listener = os.open("/dev/null", os.O_RDONLY)
    assert "OSError(38" in child.answer()


def test_a_process_that_dies_while_it_waits_is_noticed() -> None:
    child = Supervised(clone_user)
    notification = awaited(child.listener)
    assert notification is not None
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    assert not seccomp_listener.still_waits(child.listener, notification)
    assert not seccomp_listener.proceed(child.listener, notification)
    os.close(child.listener)


def test_a_supervisor_that_nobody_asks_is_not_held_up() -> None:
    child = Supervised(lambda: 1)
    os.waitpid(child.pid, 0)
    with pytest.raises(ConnectionResetError):
        for _ in range(100):
            assert seccomp_listener.receive(child.listener) is None
            select.select([child.listener], [], [], 0.05)
    os.close(child.listener)


def test_the_supervised_cannot_answer_their_own_calls_with_a_second_listener() -> None:
    child = Supervised(lambda: seccomp.install(seccomp.compile_filter(), listener=True))
    assert "PermissionError(1" in child.answer()


def test_a_program_under_a_filter_without_supervisor_cannot_become_its_own() -> None:
    # It would install a listener, ask by a filter of its own, and answer from a thread: "go on".
    asks = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, NUMBERS["clone"])
    asks += seccomp._ASK + struct.pack("=HBBI", 0x06, 0, 0, seccomp.RET_ALLOW)

    def attack() -> object:
        seccomp.install(seccomp.compile_filter(), listener=False)
        refused = raw("clone", kernel.CLONE_NEWUSER | signal.SIGCHLD)
        try:
            seccomp.install(asks, listener=True)
        except OSError as error:
            return refused, error.errno
        return "it listens"

    assert in_child(attack) == repr((errno.EPERM, errno.EPERM))


def test_that_attack_would_succeed_without_the_rule_against_listeners() -> None:
    asks = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, NUMBERS["clone"])
    asks += seccomp._ASK + struct.pack("=HBBI", 0x06, 0, 0, seccomp.RET_ALLOW)
    others = tuple(entry for entry in BOX.entries if getattr(entry, "name", "") != "seccomp")
    naive = seccomp.compile_filter(Policy((*others, Allow("as it was", "seccomp")), BOX.nested))
    descriptor = seccomp._Program(len(naive) // 8, naive)

    def attack() -> object:
        ours, theirs = socket.socketpair()
        # No filter of the attacker's holds it back, because it is older. It is no thread: the raw clone below
        # would leave the interpreter's lock with it.
        supervisor = os.fork()
        if supervisor == 0:
            _, (listener,), _, _ = socket.recv_fds(theirs, 1, 1)
            notification = awaited(listener)
            proceeded = notification is not None and seccomp_listener.proceed(listener, notification)
            os._exit(0 if proceeded else 1)
        libc.prctl(38, 1, 0, 0, 0)
        libc.syscall(NUMBERS["seccomp"], 1, 0, ctypes.byref(descriptor))
        listener = seccomp.install(asks, listener=True)
        assert listener is not None
        socket.send_fds(ours, [b"x"], [listener])
        pid = libc.syscall(NUMBERS["clone"], ctypes.c_long(kernel.CLONE_NEWUSER | signal.SIGCHLD), 0, 0, 0, 0)
        if pid == 0:
            os._exit(7)
        return [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in (supervisor, pid)]

    assert in_child(attack) == "[0, 7]"


def test_a_filter_that_the_supervised_add_cannot_let_more_through() -> None:
    everything = (0x06).to_bytes(2, "little") + b"\0\0" + seccomp.RET_ALLOW.to_bytes(4, "little")

    def attack() -> int:
        seccomp.install(seccomp.compile_filter(notify=frozenset()))
        seccomp.install(everything)
        return raw("unshare", kernel.CLONE_NEWUSER)

    assert in_child(attack) == str(errno.EPERM)


def test_the_checks_of_the_policy_are_all_exercised_here() -> None:
    assert {entry.name for entry in BOX.entries if isinstance(entry, Check)} == {
        "clone", "ioctl", "socket", "seccomp", "personality", "mknod", "mknodat", "prlimit64", "setrlimit",
    }  # fmt: skip
