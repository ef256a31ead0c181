"""Builds with the real package managers: what a step gives, what it costs twice, and what it leaves when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kibo.box.env import Env, Limits
from kibo.model.errors import BuildFailed, HostUnsupported, LockMismatch
from kibo.runtime.cgroups import open_cgroups
from kibo.runtime.images.building import collect_layers
from kibo.runtime.images.environment import (
    BuildEvent,
    BuiltEnvironment,
    Lock,
    build_environment,
    build_environment_blocking,
    find_environment,
    interpreter_layer,
)
from kibo.runtime.layers.collection import Collecting
from kibo.runtime.layers.temporary import remove_tree
from leftovers import groups_of

pytestmark = pytest.mark.timeout(300)
HAS_GROUPS = open_cgroups("probe").available()
needs_groups = pytest.mark.skipif(
    not (HAS_GROUPS["memory"] and HAS_GROUPS["cpus"]), reason="no control groups for this user"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: id-mapped mounts of the host's /usr")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One state directory for the module, so that its bases are built once."""
    path = tmp_path_factory.mktemp("state")
    yield path
    remove_tree(path)


def build(env: Env, state: Path, locked: Lock | None = None) -> tuple[BuiltEnvironment, list[BuildEvent]]:
    events: list[BuildEvent] = []

    async def main() -> BuiltEnvironment:
        return await build_environment(env, home=state, locked=locked, progress=events.append)

    return anyio.run(main), events


def find(environment: BuiltEnvironment, path: str) -> Path | None:
    found = [layer.path / path for layer in environment.layers if os.path.lexists(layer.path / path)]
    return found[-1] if found else None


def build_groups() -> list[str]:
    return [group for group in groups_of(os.getpid()) if "build" in group]


def layers(state: Path) -> dict[Path, int]:
    """What the layers consist of, and when each was written."""
    return {path: path.lstat().st_mtime_ns for path in (state / "layers").rglob("*")}


def leftovers(state: Path) -> list[str]:
    return [
        path.name for part in ("tmp", "locks") for path in (state / part).iterdir() if path.suffix != ".layer"
    ]


def test_the_interpreters_layer_has_a_python_that_finds_its_packages(state: Path) -> None:
    layer = interpreter_layer(state)
    python = layer.path / "opt/kibo/python"
    library = python / f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("os.py", "lib-dynload", "asyncio/__init__.py"):
        assert (library / name).exists(), name
    assert not (library / "test").exists()
    for name in (
        "kibo/box/define.py",
        "cloudpickle/__init__.py",
        "pydantic/__init__.py",
        "msgspec/__init__.py",
    ):
        assert (layer.path / "opt/kibo/site" / name).exists(), name
    assert not (layer.path / "opt/kibo/site/kibo/runtime/images").exists()
    imports = "import ssl, sqlite3, pydantic, cloudpickle; print(ssl)"
    environment, _ = build(Env(run=[f"/opt/kibo/python/bin/python3 -c '{imports}' > /srv/out"]), state)
    out = find(environment, "srv/out")
    assert out is not None
    assert "/opt/kibo/python" in out.read_text()


def test_an_environment_with_no_steps_is_the_host_with_nothing_of_its_people(state: Path) -> None:
    environment, _ = build(Env(), state)
    assert environment.host_view
    [layer] = environment.layers
    users = {line.split(":")[0]: line for line in (layer.path / "etc/passwd").read_text().splitlines()}
    assert users["box"] == f"box:x:1000:1000::/home/box:{users['box'].rsplit(':', 1)[1]}"
    assert all(int(line.split(":")[2]) <= 1000 or name == "nobody" for name, line in users.items())
    assert "$" not in (layer.path / "etc/shadow").read_text()
    for name in ("etc/ssh", "etc/ssl/private", "etc/apt", "etc/sudoers", "etc/profile.d", "usr/bin"):
        assert not (layer.path / name).exists(), name
    secrets = [path for path in Path("/etc").rglob("*") if path.is_file() and not path.stat().st_mode & 0o004]
    own = {"/etc/shadow", "/etc/gshadow"}
    assert not [path for path in secrets if str(path) not in own and (layer.path / str(path)[1:]).is_file()]
    assert (layer.path / "etc/machine-id").read_text() != Path("/etc/machine-id").read_text()


