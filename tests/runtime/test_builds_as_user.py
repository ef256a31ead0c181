"""Builds as an ordinary user, with one id. A Debian for one is in test_bases.py, which such a user runs too."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root in order to become another user"),
    pytest.mark.skipif(
        not os.path.exists(f"/usr/bin/python3.{sys.version_info.minor}"),
        reason="the ordinary user needs the system's Python to be of the tests' version",
    ),
]
CHECKOUT = Path(__file__).parents[2]
ONE_ID = 64_323  # in no one's use
PROGRAM = """
import sys
from pathlib import Path
from kibo.box.env import Env
from kibo.model.errors import KiboError
from kibo.runtime.idmap import choose_map
from kibo.runtime.images.environment import build_environment_blocking
print(choose_map().kind)
try:
    built = build_environment_blocking(eval(sys.argv[2]), home=Path(sys.argv[1]))
except KiboError as error:
    print(error.code, error)
else:
    print("built", *(layer.path for layer in built.layers))
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Kibo and its packages where any user may read them, and a state directory for each user."""
    path = Path(tempfile.mkdtemp(prefix="kibo-builds-"))
    path.chmod(0o755)
    shutil.copytree(CHECKOUT / "src", path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    left_out = shutil.ignore_patterns("__pycache__", "mypy", "ruff", "hypothesis", "setuptools")
    shutil.copytree(sysconfig.get_path("purelib"), path / "packages", ignore=left_out)
    yield path
    shutil.rmtree(path)


def build(place: Path, uid: int, env: str, gid: int = ONE_ID) -> str:
    state = place / f"state-{uid}"
    state.mkdir(exist_ok=True)
    os.chown(state, uid, gid)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    done = subprocess.run(
        ["/usr/bin/python3", "-P", "-c", PROGRAM, str(state), env],
        env={
            **variables,
            "PATH": "/usr/bin:/bin",
            "HOME": str(state),
            "PYTHONPATH": f"{place}/src:{place}/packages",
        },
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not [path.name for path in (state / "tmp").iterdir()]
    return done.stdout


def read(output: str, name: str) -> str:
    """Reads a file of the highest layer that was built."""
    return Path(output.split()[-1], name).read_text()


def test_one_id_is_enough_for_commands_files_and_python_packages(place: Path) -> None:
    output = build(
        place,
        ONE_ID,
        'Env(pip=["six"], files={"/work/a": b"a"}, run=["python3 -c \'import six\'; touch /srv/x; chown 5:5 /srv/x; '
        'id -u > /srv/id; cat /work/a >> /srv/id"])',
    )
    assert output.startswith("single\nbuilt")
    assert read(output, "srv/id") == "0\na"


def test_apt_on_the_hosts_base_is_refused_with_the_remedy(place: Path) -> None:
    output = build(place, ONE_ID, 'Env(apt=["hello"])')
    assert "host.unsupported" in output
    assert "debian:" in output
