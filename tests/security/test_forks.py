"""Forks of an instance whose runner its box has taken over: what they keep must not let them talk to each other."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from security.attack import HostProcess, Refused, Target, refusal

#: The runner of the origin, as native code in it could leave it: blind to what is open, and keeping all of it.
TAKEN_OVER = """
import fcntl, mmap, select, signal, struct
modules = {name: sys.modules['kibo.runtime.' + name] for name in ('guest', 'kernel', 'openfiles')}
def blind(files, own):
    files.__init__()
    return []
modules['openfiles'].OpenFiles.remember = blind
close_range = modules['kernel'].close_range
modules['kernel'].close_range = lambda *_: None
"""
#: The same, but it closes what it should, so that it is found out by nothing else.
CLOSES = "modules['kernel'].close_range = close_range\n"

#: Ways to keep something: what the origin does, what one fork says by it, and what another hears.
WAYS = {
    "a socket": (
        "kept = socket.socketpair()",
        "kept[0].send(b'psst')",
        "kept[1].setblocking(False)\nresult = attempt(kept[1].recv, 4)",
    ),
    "a pipe": (
        "kept = os.pipe2(os.O_NONBLOCK)",
        "os.write(kept[1], b'psst')",
        "result = attempt(os.read, kept[0], 4)",
    ),
    "an event counter": (
        "kept = os.eventfd(0, os.EFD_NONBLOCK)",
        "os.eventfd_write(kept, 7)",
        "result = attempt(os.eventfd_read, kept)\nresult = b'psst' if result == 7 else result",
    ),
    "the place in an open file": (
        "kept = os.open('/usr/bin/env', os.O_RDONLY)",
        "os.lseek(kept, 7, os.SEEK_SET)",
        "result = attempt(os.lseek, kept, 0, os.SEEK_CUR)\nresult = b'psst' if result == 7 else result",
    ),
    "the flags of the null device": (
        "",
        "fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)",
        "flags = fcntl.fcntl(0, fcntl.F_GETFL)\nresult = b'psst' if flags & os.O_APPEND else flags",
    ),
    "an anonymous file": (
        "kept = os.memfd_create('kept')",
        "os.write(kept, b'psst')",
        "result = attempt(os.pread, kept, 4, 0)",
    ),
    "a terminal": (
        "kept = os.openpty()\nos.set_blocking(kept[1], False)\nimport tty; tty.setraw(kept[1])",
        "os.write(kept[0], b'psst')",
        "result = attempt(os.read, kept[1], 4)",
    ),
    "an epoll of what another has": (
        "kept = socket.socketpair(); seen = select.epoll(); seen.register(kept[1])",
        "kept[0].send(b'x')",
        "events = attempt(seen.poll, 0); result = b'psst' if isinstance(events, list) and events else events",
    ),
}

SHARED = {
    "memory": "kept = mmap.mmap(-1, 4096)",
    "memory that only looks unwritable": (
        "kept = mmap.mmap(-1, 4096)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(kept))\n"
        "protect = lambda rights: _libc.mprotect(ctypes.c_void_p(address), 4096, rights)\n"
        "assert protect(0) == 0\n"
        "later = lambda: protect(3)"
    ),
    "an anonymous file's memory": "fd = os.memfd_create('kept'); os.ftruncate(fd, 4096); kept = mmap.mmap(fd, 4096)",
    "a file's memory": (
        "fd = os.open('/dev/shm/kept', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096); kept = mmap.mmap(fd, 4096)"
    ),
    "System V memory": (
        "_libc.shmat.restype = ctypes.c_void_p\n"
        "kept = (ctypes.c_char * 4096).from_address(_libc.shmat(_libc.shmget(0, 4096, 0o1600), None, 0))"
    ),
    "the ring of asynchronous reads": (
        "ring = ctypes.c_ulong(0)\n"
        "number = 206 if os.uname().machine == 'x86_64' else 0\n"
        "assert _libc.syscall(number, 8, ctypes.byref(ring)) == 0\n"
        "kept = (ctypes.c_char * 4096).from_address(ring.value)"
    ),
}


def whisper(host: HostProcess, prepare: str, say: str, hear: str, cls: str = "Attacker") -> object:
    """Has one fork say something and another listen. Returns what it heard, or the code of the refusal."""
    box = host.spawn(cls)
    common = "import __main__ as m\nglobals().update(vars(m).get('held', {}))\n"
    keep = "\nm.held = {k: v for k, v in globals().items() if not k.startswith('__')}\nresult = 0"
    box.attack(TAKEN_OVER + common + prepare + keep)
    try:
        speaker, hearer = box.fork(2)
    except Refused as refused:
        return refused.code
    speaker.attack(common + say + "\nresult = 0")
    return hearer.attack(common + hear)


@pytest.mark.parametrize("what", WAYS)
def test_forks_cannot_talk_through_what_their_origin_had_open(
    host: HostProcess, other: Target, what: str
) -> None:
    assert whisper(host, *WAYS[what]) == "guest.protocol"
    assert other.answers()


@pytest.mark.parametrize("what", WAYS)
def test_forks_that_close_all_of_it_have_nothing_of_it_under_another_number(
    host: HostProcess, what: str
) -> None:
    prepare, say, hear = WAYS[what]
    tries = f"def say():\n    {say}\nattempt(say)"
    try:
        heard = whisper(host, CLOSES + prepare, tries, hear)
    except Refused as refused:
        heard = refused.code
    assert heard not in (b"psst", "guest.protocol")


@pytest.mark.parametrize("what", SHARED)
def test_forks_cannot_talk_through_memory_that_their_origin_mapped(
    host: HostProcess, other: Target, what: str
) -> None:
    if "asynchronous" in what and os.uname().machine != "x86_64":
        pytest.skip("the number of the call is another on this processor")
    blind = "modules['openfiles']._shared_mappings = lambda: []\nlater = lambda: 0\n"
    say = "later(); kept[100:104] = b'psst'"
    heard = whisper(host, CLOSES + blind + SHARED[what], say, "later(); result = bytes(kept[100:104])")
    assert heard == "guest.protocol"
    assert other.answers()


@pytest.mark.parametrize("what", [name for name in SHARED if "looks" not in name and "ring" not in name])
def test_an_honest_runner_says_that_shared_memory_cannot_be_forked(box: Target, what: str) -> None:
    box.attack("import mmap, sys\n" + SHARED[what] + "\nsys.modules['__main__'].kept = kept; result = 0")
    refused = refusal(box.fork)
    assert refused is not None
    assert refused.code == "fork.not_live"
    assert "shared memory" in refused.message


def test_memory_of_a_file_that_nobody_can_write_is_no_obstacle(box: Target) -> None:
    code = """
