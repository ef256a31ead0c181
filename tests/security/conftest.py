"""The two users that every attack is tried against, and their boxes."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from security.attack import HostProcess, Stuck, Target

CHECKOUT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("host_process.py")
ORDINARY = 64_321  # in no one's use: the packages' own users end at 999, people's and nobody lie elsewhere


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/security/" in str(item.path):
            item.add_marker(pytest.mark.security)


def _open_to_all(path: Path) -> bool:
    """Tells whether any user may reach a folder."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _paths_for_all(place: Path) -> list[str]:
    """Finds the package and what it depends on where any user may read them, or copies them there."""
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    found = [CHECKOUT / "src", packages]
    if not all(_open_to_all(path) for path in found):
        shutil.copytree(CHECKOUT / "src", place / "src")
        shutil.copytree(
            packages, place / "packages", ignore=shutil.ignore_patterns("*.dist-info", "mypy*", "pip")
        )
        found = [place / "src", place / "packages"]
    return [str(path) for path in found]


@pytest.fixture(scope="session", params=["root", "ordinary"])
def as_user(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that belongs to one of the two users, with a home, a state directory and an interpreter."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    if request.param == "ordinary" and sys.version_info[:2] != _system_version():
        pytest.skip("the ordinary user needs the system's Python to be of the tests' version")
    place = Path(tempfile.mkdtemp(prefix="kibo-security-"))
    place.chmod(0o755)
    for name in ("home", "state", "bin"):
        (place / name).mkdir()
    if request.param == "ordinary":
        # The user's own interpreter, as pyenv and uv install it: what the box's programs must not reach.
        shutil.copy(os.path.realpath("/usr/bin/python3"), place / "bin" / "python3")
        if os.geteuid() == 0:
            for path in (place, *place.rglob("*")):
                os.chown(path, ORDINARY, ORDINARY)
    yield place
    shutil.rmtree(place)


def _system_version() -> tuple[int, ...]:
    name = Path(os.path.realpath("/usr/bin/python3")).name.removeprefix("python")
    return tuple(int(part) for part in name.split("."))


def start(place: Path) -> HostProcess:
    """Starts the user's process, with a secret in its environment, its home and its memory."""
    secret = uuid.uuid4().hex
    ordinary = (place / "bin" / "python3").exists()
    python = str(place / "bin" / "python3") if ordinary else sys.executable
    (place / "home" / ".secret").write_text(secret)
    (place / "home" / ".secret").chmod(0o644)
    environment = {
        "HOME": str(place / "home"),
        "KIBO_HOME": str(place / "state"),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": ":".join(_paths_for_all(place)) if ordinary else str(CHECKOUT / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TEST_SECRET": secret,
        "KIBO_KERNEL_WITHOUT": os.environ.get("KIBO_KERNEL_WITHOUT", ""),
    }
    user = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if ordinary and os.geteuid() == 0 else {}
    errors = open(place / "errors", "w")  # noqa: SIM115 (closed with the process)
    how: dict[str, Any] = {"env": environment, "cwd": place / "home", **user}
    return HostProcess([python, str(PROGRAM)], secret=secret, ordinary=ordinary, errors=errors, **how)


@pytest.fixture(scope="session")
def _shared(as_user: Path) -> Iterator[list[HostProcess]]:
    running = [start(as_user)]
    yield running
    running[0].end()


@pytest.fixture
def host(_shared: list[HostProcess], as_user: Path) -> Iterator[HostProcess]:
    """The user's process; a new one where the last test left it ended or stuck."""
    if _shared[0].process.poll() is not None:
        _shared[0] = start(as_user)
    try:
        yield _shared[0]
        _shared[0].here(
            "for n, box in living.items():\n    if box is not None:\n        box.destroy(); living[n] = None"
        )
    except Stuck:
        _shared[0].end()
        raise


@pytest.fixture
def box(host: HostProcess) -> Target:
    """A box of the attacker's."""
    return host.spawn()


@pytest.fixture
def other(host: HostProcess) -> Target:
    """A second box, which an attack must not touch."""
    return host.spawn()


@pytest.fixture(params=["action", "command"])
def via(request: pytest.FixtureRequest) -> str:
    """How the attack runs: in the guest itself, and as a program beside it."""
    return str(request.param)
