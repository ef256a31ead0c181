"""A guest that lies: what it writes into the sockets that lead out must harm nobody but itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from security.attack import HostProcess, Refused, Target, refusal

SOCKETS = """
import array, fcntl, pickle, random, struct
found = []
for name in os.listdir('/proc/self/fd'):
    try:
        if os.readlink('/proc/self/fd/' + name).startswith('socket:'):
            found.append(socket.socket(fileno=os.dup(int(name))))
    except OSError:
        continue
channels = [s for s in found if s.type == socket.SOCK_STREAM]
controls = [s for s in found if s.type == socket.SOCK_SEQPACKET]
for s in found:
    s.setblocking(True)
"""

FRAME = """
def frame(body):
    channels[0].sendall(struct.pack('<I', len(body)) + body)
"""
WAIT = "\ntime.sleep(30)"

FRAMES = {
    "random bytes": "channels[0].send(random.Random(7).randbytes(4096)); os._exit(0)",
    "a frame that announces four gigabytes": "channels[0].send(b'\\xff' * 4 + b'x' * 1024)" + WAIT,
    "a frame of the largest size, never finished": (
        "channels[0].send(struct.pack('<I', 16 << 20) + b'x' * 1024)" + WAIT
    ),
    "an empty frame": "frame(b'')" + WAIT,
    "half of a length": "channels[0].send(b'\\x01\\x00'); os._exit(0)",
    "nesting without end": "frame(b'\\x91' * 1000000 + b'\\x90')" + WAIT,
    "an array that claims four thousand million items": "frame(b'\\xdd\\xff\\xff\\xff\\xff')" + WAIT,
    "a string that claims four gigabytes": "frame(b'\\xdb\\xff\\xff\\xff\\xff')" + WAIT,
    "a number where a list belongs": "frame(b'\\x07')" + WAIT,
    "a list of the wrong things": "frame(b'\\x93\\xc0\\xc0\\xc0')" + WAIT,
    "an answer to a call never made": "frame(b'\\x93\\xa2ok\\xcd\\x7f\\xff\\xa1x')" + WAIT,
    "words nobody knows": "frame(b'\\x93\\xa4evil\\x01\\xa1x')" + WAIT,
    "silence after closing its end": "channels[0].shutdown(socket.SHUT_RDWR)" + WAIT,
    "items without end": """
body = b'\\x93\\xa4item\\x01\\xa1x'
data = (struct.pack('<I', len(body)) + body) * 1000
end = time.monotonic() + 20
while time.monotonic() < end:
    channels[0].sendall(data)
""",
    "bytes without end": "while True:\n    channels[0].sendall(b'\\xff' * 65536)",
}

BROKEN = (
    "guest.protocol",
    "action.exited",
    "action.timeout",
    "action.result",
    "instance.ended",
    "runtime.lost",
    "guest.frame_too_large",
)


def memory_kib(host: HostProcess) -> int:
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize("what", FRAMES)
def test_a_guest_that_answers_with_nonsense_ends_alone(host: HostProcess, other: Target, what: str) -> None:
    box = host.spawn("Bounded")
    box.answers()
    before, began = memory_kib(host), time.monotonic()
    with pytest.raises(Refused) as caught:
        box.attack(SOCKETS + FRAME + FRAMES[what], timeout_s=20)
    assert caught.value.code in BROKEN, caught.value
    assert time.monotonic() - began < 15
    assert memory_kib(host) - before < 64 * 1024
    assert other.answers()
    assert host.spawn().answers()


def test_a_guest_that_broke_the_protocol_is_not_asked_again(host: HostProcess) -> None:
    box = host.spawn("Bounded")
    with pytest.raises(Refused):
        box.attack(SOCKETS + FRAME + FRAMES["a list of the wrong things"])
    with pytest.raises(Refused) as caught:
        box.answers()
    assert caught.value.code in BROKEN


def test_a_pickle_from_a_guest_is_never_loaded(host: HostProcess, as_user: Path, other: Target) -> None:
    mark = as_user / "state" / "pwned"
    box = host.spawn("Bounded")
    code = f"""
class Evil:
    def __reduce__(self):
        return (os.system, ('touch {mark}',))
for protocol in range(5):
    body = pickle.dumps(Evil(), protocol)
    for data in (body, b'\\x93\\xa2ok\\x01\\xc6' + struct.pack('>I', len(body)) + body):
        channels[0].sendall(struct.pack('<I', len(data)) + data)
time.sleep(30)
"""
    with pytest.raises(Refused):
        box.attack(SOCKETS + code)
    assert other.answers()
    assert not mark.exists()


def test_a_result_of_another_type_is_an_error_and_no_value(host: HostProcess) -> None:
    box = host.spawn("Bounded")
    with pytest.raises(Refused) as caught:
        host.ask(
            do="run", box=box.number, code="class Odd:\n    def __repr__(self): return 7\nresult = Odd()"
        )
    assert caught.value.code in ("action.result", "action.raised")


def test_a_huge_result_is_an_error_and_no_memory(host: HostProcess, other: Target) -> None:
    box = host.spawn("Bounded")
    before = memory_kib(host)
    with pytest.raises(Refused) as caught:
        box.attack("result = 'x' * (64 << 20)")
    assert caught.value.code in (*BROKEN, "action.raised")
    assert memory_kib(host) - before < 64 * 1024
    assert other.answers()


def test_a_huge_traceback_is_cut(host: HostProcess) -> None:
    box = host.spawn("Bounded")
    with pytest.raises(Refused) as caught:
        box.attack("raise ValueError('x' * (8 << 20))")
    assert caught.value.code == "action.raised"
    assert len(caught.value.message) < 1 << 20


COMMANDS = {
    "random bytes": "for n in range(200): controls[0].send(random.Random(n).randbytes(1 + n * 7))",
    "words of the protocol": """