import mmap
fd = os.open('/usr/bin/env', os.O_RDONLY)
sys.modules['__main__'].kept = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
os.close(fd)
result = 0
"""
    box.attack(code)
    (fork,) = box.fork()
    assert fork.attack("result = sys.modules['__main__'].kept[:4]") == b"\x7fELF"


def test_a_fork_cannot_stand_in_a_directory_of_its_origin(host: HostProcess) -> None:
    """In a /proc of its origin's, say, where it would see its siblings."""
    stay = CLOSES + "change = os.chdir\nos.chdir = lambda path: change('/proc') if path == '/' else None"
    heard = whisper(host, stay, "", "result = sorted(n for n in os.listdir('.') if n.isdigit())")
    assert heard == "guest.protocol"


def test_a_fork_cannot_stay_in_the_session_of_its_origin(host: HostProcess) -> None:
    """Where a terminal of the origin's would be everybody's."""
    stay = (
        CLOSES
        + """
attempt(os.setsid)
inside = os.open(os.ttyname(os.openpty()[1]), os.O_RDWR)
attempt(fcntl.ioctl, inside, 0x540E, 0)
os.setsid = lambda: None
"""
    )
    say = "import termios\nfd = os.open('/dev/tty', os.O_RDWR)\nfcntl.ioctl(fd, termios.TIOCSWINSZ, b'psst0000')"
    hear = (
        "import termios\nfd = os.open('/dev/tty', os.O_RDWR)\n"
        "result = fcntl.ioctl(fd, termios.TIOCGWINSZ, b'00000000')[:4]"
    )
    assert whisper(host, stay, say, hear) == "guest.protocol"


def test_a_fork_cannot_put_another_socket_in_the_place_of_its_own(host: HostProcess, other: Target) -> None:
    swap = """
kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
write = os.write
def swapping(fd, data):
    if data != b'\\xa4bare':
        return write(fd, data)
    aside = os.dup(3)
    os.dup2(kept[0].fileno(), 3)
    for n in range(100):
        if n not in (3, aside):
            attempt(os.close, n)
    write(aside, data)
    os.close(aside)
    return 5
os.write = swapping
"""
    assert whisper(host, swap, "", "result = 0") in ("guest.protocol", "instance.ended")
    assert other.answers()


@pytest.mark.parametrize("signum", ["SIGUSR1", "SIGKILL", "SIGSTOP"])
def test_signals_to_its_process_group_reach_no_other_box(host: HostProcess, signum: str) -> None:
    """Which every fork would be in that did not leave it. A signal sent so asks no PID namespace."""
    box = host.spawn()
    box.attack("result = 0")
    fork, sibling = box.fork(2)
    others = [sibling, host.spawn()]
    numbers = f"living[{others[0].number}], living[{others[1].number}]"
    host.here(
        "import threading\n"
        f"boxes = [{numbers}]\nos.told = []\n"
        "def work(box):\n"
        "    try:\n"
        "        os.told.append(box.run('import time; time.sleep(1.5); result = 7'))\n"
        "    except BaseException as error:\n"
        "        os.told.append(repr(error))\n"
        "os.threads = [threading.Thread(target=work, args=(box,)) for box in boxes]\n"
        "[thread.start() for thread in os.threads]"
    )
    code = f"""
import signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
for _ in range(20):
    os.kill(0, signal.{signum})
    time.sleep(0.02)
result = 0
"""
    refusal(fork.attack, code)
    told = host.here("[thread.join(20) for thread in os.threads]; result = os.told")
    assert told == ["7", "7"]


