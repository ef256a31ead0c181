"""A box that may call out, and does so with bad intent: it harms nobody, and reaches nothing but its own."""

from __future__ import annotations

from typing import Any

import pytest

from security.attack import HostProcess, Target

#: How a program speaks at the doorway, with nothing of Kibo's but the form of a frame.
SPEAK = """
import json, struct, threading
import msgspec
PATH = '/dev/kibo/box.sock'

def connect():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(PATH)
    return sock

def frame(message):
    body = msgspec.msgpack.encode(message)
    return struct.pack('<I', len(body)) + body

def answer(sock):
    'Reads one answer: what it says, or that the connection has ended.'
    data = b''
    try:
        while len(data) < 4 or len(data) < 4 + struct.unpack('<I', data[:4])[0]:
            more = sock.recv(65536)
            if not more:
                return ['end', None]
            data += more
    except ConnectionError:
        return ['end', None]
    return msgspec.msgpack.decode(data[4:])

def told(sock):
    kind, value = answer(sock)
    return value['code'] if kind == 'error' else kind

def ask(verb, **arguments):
    with connect() as sock:
        sock.sendall(frame([verb, arguments]))
        return answer(sock)

def refused(verb, **arguments):
    kind, value = ask(verb, **arguments)
    return value['code'] if kind == 'error' else kind
"""


@pytest.fixture
def caller(host: HostProcess) -> Target:
    """A box of the attacker's that may call out."""
    return host.spawn("Caller")


def attack(box: Target, code: str) -> Any:
    return box.attack(SPEAK + code)


def still_answered(box: Target) -> bool:
    return bool(box.answers() and attack(box, "result = ask('who')[0] == 'ok'"))


def test_a_box_without_a_right_has_no_socket_and_cannot_make_the_place_its_own(box: Target) -> None:
    found = attack(
        box,
        """
result = [os.listdir('/dev/kibo'), attempt(connect), attempt(open, '/dev/kibo/box.sock', 'w'),
          attempt(os.symlink, '/tmp/x', '/dev/kibo/box.sock'), attempt(os.rename, '/dev/kibo', '/dev/other')]
""",
    )
    assert found[0] == []
    assert found[1] == "ENOENT"
    assert all(each in ("EROFS", "EACCES", "EPERM", "EBUSY") for each in found[2:])


@pytest.mark.parametrize("kind", ["Caller", "RootCaller"])
def test_nobody_in_a_box_can_put_another_socket_in_the_place_of_its_own(host: HostProcess, kind: str) -> None:
    box = host.spawn(kind)
    found = attack(
        box,
        """
def bind():
    socket.socket(socket.AF_UNIX).bind('/dev/kibo/other.sock')
result = [attempt(os.unlink, PATH), attempt(os.rename, PATH, '/tmp/box.sock'), attempt(bind),
          attempt(os.rename, '/dev/kibo', '/dev/mine'), attempt(os.rmdir, '/dev/kibo'),
          syscall('umount2', ctypes.c_char_p(b'/dev/kibo'), 2), attempt(os.link, PATH, '/dev/shm/box.sock')]
""",
    )
    assert all(each in ("EROFS", "EACCES", "EPERM", "EBUSY", "EXDEV") for each in found), found
    assert still_answered(box)


def test_a_box_cannot_reach_the_socket_of_another_by_any_name(caller: Target, host: HostProcess) -> None:
    other = host.spawn("Caller")
    name = attack(other, "result = ask('who')[1]['id']")
    found = attack(
        caller,
        f"""
def connect_to(name):
    socket.socket(socket.AF_UNIX).connect(name)
names = ['/dev/kibo/{name}.sock', '/dev/kibo/../../{name}/dev/kibo/box.sock', '/proc/1/root/../dev/kibo/box.sock/..',
         '\\0/dev/kibo/box.sock', '\\0kibo', '\\0{name}', '/proc/self/fd/3/box.sock', '/kibo/dev/kibo/box.sock']
result = [attempt(connect_to, name) for name in names] + [ask('who')[1]['id']]
""",
    )
    assert all(isinstance(each, str) and each.startswith("E") for each in found[:-1]), found
    assert found[-1] != name