def test_a_cached_environment_is_found_again_without_work(state: Path) -> None:
    first, _ = build(Env(run=["echo once > /srv/once"]), state)
    before = layers(state)
    assert before
    second, events = build(Env(run=["echo once > /srv/once"]), state)
    assert layers(state) == before
    assert events == []
    assert second == first
    assert find_environment(Env(run=["echo once > /srv/once"]), home=state) == first
    assert find_environment(Env(run=["echo never > /srv/once"]), home=state) is None


def test_an_environment_may_have_many_steps(state: Path) -> None:
    environment, _ = build(Env(run=[f"set -- /srv/*; echo $# > /srv/{n}" for n in range(40)]), state)
    last = find(environment, "srv/39")
    assert last is not None
    assert last.read_text() == "39\n"


def test_a_step_past_its_time_fails_with_its_log_and_leaves_nothing(state: Path) -> None:
    env = Env(run=["echo began; sleep 60"], limits=Limits(step_s=1))
    began = time.monotonic()
    with pytest.raises(BuildFailed, match="did not end within 1 s") as caught:
        build(env, state)
    assert time.monotonic() - began < 60
    assert caught.value.step.startswith("run")
    assert "began" in caught.value.log_tail
    assert "step_s" in caught.value.hint
    assert leftovers(state) == []


@needs_groups
def test_a_step_that_eats_memory_fails_and_says_so(state: Path) -> None:
    eat = "python3 -c 'x = bytearray(b\"x\") * (6 << 30)'"
    with pytest.raises(BuildFailed, match="MiB of memory") as caught:
        build(Env(run=[eat]), state)
    assert "memory_bytes" in caught.value.hint
    assert leftovers(state) == []
    assert build_groups() == []


@needs_groups
def test_a_step_has_the_processors_of_its_box(state: Path) -> None:
    loop = "while time.monotonic() < 2 + begin: pass"
    burn = f"python3 -c 'import time; begin=time.monotonic()\n{loop}\nprint(time.process_time())'"
    environment, _ = build(Env(run=[f"{burn} > /srv/used"], limits=Limits(cpus=0.25)), state)
    used = find(environment, "srv/used")
    assert used is not None
    assert float(used.read_text()) < 1.2
    assert build_groups() == []


@needs_root
def test_apt_packages_are_in_a_layer_and_not_on_the_host(state: Path) -> None:
    environment, events = build(Env(apt=["hello"]), state)
    program = find(environment, "usr/bin/hello")
    assert program is not None
    assert not Path("/usr/bin/hello").exists()
    [step] = environment.lock.steps
    [package] = step.resolved["packages"]
    assert package["name"] == "hello"
    assert len(package["sha256"]) == 64
    assert "://" not in environment.lock.to_text()
    assert any(event.kind == "output" and "hello" in event.text for event in events)
    status = find(environment, "var/lib/dpkg/status")
    assert status is not None
    assert "Package: hello" in status.read_text()
    for gone in ("etc/apt", "var/lib/apt/lists", "var/log/apt", "usr/sbin/policy-rc.d"):
        path = find(environment, gone)
        assert path is None or not any(path.iterdir()), gone


@needs_root
def test_the_same_step_gives_the_same_layer_in_another_state_directory(state: Path, tmp_path: Path) -> None:
    env = Env(apt=["hello"], pip=["six"], run=["python3 -c 'import six' && date > /dev/null"])
    first, _ = build(env, state)
    try:
        second, events = build(env, tmp_path, first.lock)
        assert {event.kind for event in events} >= {"built"}
        assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]
        assert second.lock == first.lock
    finally:
        remove_tree(tmp_path)


def test_pip_packages_are_for_the_guests_interpreter(state: Path) -> None:
    environment, _ = build(
        Env(pip=["six"], run=["python3 -c 'import six; print(six.__file__)' > /srv/six"]), state
    )
    assert find(environment, "opt/kibo/pip/six.py") is not None
    out = find(environment, "srv/six")
    assert out is not None
    assert out.read_text().strip() == "/opt/kibo/pip/six.py"
    assert environment.variables["PATH"].startswith("/opt/kibo/pip/bin:/opt/kibo/python/bin:")
    assert [package["name"] for package in environment.lock.steps[0].resolved["packages"]] == ["six"]


