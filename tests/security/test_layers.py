"""Writing to what boxes share: layers, the host's system files, another box's files."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pytest

from security.attack import HostProcess, Refused, Target

USERS = pytest.mark.parametrize("cls", ["Attacker", "Root"])
SHARED = ["/usr/bin/env", "/usr/lib/os-release", "/etc/passwd", "/opt/kibo/site/kibo/__init__.py"]


@USERS
def test_what_one_box_writes_no_other_sees(host: HostProcess, other: Target, cls: str, via: str) -> None:
    box = host.spawn(cls)
    code = f"""
def spoil(path):
    with open(path, 'w') as stream:
        stream.write('spoilt')
    return read(path)
def replace(path):
    os.unlink(path)
    return spoil(path)
result = [[attempt(spoil, path), attempt(replace, path)] for path in {SHARED}]
"""
    outcomes = box.attack(code, via)
    assert len(outcomes) == len(SHARED)
    clean = other.attack(f"result = [attempt(read, path) for path in {SHARED}]")
    assert all(b"spoilt" not in data for data in clean if isinstance(data, bytes))
    assert all(isinstance(data, bytes) for data in clean[:3])
    fresh = host.spawn().attack(f"result = [attempt(read, path) for path in {SHARED}]")
    assert fresh == clean


@USERS
def test_the_hosts_own_files_stay_as_they_are(host: HostProcess, cls: str, via: str) -> None:
    files = [Path(os.path.realpath(path)) for path in ("/usr/bin/env", "/usr/lib/os-release", "/etc/passwd")]
    before = [(path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files]
    code = """
result = []
for top in ('/usr/bin', '/usr/lib', '/etc'):
    for name in ('env', 'os-release', 'passwd'):
        path = os.path.join(top, name)
        for act in (lambda: open(path, 'r+b').write(b'spoilt'), lambda: os.chmod(path, 0o777),
                    lambda: os.utime(path, (1, 1)), lambda: os.truncate(path, 0), lambda: os.unlink(path)):
            try:
                act()
            except OSError:
                continue
            result.append(path)
"""
    host.spawn(cls).attack(code, via)
    assert [(path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files] == before


@USERS
def test_the_stored_layers_stay_as_they_are(host: HostProcess, as_user: Path, cls: str) -> None:
    host.spawn(cls).answers()
    before = _picture(as_user / "state" / "layers")
    assert before
    code = """
for top, folders, names in os.walk('/', topdown=False):
    if top.startswith(('/proc', '/sys', '/dev')):
        continue
    for name in names[:5]:
        path = os.path.join(top, name)
        for act in (lambda: os.chmod(path, 0o777), lambda: open(path, 'ab').write(b'x'), lambda: os.unlink(path)):
            try:
                act()
            except OSError:
                continue
result = True
"""
    assert host.spawn(cls).attack(code, "command", timeout_s=60)
    assert _picture(as_user / "state" / "layers") == before


def _picture(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Sizes, modes and times of everything in a folder."""
    found = {}
    for top, folders, names in os.walk(folder):
        for name in (*folders, *names):
            entry = os.lstat(os.path.join(top, name))
            found[os.path.join(top, name)] = (entry.st_size, entry.st_mode, entry.st_mtime_ns)
    return found


def test_files_of_another_box_are_nowhere(host: HostProcess, box: Target, other: Target) -> None:
    other.attack("open('/tmp/mine', 'w').write('x'); open('/home/box/mine', 'w').write('x'); result = 0")
    assert box.attack("result = [os.path.exists(p) for p in ('/tmp/mine', '/home/box/mine')]") == [
        False,
        False,
    ]
    assert box.attack("open('/dev/shm/mine', 'w').write('x'); result = 0") == 0
    assert other.attack("result = os.path.exists('/dev/shm/mine')") is False


def test_filling_the_boxs_disk_ends_at_its_limit(host: HostProcess, other: Target) -> None:
    code = """
written = 0
try:
    with open('/tmp/full', 'wb', 0) as stream:
        while written < 512 << 20:
            written += stream.write(b'x' * (1 << 20))
except OSError as error:
    result = [errno.errorcode[error.errno], written]
else:
    result = ['not stopped', written]
"""
    kind, written = host.spawn("Bounded").attack(code, "command")
    assert kind in ("ENOSPC", "EDQUOT")
    assert written <= 32 << 20
    assert other.answers()


def test_files_through_links_stay_in_the_box(
    host: HostProcess, box: Target, as_user: Path, tmp_path: Path
) -> None:
    secret = as_user / "home" / ".secret"
    box.attack(
        f"os.symlink({str(secret)!r}, '/tmp/link'); os.symlink({str(as_user)!r}, '/tmp/folder')\n"
        "os.symlink('../../../../../../etc/passwd', '/tmp/up'); result = 0"
    )
    for path in ("/tmp/link", "/tmp/folder/home/.secret", f"../../../../{secret}", str(secret)):
        with pytest.raises(Refused, match=r"^files\."):
            host.ask(do="read", box=box.number, path=path)

    own = box.attack("result = read('/etc/passwd')")
    assert base64.b64decode(host.ask(do="read", box=box.number, path="/tmp/up")) == own
    with pytest.raises(Refused, match=r"^files\."):
        host.ask(do="write", box=box.number, path="/tmp/folder/home/written", text="x")
    assert not (as_user / "home" / "written").exists()


def test_a_path_that_is_swapped_for_a_link_meanwhile_stays_in_the_box(
    host: HostProcess, box: Target, as_user: Path
) -> None:
    swapper = f"""
import os, time
os.makedirs('/tmp/a/home', exist_ok=True)
open('/tmp/a/home/.secret', 'w').write('own')
os.symlink({str(as_user)!r}, '/tmp/b')
end = time.monotonic() + 4
while time.monotonic() < end:
    for x, y in (('a', 'c'), ('b', 'a'), ('a', 'b'), ('c', 'a')):
        os.rename('/tmp/' + x, '/tmp/' + y)
"""
    box.exec(["sh", "-c", f"python3 -c '{_quoted(swapper)}' >/dev/null 2>&1 &"])

    end, seen, codes = time.monotonic() + 3, set(), set()
    while time.monotonic() < end:
        try:
            seen.add(base64.b64decode(host.ask(do="read", box=box.number, path="/tmp/a/home/.secret")))
        except Refused as refused:
            codes.add(refused.code.partition(".")[0])
    assert codes <= {"files"}
    assert b"own" in seen, "the attack never met the file in place"
    assert host.secret.encode() not in seen


def _quoted(code: str) -> str:
    return code.replace("'", "'\"'\"'")
