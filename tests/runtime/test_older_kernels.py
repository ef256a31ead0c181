"""Boxes made as on older kernels, which lack the newest mount calls: the same tests, and every combination once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warm import Warm

TESTS = Path(__file__).parents[1]
#: What each kernel lacks, the newest first.
LACKING = {
    "6.16": "proc_from_outside",
    "6.14": "proc_from_outside detached_trees",
    "6.6": "proc_from_outside detached_trees layers_one_by_one",
}
#: What the mounts of boxes and of builds matter to. The rest differs in nothing.
MODULES = {
    "runtime/test_spawn.py": "not two_hundred",
    "runtime/test_states.py": "launch or prefix or deep or file",
    "runtime/test_exec.py": "",
    "runtime/test_files.py": "climb or link or root",
    "runtime/test_builds.py": "cached or steps",
    "runtime/test_fork.py": "not hundred and not nests",
    "runtime/test_cold_fork.py": "moment or comes_along or changes_of_usr",
    "runtime/test_branch.py": "commit or apply",
    "runtime/test_shared.py": "at_once or own_from_then or one_moment",
    "fault/test_leaks.py": "spawn and warden or seen",
    "security/test_namespaces.py": "ordinary and command",
}
PROGRAM = """
import os, sys
from kibo import Box, Env, action
class Small(Box):
    env = Env(files={"/srv/below": b"below"})
    def launch(self):
        with open("/work/launched", "w") as file:
            file.write("launched")
    @action
    def look(self) -> list[str]:
        assert sorted(os.listdir("/dev/pts")) == ["ptmx"], os.listdir("/dev/pts")
        assert os.path.ismount("/dev/shm") and os.path.ismount("/proc") and os.path.isdir("/sys/kernel")
        assert "1" in os.listdir("/proc") and os.getpid() == 1
        return [open(path).read() for path in ("/srv/below", "/work/launched")]
with Small().spawn() as one, Small().spawn() as other:
    assert one.look() == other.look() == ["below", "launched"]
    one.files.write("/work/own", "own")
    assert [change.path for change in one.diff()] == ["/work/own"]
    assert other.diff() == []
    assert one.exec("cat /work/own; ls /proc | grep -c '^[0-9]'").stdout.startswith("own")
from kibo.wiring import runtime
print("lacks", runtime().states().session.facts["lacks"])
"""


@pytest.mark.parametrize("kernel", LACKING)
def test_a_box_has_the_same_world_on_an_older_kernel(tmp_path: Path, kernel: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=_environment(kernel, tmp_path),
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.stdout == f"lacks {LACKING[kernel].split()}\n", done.stdout + done.stderr


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(
        sys.executable, _environment("6.6", tmp_path_factory.mktemp("home")), cwd=TESTS.parent
    ) as process:
        yield process


@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", MODULES)
def test_the_oldest_kernel_gives_the_same(starter: Warm, tmp_path: Path, module: str) -> None:
    words = ["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-k", MODULES[module]]
    settings = [f"--rootdir={TESTS.parent}", f"--config-file={TESTS.parent}/pyproject.toml"]
    done = starter.run([*words, *settings, str(TESTS / module)], _environment("6.6", tmp_path), 290)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def _environment(kernel: str, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "KIBO_KERNEL_WITHOUT": LACKING[kernel],
        "KIBO_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