@pytest.mark.skipif(not os.path.exists("/usr/bin/npm"), reason="the host has no npm to show in base=host")
def test_npm_packages_have_their_programs_on_the_path(state: Path) -> None:
    line = "node -e 'console.log(require(\"is-odd\")(3))' > /srv/odd"
    environment, _ = build(Env(npm=["is-odd"], run=[line]), state)
    out = find(environment, "srv/odd")
    assert out is not None
    assert out.read_text() == "true\n"
    assert "://" not in json.dumps(environment.lock.steps[0].resolved["lock"])
    pinned, _ = build(Env(npm=["is-odd"]), state, Lock(environment.lock.steps[:1]))
    assert pinned.layers[1].digest == environment.layers[1].digest


def test_a_locked_package_and_what_it_depends_on_give_the_same_layer(state: Path, tmp_path: Path) -> None:
    env = Env(pip=["python-dateutil"])
    first, _ = build(env, state)
    try:
        second, _ = build(env, tmp_path, first.lock)
        assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]
        assert len(second.lock.steps[0].resolved["packages"]) > 1
    finally:
        remove_tree(tmp_path)


def test_files_are_put_with_the_owner_that_needs_them(state: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/tool").write_text("#!/bin/sh\n")
    (tree / "sub/tool").chmod(0o700)
    (tree / "link").symlink_to("sub/tool")
    files = {
        "/work/notes/a.txt": b"hello",
        "/usr/local/share/tree" if os.geteuid() == 0 else "/srv/tree": str(tree),
    }
    environment, _ = build(Env(files=files), state)
    note = find(environment, "work/notes/a.txt")
    assert note is not None
    assert note.read_bytes() == b"hello"
    assert note.stat().st_uid - note.parents[2].stat().st_uid in (1000, 0)
    tool = find(environment, next(iter(set(files) - {"/work/notes/a.txt"})).lstrip("/") + "/sub/tool")
    assert tool is not None
    assert tool.stat().st_mode & 0o777 == 0o755
    (tree / "sub/tool").write_text("#!/bin/sh\nexit 1\n")
    again, _ = build(Env(files=files), state)
    assert again.digest != environment.digest


def test_a_step_sees_no_credentials_and_no_home(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://me:hunter2@127.0.0.1:9/simple")
    line = "env > /srv/env; ls -A /root /home > /srv/home; cat /run/kibo/pip.conf /run/kibo/npmrc >> /srv/env"
    environment, _ = build(Env(run=[line]), state)
    seen = find(environment, "srv/env")
    homes = find(environment, "srv/home")
    assert seen is not None
    assert homes is not None
    assert "hunter2" not in seen.read_text()
    assert homes.read_text().split() == ["/home:", "box", "/root:"]


def test_a_failing_step_shows_its_log_and_leaves_nothing(state: Path) -> None:
    with pytest.raises(BuildFailed) as caught:
        build(Env(run=["echo before; echo the reason >&2; exit 3"]), state)
    error = caught.value
    assert "the reason" in error.log_tail
    assert "the reason" in Path(error.log_path).read_text()
    assert error.details["status"] == 3
    assert error.step.startswith("run: ")
    assert leftovers(state) == []


def test_a_program_that_is_not_there_is_named_with_a_remedy(state: Path) -> None:
    with pytest.raises(BuildFailed, match="no-such-program"):
        build(Env(run=["no-such-program"]), state)


def test_a_lock_for_another_environment_is_refused(state: Path) -> None:
    environment, _ = build(Env(run=["true"]), state)
    with pytest.raises(LockMismatch):
        build(Env(run=["false"]), state, environment.lock)
    with pytest.raises(LockMismatch):
        build(Env(), state, environment.lock)


def test_a_step_that_gives_other_files_than_the_lock_is_refused(state: Path) -> None:
    env = Env(run=["head -c 8 /dev/urandom > /srv/random"])
    environment, _ = build(env, state)
    for layer in environment.layers[1:]:
        remove_tree(layer.path.parent)
    with pytest.raises(LockMismatch, match="other files"):
        build(env, state, environment.lock)
    assert leftovers(state) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
def test_apt_on_the_hosts_base_is_refused_for_an_ordinary_user_with_the_remedy(state: Path) -> None:
    with pytest.raises(HostUnsupported, match="root") as caught:
        build(Env(apt=["hello"]), state)
    assert "debian:" in caught.value.hint


PROGRAM = """
import sys, anyio
from pathlib import Path
from kibo.box.env import Env
from kibo.runtime.images.environment import build_environment
async def main():
    def say(event):
        print(event.kind, event.text, flush=True)
    await build_environment(Env(run=[sys.argv[2]]), home=Path(sys.argv[1]), progress=say)
anyio.run(main)
"""


def start_build(state: Path, line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(state), line], stdout=subprocess.PIPE, text=True
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(marker: str) -> list[int]:
    """Finds processes whose command line has a marker. A zombie has none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def wait_until_gone(state: Path, marker: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not running(marker) and leftovers(state) == []:
            return
        time.sleep(0.02)
    pytest.fail(f"left: processes {running(marker)}, files {leftovers(state)}")


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_build_leaves_nothing(state: Path, attempt: int) -> None:
    build(Env(), state)
    marker = f"3600.{os.getpid()}{attempt}"
    with start_build(state, f"echo going; sleep {marker} & sleep {marker}") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("output going"):
                break
        assert running(marker)
        process.send_signal(signal.SIGKILL)
    wait_until_gone(state, marker)


@pytest.mark.parametrize("victim", ["supervisor", "worker"])
def test_a_killed_builder_is_an_error_and_leaves_nothing(state: Path, victim: str) -> None:
    build(Env(), state)
    marker = f"3602.{os.getpid()}"

    def kill(event: BuildEvent) -> None:
        if event.text == "going":
            below = children(os.getpid())
            if victim == "worker":
                below = [grandchild for child in below for grandchild in children(child)]
            for pid in below:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(BuildFailed, match="builder"):
        build_environment_blocking(Env(run=[f"echo going; sleep {marker}"]), home=state, progress=kill)
    wait_until_gone(state, marker)


def test_layers_that_nothing_uses_are_collected_and_built_again(state: Path, tmp_path: Path) -> None:
    env = Env(run=["echo collected > /srv/collected"])
    program = PROGRAM.replace("anyio.run(main)", "anyio.run(main); print('built')")
    command = [sys.executable, "-c", program, str(tmp_path / "state"), env.run[0]]
    assert "built" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    planned = collect_layers(tmp_path / "state", unused_s=0, dry=True)
    assert len(planned.layers) == 3
    told: list[Collecting] = []
    assert collect_layers(tmp_path / "state", unused_s=0, progress=told.append).layers == planned.layers
    assert told == [Collecting(done, 3) for done in range(3)]
    assert list((tmp_path / "state/layers").iterdir()) == []
    assert build(env, tmp_path / "state")[0].digest == build(env, state)[0].digest
    kept = collect_layers(tmp_path / "state", unused_s=0)
    assert kept.kept >= 2
    remove_tree(tmp_path / "state")


def test_a_cancelled_build_leaves_nothing(state: Path) -> None:
    build(Env(), state)
    marker = f"3601.{os.getpid()}"

    async def main() -> None:
        with anyio.move_on_after(10) as scope:

            def say(event: BuildEvent) -> None:
                if event.text == "going":
                    scope.cancel()

            await build_environment(Env(run=[f"echo going; sleep {marker}"]), home=state, progress=say)
        assert scope.cancelled_caught

    anyio.run(main)
    wait_until_gone(state, marker)


def test_concurrent_builders_of_one_step_wait_for_one_build(state: Path) -> None:
    build(Env(), state)
    line = f"echo going {os.getpid()}; sleep 0.5"
    processes = [start_build(state, line) for _ in range(3)]
    texts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(text.count("output going") for text in texts) == 1
    assert leftovers(state) == []


@needs_root
def test_a_full_disk_during_a_step_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    from kibo.model.errors import HostDiskFull

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "none", tmp_path], check=True)
    try:
        build(Env(), tmp_path)
        with pytest.raises(HostDiskFull):
            build(Env(run=["head -c 300M /dev/zero > /srv/large"]), tmp_path)
        assert leftovers(tmp_path) == []
        assert build(Env(run=["echo small > /srv/small"]), tmp_path)[0].layers
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@needs_root
def test_a_state_directory_that_cannot_hold_an_overlay_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
    try:
        with pytest.raises(HostUnsupported, match="overlay") as caught:
            build(Env(run=["true"]), merged)
        assert "KIBO_HOME" in caught.value.hint
        assert leftovers(merged) == []
    finally:
        subprocess.run(["umount", "-l", merged], check=True)
