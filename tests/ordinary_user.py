"""Programs and test modules run by a user with no rights, who has the system's interpreter.

The tests' own interpreter may lie where only its owner can read.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from warm import Warm

CHECKOUT = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"
#: The slowest module, on a slow machine; a test that hangs has a limit of its own.
MODULE_S = 600


def same_version() -> bool:
    """Whether the system's Python is of the tests' version, so that it can use their packages."""
    found = subprocess.run(
        [PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
    )
    return found.stdout.strip() == str(sys.version_info[:2])


@contextmanager
def place_of(uid: int, gid: int) -> Iterator[Path]:
    """A directory with a home of the user's own, and copies of what it could not read where it is."""
    path = Path(tempfile.mkdtemp(prefix="kibo-ordinary-"))
    path.chmod(0o755)
    packages = Path(next(entry for entry in sys.path if entry.endswith("site-packages")))
    # A definition's own modules are told from installed ones by the name of that directory.
    for name, source in (
        ("src", CHECKOUT / "src"),
        ("tests", CHECKOUT / "tests"),
        ("examples", CHECKOUT / "examples"),
        ("site-packages", packages),
    ):
        if _open_to_all(source):
            (path / name).symlink_to(source)
        else:
            shutil.copytree(source, path / name)
    shutil.copy(CHECKOUT / "pyproject.toml", path)
    (path / "home").mkdir()
    os.chown(path / "home", uid, gid)
    yield path
    shutil.rmtree(path)


def run(
    place: Path, uid: int, gid: int, arguments: Sequence[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the system's Python as a user, with both of its output streams as one."""
    return subprocess.run(
        [PYTHON, *arguments],
        env={**_environment(place), **variables},
        **_as_user(place, uid, gid),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MODULE_S,
    )


def warm(place: Path, uid: int, gid: int) -> Warm:
    """Starts a process of the user's to run modules of tests from."""
    return Warm(PYTHON, _environment(place), **_as_user(place, uid, gid))


def run_tests(user: Warm, place: Path, module: str, only: str = "", **variables: str) -> None:
    """Runs a module of tests as a user, or those that match ``only``, and fails where one of them does."""
    words = ["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={place}", "-k", only]
    settings = [f"--config-file={place}/pyproject.toml", f"--basetemp={place}/home/temporary"]
    ordered = [*words, *settings, f"{place}/tests/{module}"]
    done = user.run(ordered, {**_environment(place), **variables}, MODULE_S)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def _environment(place: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "CI"))},
        "HOME": f"{place}/home",
        "TMPDIR": f"{place}/home",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{place}/src:{place}/site-packages:{place}/tests:{place}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }


def _as_user(place: Path, uid: int, gid: int) -> dict[str, Any]:
    return {"cwd": place / "home", "user": uid, "group": gid, "extra_groups": []}


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))
