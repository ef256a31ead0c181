"""What the host is found to offer: as the tests' user, as an ordinary one, and where it is forbidden."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kibo.model.errors import HostUnsupported
from kibo.runtime import host_checks
from kibo.runtime.host import Check, probe, require_host

pytestmark = pytest.mark.runtime

SOURCE = Path(__file__).parents[2] / "src"
PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kibo.model.errors import KiboError
from kibo.runtime.host import probe, require_host
try:
    require_host(Path(sys.argv[2]))
    refusal = None
except KiboError as error:
    refusal = error.to_dict()
print(json.dumps([[check.to_dict() for check in probe(Path(sys.argv[2]))], refusal]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may use, with the package inside, which the checkout may be closed to."""
    folder = Path(tempfile.mkdtemp(prefix="kibo-test-"))
    shutil.copytree(SOURCE / "kibo", folder / "source" / "kibo", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home").mkdir()
    (folder / "home").chmod(0o777)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def probe_elsewhere(folder: Path, *prefix: str, python: str = "/usr/bin/python3", as_user: bool = False):
    command = [*prefix, python, "-B", "-c", PROBE, str(folder / "source"), str(folder / "home" / "kibo")]
    user = {"user": 65534, "group": 65534, "extra_groups": []} if as_user and os.geteuid() == 0 else {}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, env={"PATH": os.environ["PATH"]}, **user
    )
    assert done.returncode == 0, done.stderr
    checks, refusal = json.loads(done.stdout)
    return {check["name"]: Check(**check) for check in checks}, refusal


def test_every_check_says_what_it_is_for_and_what_was_found(tmp_path: Path) -> None:
    checks = probe(tmp_path / "kibo")
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.needed_for, check
        assert check.found, check


def test_a_check_has_a_remedy_exactly_when_something_is_missing(tmp_path: Path, open_folder: Path) -> None:
    own = probe(tmp_path / "kibo")
    other, _ = probe_elsewhere(open_folder, as_user=True)
    for check in (*own, *other.values()):
        assert bool(check.remedy) == (not check.ok), check


def test_required_things_come_first(tmp_path: Path) -> None:
    levels = [check.level for check in probe(tmp_path / "kibo")]
    order = ["required", "recommended", "optional"]
    assert levels == sorted(levels, key=order.index)


def test_a_host_that_can_is_not_refused(tmp_path: Path) -> None:
    require_host(tmp_path / "kibo")


def test_the_probe_leaves_nothing_in_the_state_directory(tmp_path: Path) -> None:
    probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_probe_makes_no_state_directory(tmp_path: Path) -> None:
    probe(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_an_ordinary_user_has_what_is_required_and_is_told_what_is_missing(open_folder: Path) -> None:
    checks, refusal = probe_elsewhere(open_folder, as_user=True)
    assert refusal is None
    assert all(check.ok for check in checks.values() if check.level == "required")
    assert checks["range of ids"].found.startswith(("one id: ", "65,536 ids granted"))
    assert list((open_folder / "home").iterdir()) == []


def test_a_host_without_user_namespaces_is_refused_with_the_setting_to_change(open_folder: Path) -> None:
    # The limit belongs to the namespace it is set in: here to one made for this test alone.
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    forbidding = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    checks, refusal = probe_elsewhere(open_folder, *forbidding)
    assert not checks["user namespaces"].ok
    assert not checks["overlay in user namespaces"].ok
    assert refusal["code"] == HostUnsupported.code
    assert "user.max_user_namespaces" in refusal["hint"]
    assert "user namespaces" in refusal["message"]


@pytest.mark.parametrize("failing", ["user_namespace", "mount_namespace"])
def test_where_apparmor_takes_the_rights_of_new_namespaces_its_setting_is_the_remedy(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """As on Ubuntu 24.04: either making the namespace fails, or what needs a right in it."""
    settings = {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": 1}
    monkeypatch.setattr(host_checks, "_number", settings.get)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    works = dict.fromkeys(
        [f"{name}_namespace" for name in ("user", "mount", "pid", "ipc", "uts", "network")], ""
    )
    tried = {"failures": works | {failing: "[Errno 1] Operation not permitted"}}
    (missing,) = [check for check in host_checks.namespaces(tried) if not check.ok]
    assert "apparmor_restrict_unprivileged_userns=0" in missing.remedy
    settings.clear()
    (missing,) = [check for check in host_checks.namespaces(tried) if not check.ok]
    assert "apparmor" not in missing.remedy


def test_a_state_directory_that_cannot_hold_an_upper_layer_is_named(open_folder: Path) -> None:
    # An overlay without user extended attributes below cannot be the upper layer of another.
    lower, upper, work, merged = (open_folder / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    script = (
        f'mount -t overlay none {merged} -o lowerdir={lower},upperdir={upper},workdir={work} && exec "$@"'
    )
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    command = [*prefix, sys.executable, "-B", "-c", PROBE, str(open_folder / "source"), str(merged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    checks, refusal = json.loads(done.stdout)
    named = {check["name"]: check for check in checks}["state directory as an overlay"]
    assert not named["ok"]
    assert "KIBO_HOME" in refusal["hint"]