def test_what_it_was_forked_from_holds_nothing_but_its_socket_to_the_warden(host: HostProcess) -> None:
    """Its log is not there to be written to, nor the channel of whom it was."""
    if os.geteuid() != 0:
        pytest.skip("only root sees what another's processes have open")
    box = host.spawn()
    box.attack("print('mine', flush=True); result = 0")
    before = set(host.descendants())
    forks = box.fork(2)
    # Whose channel is none: the states that it descends from are like it.
    origin = [pid for pid in before if len(_open(pid)) == 5 and not _open(pid)["4"].startswith("socket:")]
    assert origin
    for pid in origin:
        links = _open(pid)
        assert set(links) == {"0", "1", "2", "3", "4"}
        assert all(links[number] in ("/", "/dev/null") for number in "0124"), links
    assert all(fork.answers() for fork in forks)
    assert box.answers()


def _open(pid: int) -> dict[str, str]:
    try:
        return {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def test_a_copy_of_a_box_is_not_led_out_of_its_tree(host: HostProcess) -> None:
    """By a program that puts links in the way of who copies."""
    box = host.spawn()
    code = """
import subprocess
program = '''
import os
os.makedirs('/work/way/in', exist_ok=True)
open('/work/way/in/file', 'w').write('mine')
while True:
    os.rename('/work/way/in', '/work/way/aside')
    os.symlink('/', '/work/way/in')
    os.unlink('/work/way/in')
    os.rename('/work/way/aside', '/work/way/in')
'''
sys.modules['__main__'].program = subprocess.Popen(['/usr/bin/python3', '-c', program])
result = 0
"""
    box.attack(code)
    for _ in range(10):
        (fork,) = box.fork(live="prefer")
        out, _, _ = fork.exec(["sh", "-c", "find /work -type f -exec cat {} +; ls /work/way"])
        assert set(out.replace("mine", "").split()) <= {"in", "aside"}
        fork.destroy()


#: A runner that reads and writes its forks' memory: the kernel gives whoever made a user namespace every right in it.
BRIDGE = (
    CLOSES
    + """
import _thread
kept = ctypes.create_string_buffer(8)
pids = []
class Piece(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
def bridge():
    here = ctypes.create_string_buffer(8)
    local, remote = Piece(ctypes.addressof(here), 8), Piece(ctypes.addressof(kept), 8)
    while True:
        for pid in pids:
            read = _libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
            if read == 8 and here.raw[:1] != b'\\0':
                for other in pids:
                    _libc.process_vm_writev(other, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        time.sleep(0.001)
clone = modules['kernel'].clone
def bridging(flags):
    pid = clone(flags)
    if pid > 0:
        pids.append(pid)
        if len(pids) == 2:
            START
    return pid
modules['kernel'].clone = bridging
"""
)
HELPERS = {
    "a thread": "_thread.start_new_thread(bridge, ())",
    "a program of its own": "os.fork() or bridge()",
    "a program that has left it": "os.fork() or ((os.fork() or bridge()) and os._exit(0))",
}


@pytest.mark.parametrize("how", HELPERS)
def test_what_forks_descend_from_does_nothing_while_they_run(
    host: HostProcess, other: Target, how: str
) -> None:
    try:
        heard = whisper(
            host,
            BRIDGE.replace("START", HELPERS[how]),
            "kept.value = b'psst'",
            "time.sleep(0.3); result = kept.value",
        )
    except Refused as refused:
        heard = refused.code
    assert heard in (b"", "action.exited", "instance.ended", "guest.protocol")
    assert other.answers()


def test_a_cached_state_carries_no_word_between_what_is_spawned_from_it(host: HostProcess) -> None:
    speaker, hearer = host.spawn("Relay"), host.spawn("Relay")
    speaker.attack("import __main__ as m\nm.kept.value = b'psst'\nresult = 0")
    assert hearer.attack("import __main__ as m\ntime.sleep(0.3)\nresult = m.kept.value") == b""
    assert speaker.answers()


def test_a_fork_that_waits_for_whoever_asks_has_its_limits_already(host: HostProcess, other: Target) -> None:
    for _ in range(4):
        box = host.spawn("Early")
        assert 0 < box.attack("import __main__ as m\nresult = m.started") < 64
    assert other.answers()


def test_what_boxes_are_forked_from_stands_still(host: HostProcess) -> None:
    """Traced by the warden, at the one call that it may make; its forks are not."""
    box = host.spawn()
    box.attack("result = 0")
    forks = box.fork(2)
    parents, traced = {}, set()
    for pid in host.descendants():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            told = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if told["Name"] == "kibo-guest":
                parents[pid] = int(told["PPid"])
                traced |= {pid} if told["TracerPid"] != "0" else set()
    forked_from = set(parents.values()) & set(parents)
    assert len(forked_from) >= 2
    assert forked_from <= traced
    assert len(parents) - len(traced) >= 2
    assert all(fork.answers() for fork in forks)