for word in (b'\\xa2in', b'\\xa3out', b'\\xa8listener', b'\\xc0', b'\\xa4fork'):
    controls[0].send(word)
""",
    "lists and maps": """
for body in (b'\\x90', b'\\x80', b'\\x92\\xa4fork\\xc0', b'\\x81\\xa4kind\\xa4fork'):
    controls[0].send(body)
""",
    "descriptors by the hundred": """
null = array.array('i', [os.open('/dev/null', os.O_RDONLY)] * 253)
for n in range(50):
    try:
        controls[0].sendmsg([b'\\xc0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, null)])
    except OSError:
        break  # the kernel bounds what one user has under way
""",
    "a flood": """
end = time.monotonic() + 2
controls[0].setblocking(False)
while time.monotonic() < end:
    try:
        controls[0].send(b'\\xc0' * 4096)
    except BlockingIOError:
        pass
""",
    "the end": "controls[0].shutdown(socket.SHUT_RDWR)",
}


def open_descriptors(host: HostProcess) -> int:
    """Counts the descriptors of the user's process and of everything below it that is not in a box."""
    total = 0
    for pid in (host.process.pid, *host.descendants()):
        try:
            total += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (FileNotFoundError, PermissionError):
            continue
    return total


@pytest.mark.parametrize("what", COMMANDS)
def test_a_guest_that_tells_the_warden_nonsense_harms_no_other_box(
    host: HostProcess, other: Target, what: str
) -> None:
    box = host.spawn("Bounded")
    assert box.answers()
    before = open_descriptors(host)
    refused = refusal(box.attack, SOCKETS + COMMANDS[what] + "\nresult = 1", timeout_s=20)
    assert refused is None or refused.code in BROKEN, refused
    assert other.answers()
    assert host.spawn().answers()
    refused = refusal(box.destroy)
    assert refused is None or refused.code in BROKEN, refused
    time.sleep(0.5)
    assert open_descriptors(host) <= before + 16
    assert other.exec(["true"])[2] == 0


def test_a_guest_that_never_answers_is_ended_by_the_actions_timeout(host: HostProcess, other: Target) -> None:
    box = host.spawn("Bounded")
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        box.attack(
            "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)"
        )
    assert caught.value.code in ("action.timeout", "action.exited")
    assert time.monotonic() - began < 10
    assert other.answers()


def test_a_box_that_stops_what_serves_it_is_an_error_in_time(host: HostProcess, other: Target) -> None:
    box = host.spawn("Bounded")
    box.exec(["true"])
    box.attack(
        "import signal\nown = {1, os.getpid()}\n"
        "for name in os.listdir('/proc'):\n"
        "    if name.isdigit() and int(name) not in own: attempt(os.kill, int(name), signal.SIGSTOP)\nresult = 1"
    )
    began = time.monotonic()
    refused = refusal(box.exec, ["true"], timeout_s=3)
    assert refused is None or refused.code in (*BROKEN, "exec.timeout"), refused
    assert time.monotonic() - began < 10
    assert other.exec(["true"])[2] == 0
    box.destroy()


def test_a_box_that_kills_what_serves_it_loses_nothing_but_that(host: HostProcess) -> None:
    box = host.spawn("Bounded")
    box.exec(["true"])
    box.attack(
        "import signal\nfor name in os.listdir('/proc'):\n"
        "    if name.isdigit() and int(name) > 1: attempt(os.kill, int(name), signal.SIGKILL)\nresult = 1"
    )
    refused = refusal(box.exec, ["true"], timeout_s=5)
    assert refused is None or refused.code in BROKEN or refused.kind == "Unavailable", refused
    assert box.exec(["true"], timeout_s=5)[2] == 0
    assert box.answers()


FILES = {
    "endless": "os.symlink('/dev/zero', '/tmp/read')",
    "enormous and empty": "open('/tmp/read', 'w').truncate(1 << 40)",
    "a pipe that nobody writes to": "os.mkfifo('/tmp/read')",
    "a terminal": "os.symlink('/dev/ptmx', '/tmp/read')",
    "a process's memory": "os.symlink('/proc/self/mem', '/tmp/read')",
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_not_what_it_seems_costs_the_host_nothing(
    host: HostProcess, other: Target, as_user: Path, what: str
) -> None:
    box = host.spawn("Bounded")
    box.attack(FILES[what] + "\nresult = 1")
    before = memory_kib(host)
    began = time.monotonic()
    refused = refusal(host.ask, do="read", box=box.number, path="/tmp/read")
    assert refused is not None or what == "a pipe that nobody writes to"
    assert refused is None or refused.kind not in ("MemoryError", "OverflowError"), refused
    assert time.monotonic() - began < 20
    assert memory_kib(host) - before < 128 * 1024
    assert other.answers()


def test_a_log_that_claims_to_be_enormous_costs_the_host_nothing(host: HostProcess, other: Target) -> None:
    box = host.spawn("Bounded")
    box.attack("print('begin', flush=True); os.ftruncate(1, 1 << 40); result = 1")
    before = memory_kib(host)
    assert host.ask(do="logs", box=box.number) < 128 << 20
    assert memory_kib(host) - before < 512 * 1024
    assert other.answers()


def test_a_command_whose_output_has_no_end_is_stopped(host: HostProcess, other: Target) -> None:
    box = host.spawn("Bounded")
    before = memory_kib(host)
    refused = refusal(box.exec, ["sh", "-c", "yes | head -c 300000000"], timeout_s=15)
    assert refused is not None
    assert refused.kind != "MemoryError"
    assert memory_kib(host) - before < 400 * 1024
    assert other.answers()
