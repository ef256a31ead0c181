"""Any protocol through the gateway, from boxes: programs that know no proxy, and programs that know SOCKS."""

import importlib.util
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import databases
from kibo import Allow, Box, Env, Service
from kibo.branch.branch import Branch
from kibo.runtime.instance import Instance
from talker_boxes import TOOLS, Querier, Talker

pytestmark = pytest.mark.runtime


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"echo: " + self.rfile.read())


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def talker(echo: str) -> type[Talker]:
    class LocalTalker(Talker):
        egress = [Allow("echo.example:7", to=echo, tcp=True)]

    return LocalTalker


def await_log(box: Instance, text: str) -> str:
    """The log's line may come a moment after the program has been told."""
    deadline = time.monotonic() + 10
    while text not in (said := box.logs()):
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    return said


def test_a_program_reaches_a_host_by_its_name_and_port_from_launch_on_and_so_does_each_fork(
    talker: type[Talker],
) -> None:
    with talker().spawn() as box:
        assert box.say("one") == ["echo: launch\n", "echo: one\n"]
        (fork,) = box.fork(1)
        with fork:
            assert fork.say("two")[1] == "echo: two\n"
        assert box.say("three")[1] == "echo: three\n"
        assert box.exec("getent hosts echo.example").stdout.split() == ["127.77.0.1", "echo.example"]
        assert box.exec("getent hosts localhost").returncode == 0
        assert box.outcome("echo.example", 8) == "ConnectionRefusedError"
        assert box.outcome("other.example", 7) == "gaierror"


def test_a_port_of_the_same_number_is_free_for_the_boxs_own_servers(echo: str) -> None:
    program = "import socket\ns = socket.create_server(('127.0.0.1', 7000))\nwhile True: s.accept()[0].sendall(b'own')"

    class Serving(Box):
        """Serves what it reaches outside, too."""

        env = Env(services=[Service("own", ["python3", "-c", program], ready="tcp:7000")])
        egress = [Allow("echo.example:7000", to=echo, tcp=True), Allow("host.kibo:7000", tcp=True)]

    read = "import socket, sys; c = socket.create_connection((sys.argv[1], 7000), 5); c.shutdown(1); print(c.recv(99))"
    with Serving().spawn() as box:
        assert box.exec(["python3", "-c", read, "localhost"]).stdout == "b'own'\n"
        assert box.exec(["python3", "-c", read, "echo.example"]).stdout == "b'echo: '\n"
        # The machine has nobody at that port, and the box is not sent to itself.
        assert "ConnectionResetError" in box.exec(["python3", "-c", read, "host.kibo"]).stderr
        assert "host.kibo cannot be reached: Connection refused." in await_log(box, "\n")


def test_a_part_of_a_sum_brings_its_host_along(talker: type[Talker], echo: str) -> None:
    class Other(Box):
        """Reaches another."""

        egress = [Allow("second.example:9", to=echo, tcp=True)]

    with (talker() + Other()).spawn() as box:
        assert box.say("x", "second.example", 9) == ["echo: launch\n", "echo: x\n"]
        assert box.say("y") == ["echo: launch\n", "echo: y\n"]


def test_a_box_without_such_a_rule_has_no_such_port_and_no_such_name(echo: str) -> None:
    class Web(Box):
        """Reaches a site."""

        egress = [Allow("echo.example", to=echo)]

    probe = "import socket; socket.create_connection(('127.77.0.1', 7), timeout=3)"
    for box in (Box(), Web()):
        with box.spawn() as running:
            assert "ConnectionRefusedError" in running.exec(["python3", "-c", probe]).stderr
            assert running.exec("getent hosts echo.example").returncode != 0


def test_what_is_refused_is_said_in_the_log_of_the_box(talker: type[Talker]) -> None:
    with talker().spawn() as box:
        box.exec(["curl", "-sS", "http://elsewhere.example/"])
        box.exec(["curl", "-sS", "-x", "socks5h://127.0.0.1:3128", "telnet://db.example:5432"])
        lines = await_log(box, "db.example").splitlines()
        assert 'add Allow("elsewhere.example:80") to the `egress`' in lines[-2]
        assert 'Allow("db.example:5432", tcp=True)' in lines[-1]
        (fork,) = box.fork(1)
        with fork:
            fork.exec(["curl", "-sS", "http://fork.example/"])
            assert "fork.example" in await_log(fork, "fork.example")
        box.exec(["curl", "-sS", "http://after.example/"])
        assert "after.example" in await_log(box, "after.example")
        assert "fork.example" not in box.logs()


def test_in_a_fork_of_a_branch_what_nobody_can_look_into_is_refused_unless_it_reads(
    main: Branch, talker: type[Talker], echo: str
) -> None:
    class Reading(Talker):
        egress = [Allow("echo.example:7", to=echo, tcp=True, effect="read")]

    unsure, reading = main.spawn(talker()), main.spawn(Reading())
    assert unsure.outcome() == reading.outcome() == "echo: now\n"
    (fork,) = main.fork(1)
    assert fork[unsure].outcome() == "ConnectionResetError"
    assert 'Allow("echo.example:7", tcp=True, effect="read")' in await_log(
        fork[unsure], "before it is committed"
    )
    assert fork[reading].outcome() == "echo: now\n"
    fork.commit()
    assert main[unsure].outcome() == "echo: now\n"


def test_a_database_is_asked_by_a_client_that_knows_no_proxy() -> None:
    tools = {}
    for name in ("psycopg", "psycopg_binary"):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            pytest.skip(f"{name} is not there, which make setup installs")
        tools[f"{TOOLS}/{name}"] = str(Path(found.origin).parent)
    tools[f"{TOOLS}/psycopg_binary.libs"] = f"{tools[f'{TOOLS}/psycopg_binary']}.libs"
    extensions = importlib.util.find_spec("typing_extensions")
    assert extensions is not None
    tools[f"{TOOLS}/typing_extensions.py"] = str(extensions.origin)
    with databases.server("postgresql") as url:
        address = url.partition("@")[2].rstrip("/")

        class LocalQuerier(Querier):
            env = Env(files=tools)
            egress = [Allow("db.example:5432", to=address, tcp=True)]

        with LocalQuerier().spawn() as box:
            assert box.query("SELECT 6 * 7") == ["42"]
            assert len(box.query("SELECT repeat('x', 1000) FROM generate_series(1, 5000)")) == 5_000
            (fork,) = box.fork(1)
            with fork:
                assert fork.query("SELECT 'here'") == ["here"]
