"""Reaching out: the network, the host's loopback, its sockets and those of other boxes."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from security.attack import HostProcess, Target

CONNECT = """
def connect(family, kind, address):
    with socket.socket(family, kind) as tried:
        tried.settimeout(3)
        try:
            tried.connect(address)
            if kind == socket.SOCK_DGRAM:
                tried.send(b'x')
        except TimeoutError:
            return 'TIMEOUT'
        return 'connected'
"""


@pytest.fixture
def listener() -> Iterator[int]:
    """A server of the host's, on every address."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


def test_there_is_loopback_and_no_other_device(box: Target, via: str) -> None:
    assert box.attack("result = [name for _, name in socket.if_nameindex()]", via) == ["lo"]


def test_a_server_on_the_hosts_loopback_is_not_reached(box: Target, via: str, listener: int) -> None:
    code = (
        CONNECT + f"result = attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {listener}))"
    )
    assert box.attack(code, via) == "ECONNREFUSED"


def test_the_hosts_own_addresses_are_not_reached(box: Target, via: str, listener: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            own = probe.getsockname()[0]
        except OSError:
            own = "192.0.2.1"  # A machine without any route has no address to attack.
    code = CONNECT + f"result = attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ({own!r}, {listener}))"
    assert box.attack(code, via) == "ENETUNREACH"


@pytest.mark.parametrize("address", ["1.1.1.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "172.17.0.1"])
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_no_address_outside_is_reached(box: Target, via: str, address: str, kind: str) -> None:
    code = CONNECT + f"result = attempt(connect, socket.AF_INET, socket.{kind}, ({address!r}, 53))"
    assert box.attack(code, via) == "ENETUNREACH"


def test_no_address_of_the_sixth_version_is_reached(box: Target, via: str) -> None:
    code = (
        CONNECT
        + "result = attempt(connect, socket.AF_INET6, socket.SOCK_STREAM, ('2606:4700:4700::1111', 53))"
    )
    assert box.attack(code, via) in ("ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL")


def test_no_name_is_resolved(box: Target, via: str) -> None:
    code = """
try:
    result = socket.getaddrinfo('example.com', 80) and 'resolved'
except OSError:
    result = 'refused'
"""
    assert box.attack(code, via) == "refused"


def test_raw_and_packet_sockets_are_refused(box: Target, via: str) -> None:
    code = """
result = [attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()),
          attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())]
"""
    assert box.attack(code, via) == ["EPERM", "EAFNOSUPPORT"]


@pytest.mark.parametrize("family", [40, 38, 31, 44, 29])
def test_families_that_no_network_namespace_confines_are_refused(box: Target, via: str, family: int) -> None:
    assert box.attack(f"result = syscall('socket', {family}, 1, 0)", via) == "EAFNOSUPPORT"


def test_no_device_can_be_added_or_moved_in(box: Target, via: str) -> None:
    code = """
import fcntl, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
    request = struct.pack('16sH14x', b'lo', 0)
    result = [attempt(fcntl.ioctl, tried, 0x8914, request)]
tun = attempt(os.open, '/dev/net/tun', os.O_RDWR)
result.append(tun)
"""
    assert box.attack(code, via) == ["EPERM", "ENOENT"]


def test_an_abstract_socket_of_the_host_is_not_reached(box: Target, via: str) -> None:
    name = f"kibo-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        code = CONNECT + f"result = attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + {name!r})"
        assert box.attack(code, via) == "ECONNREFUSED"
        assert name not in box.attack("result = read('/proc/net/unix').decode()", via)


def test_an_abstract_socket_of_another_box_is_not_reached(box: Target, other: Target, via: str) -> None:
    name = f"kibo-{uuid.uuid4().hex}"
    other.attack(
        f"import builtins\nbuiltins.kept = socket.socket(socket.AF_UNIX); builtins.kept.bind('\\0' + {name!r})\n"
        "builtins.kept.listen(); result = 0"
    )
    code = CONNECT + f"result = attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + {name!r})"
    assert other.attack(code) == "connected"
    assert box.attack(code, via) == "ECONNREFUSED"


def test_a_server_in_another_box_is_not_reached(box: Target, other: Target, via: str) -> None:
    port = other.attack(
        "import builtins\nbuiltins.server = socket.create_server(('127.0.0.1', 0))\n"
        "result = builtins.server.getsockname()[1]"
    )
    code = CONNECT + f"result = attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {port}))"
    assert other.attack(code) == "connected"
    assert box.attack(code, via) == "ECONNREFUSED"


def test_a_socket_file_of_the_host_is_not_there(
    host: HostProcess, box: Target, as_user: Path, via: str
) -> None:
    path = as_user / "home" / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        code = CONNECT + f"result = attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, {str(path)!r})"
        assert box.attack(code, via) == "ENOENT"
    path.unlink()


def test_well_known_sockets_of_the_host_are_not_there(box: Target, via: str) -> None:
    paths = [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
    ]
    assert box.attack(f"result = [os.path.exists(path) for path in {paths}]", via) == [False] * len(paths)


def test_queues_and_shared_memory_of_another_box_are_not_seen(box: Target, other: Target) -> None:
    made = other.attack("result = _libc.shmget(4242, 4096, 0o1666)", "command")
    assert made >= 0
    assert box.attack("result = _libc.shmget(4242, 4096, 0o666)") == -1
