"""The behaviour of the runtime for a user with no rights: the same tests, run by one.

The user has the system's interpreter, because the tests' own may lie where only its owner can read.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
#: In no one's use: packages' users end at 999, people's begin at 1000, nobody is 65534.
ORDINARY = 64_322

#: These become an ordinary user by themselves; so do those of tests/security, one by one.
NEED_ROOT = {"test_ordinary_user.py", "test_builds_as_user.py", "test_disks.py", "test_workspace_disks.py"}
#: They start database servers, whose programs want a user that has a name; and of the kernel they ask nothing.
OF_STORES = {"test_store.py", "test_store_history.py", "test_history_crashes.py"}
MODULES = [
    f"{folder}/{path.name}"
    for folder in ("runtime", "fault", "contract")
    for path in sorted((CHECKOUT / "tests" / folder).glob("test_*.py"))
    if path.name not in NEED_ROOT | OF_STORES
]
#: The slowest module, on a slow machine; a test that hangs has a limit of its own.
MODULE_S = 600


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _same_version() -> bool:
    found = subprocess.run(
        [PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
    )
    return found.stdout.strip() == str(sys.version_info[:2])


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory of the user's own, with copies of what it could not read."""
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
    os.chown(path / "home", ORDINARY, ORDINARY)
    yield path
    shutil.rmtree(path)


@pytest.mark.timeout(MODULE_S + 30)
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.skipif(not _same_version(), reason="the system's Python is of another version than the tests'")
@pytest.mark.parametrize("module", MODULES)
def test_an_ordinary_user_sees_the_same(place: Path, module: str) -> None:
    done = subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"),
            *(
                f"--rootdir={place}",
                f"--config-file={place}/pyproject.toml",
                f"--basetemp={place}/home/temporary",
            ),
            f"{place}/tests/{module}",
        ],
        env={
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "CI"))},
            "HOME": f"{place}/home",
            "TMPDIR": f"{place}/home",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{place}/src:{place}/site-packages:{place}/tests:{place}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        },
        cwd=place / "home",
        user=ORDINARY,
        group=ORDINARY,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MODULE_S,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