def test_what_the_socket_says_it_is_bound_to_tells_nothing_that_can_be_reached(caller: Target) -> None:
    found = attack(
        caller,
        """
with connect() as sock:
    name = sock.getpeername()
    credentials = struct.unpack('3i', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
def connect_to(name):
    socket.socket(socket.AF_UNIX).connect(name)
result = [attempt(connect_to, name), credentials[0]]
""",
    )
    assert found[0] in ("ENOENT", "ENOTDIR", "EACCES")
    assert found[1] == 0  # whoever listens is in no PID namespace that the box could name


FRAMES = {
    "random bytes": "import random; data = random.Random(7).randbytes(4096)",
    "a length of four gigabytes": "data = b'\\xff' * 4 + b'x' * 1024",
    "one byte more than a call may have": "data = struct.pack('<I', (1 << 20) + 1) + b'x' * 64",
    "nesting without end": "body = b'\\x91' * 500000 + b'\\x90'; data = struct.pack('<I', len(body)) + body",
    "an array of four thousand million": "data = struct.pack('<I', 5) + b'\\xdd\\xff\\xff\\xff\\xff'",
    "a pickle": "import pickle; body = pickle.dumps(print); data = struct.pack('<I', len(body)) + body",
    "two calls at once": "data = frame(['who', {}]) * 2",
    "a number": "data = frame(7)",
    "a call without arguments": "data = frame(['who'])",
    "arguments that are no map": "data = frame(['who', [1]])",
    "a verb that is no text": "data = frame([b'who', {}])",
    "a verb of the server's own": "data = frame(['__class__', {}])",
    "an argument nobody knows": "data = frame(['who', {'id': 'inst_1'}])",
    "an argument of another type": "data = frame(['spawn', {'box': ['Worker']}])",
    "parameters with a name of Python's": "data = frame(['spawn', {'box': 'Worker', 'parameters': {'self': 1}}])",
    "a parameter of another type": "data = frame(['spawn', {'box': 'Worker', 'parameters': {'count': 'x'}}])",
    "a huge name": "data = frame(['spawn', {'box': 'x' * 100000}])",
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_no_call_is_refused_and_the_next_one_is_answered(caller: Target, name: str) -> None:
    said = attack(
        caller,
        FRAMES[name]
        + """
with connect() as sock:
    sock.sendall(data)
    if name_of_test == 'random bytes':
        sock.shutdown(socket.SHUT_WR)
    result = told(sock)
""".replace("name_of_test", repr(name)),
    )
    assert said in ("input.invalid", "box.definition", "policy.denied", "end"), said
    assert said != "end" or name == "random bytes"
    assert still_answered(caller)


def test_a_box_that_never_reads_its_answers_or_ends_its_calls_keeps_no_other_waiting(
    caller: Target, host: HostProcess
) -> None:
    other = host.spawn("Caller")
    refused = attack(
        caller,
        """
half, unread = [], []
for _ in range(4):
    half.append(connect()); half[-1].sendall(b'\\x10')
for _ in range(4):
    unread.append(connect()); unread[-1].sendall(frame(['spawn', {'box': 'Worker'}])[:-1])
with connect() as sock:
    result = told(sock)
import builtins
builtins.kept = half, unread
""",
    )
    assert refused == "limit"
    assert still_answered(other)
    attack(caller, "import builtins; [sock.close() for each in builtins.kept for sock in each]")
    found = attack(
        caller,
        """
deadline = time.monotonic() + 20
while refused('who') != 'ok' and time.monotonic() < deadline:
    time.sleep(0.02)
result = refused('who')
""",
    )
    assert found == "ok"


def test_a_flood_of_connections_is_let_in_at_its_rate_and_others_are_answered(
    caller: Target, host: HostProcess
) -> None:
    other = host.spawn("Caller")
    flood = "\n".join(
        (
            "import socket, sys, time",
            "end = time.monotonic() + 4",
            "while time.monotonic() < end:",
            "    s = socket.socket(socket.AF_UNIX); s.settimeout(1)",
            "    try: s.connect('/dev/kibo/box.sock')",
            "    except OSError: pass",
            "    s.close()",
        )
    )
    caller.attack(
        f"import subprocess; subprocess.Popen([sys.executable, '-IS', '-c', {flood!r}]); result = None"
    )
    for _ in range(5):
        assert still_answered(other)
        another = host.spawn("Caller")
        assert still_answered(another)
        another.destroy()
    assert caller.answers()


def test_calls_beyond_the_quota_are_refused_and_say_so(host: HostProcess) -> None:
    box = host.spawn("SlowCaller")
    found = attack(box, "result = [refused('progress', value=1) for _ in range(8)]")
    assert found[:5] == ["ok"] * 5
    assert "limit" in found[5:]


def test_instances_and_branches_beyond_the_quota_are_refused_however_they_are_made(caller: Target) -> None:
    found = attack(
        caller,
        """
threads, said = [], []
def spawn():
    said.append(refused('spawn', box='Worker'))
for _ in range(6):
    threads.append(threading.Thread(target=spawn)); threads[-1].start()
[thread.join() for thread in threads]
begun = ask('begin')
result = [said.count('ok'), set(said), refused('spawn_in', branch=begun[1]['id'], box='Worker'),
          refused('fork', branch=begun[1]['id'], n=3), refused('fork', branch=begun[1]['id'], n=2),
          refused('begin')]
""",
    )
    # What is being made counts until it is there, so that of several at once one may be refused too many.
    assert 1 <= found[0] <= 3
    assert found[1] <= {"ok", "limit"}
    assert found[3:] == ["limit", "ok", "limit"]


def test_a_box_that_may_not_spawn_a_definition_cannot_name_it(caller: Target) -> None:
    found = attack(
        caller,
        "names = ('Attacker', 'Root', '../Worker', 'worker', '', 'Worker\\0')\n"
        "result = [refused('spawn', box=name) for name in names]",
    )
    assert found == ["policy.denied"] * 6


def test_a_siblings_names_and_those_of_any_other_mean_nothing(caller: Target) -> None:
    made = attack(
        caller,
        """
begun = ask('begin')[1]['id']
spawned = ask('spawn', box='Worker')[1]['of']
result = [begun, spawned, ask('who')[1]['id']]
""",
    )
    sibling = caller.fork(1)[0]
    found = attack(
        sibling,
        f"""
begun, spawned, origin = {made!r}
result = [refused('call', of=spawned, action='add'), refused('exec', of=spawned, command='true'),
          refused('call', of=[begun, 'Worker'], action='add'), refused('commit', branch=begun),
          refused('abort', branch=begun), refused('fork', branch=begun), refused('end', of=begun),
          refused('end', of=spawned), refused('call', of=origin, action='run', args=['']),
          ask('who')[1]['id'] not in made if (made := {made!r}) else None]
""",
    )
    assert found == ["missing"] * 6 + ["ok", "ok", "missing", True]
    assert attack(caller, f"result = refused('call', of={made[1]!r}, action='add')") == "ok"


def test_a_fork_cannot_go_on_with_a_connection_of_its_origin(caller: Target) -> None:
    attack(
        caller,
        "import builtins; builtins.kept = connect(); builtins.kept.sendall(frame(['who', {}])[:-1]); result = None",
    )
    fork = caller.fork(1)[0]
    speak = """
import builtins
def go_on():
    builtins.kept.sendall(frame(['who', {}])[-1:])
    return answer(builtins.kept)
result = [attempt(go_on), ask('who')[1]['id']]
"""
    theirs, mine = attack(fork, speak), attack(caller, speak)
    assert theirs[0] in ("ENOTCONN", "EPIPE", ["end", None])
    assert mine[0] in ("ENOTCONN", "EPIPE", ["end", None])
    assert theirs[1] != mine[1]


def test_descriptors_that_a_box_sends_along_are_not_taken(caller: Target, host: HostProcess) -> None:
    before = host.ask(do="host", code="result = len(os.listdir('/proc/self/fd'))")
    attack(
        caller,
        """
for _ in range(20):
    with connect() as sock:
        data = frame(['who', {}])
        socket.send_fds(sock, [data], [0] * 16)
        assert answer(sock)[0] == 'ok'
result = None
""",
    )
    after = host.ask(do="host", code="result = len(os.listdir('/proc/self/fd'))")
    assert after <= before + 2


def test_the_error_of_a_call_tells_nothing_of_the_host(caller: Target, host: HostProcess) -> None:
    told = attack(
        caller,
        "result = [ask('spawn', box='Worker', parameters={'count': 'x'}), ask('nothing'), ask('commit')]",
    )
    assert all(kind == "error" for kind, _ in told)
    assert str(host.secret) not in repr(told)
    assert "/state" not in repr(told)
    assert "/home" not in repr(told)
