"""The store of layers: sealed at once or not at all, shared by processes, swept and collected."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kibo.model.errors import HostDiskFull
from kibo.runtime.layers.collection import collect
from kibo.runtime.layers.home import prepare_home, state_home
from kibo.runtime.layers.store import Built, Layer, LayerStore, pin
from kibo.runtime.layers.temporary import TemporaryEntry, remove_tree, sweep
from kibo.store.locking import holding, try_lock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    prepare_home(tmp_path / "state")
    return tmp_path / "state"


def seal(state: Path, text: str) -> Layer:
    entry = TemporaryEntry.create(state, "test")
    tree = entry.path / "tree"
    tree.mkdir()
    (tree / "file").write_text(text)
    layer = LayerStore(state).seal(entry, tree)
    entry.remove()
    return layer


def test_a_sealed_layer_is_found_by_its_key(state: Path) -> None:
    store = LayerStore(state)
    layer = seal(state, "one")
    store.record("key", Built((layer,), {"packages": ["a"]}))
    assert store.find("key") == Built((layer,), {"packages": ["a"]})
    assert (layer.path / "file").read_text() == "one"
    assert json.loads((layer.path.parent / "meta.json").read_text())["entries"] == 2


def test_the_same_content_is_stored_once(state: Path) -> None:
    assert seal(state, "one") == seal(state, "one")
    assert len(list((state / "layers").iterdir())) == 1


def test_a_key_whose_layer_is_gone_is_not_found(state: Path) -> None:
    store = LayerStore(state)
    layer = seal(state, "one")
    store.record("key", Built((layer,)))
    remove_tree(layer.path.parent)
    assert store.find("key") is None


def test_trees_of_any_mode_can_be_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed/deeper").mkdir(parents=True)
    (tree / "closed/deeper/file").touch()
    (tree / "closed/deeper").chmod(0)
    (tree / "closed").chmod(0)
    (tree / "out").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "kept").is_dir()


def test_sweep_takes_what_nobody_holds_and_leaves_what_somebody_does(state: Path) -> None:
    held = TemporaryEntry.create(state, "held")
    dropped = TemporaryEntry.create(state, "dropped")
    (dropped.path / "file").touch()
    os.close(dropped.lock_fd)
    assert sweep(state) == [dropped.path.name]
    assert sorted(path.name for path in (state / "tmp").iterdir()) == [
        held.path.name,
        f"{held.path.name}.lock",
    ]
    held.remove()
    assert list((state / "tmp").iterdir()) == []


def test_an_entry_of_a_killed_process_is_swept(state: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from kibo.runtime.layers.temporary import TemporaryEntry\n"
        "entry = TemporaryEntry.create(Path(sys.argv[1]), 'test'); print(entry.path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert sweep(state) == []
        process.send_signal(signal.SIGKILL)
    assert path.is_dir()
    assert sweep(state) == [path.name]
    assert not path.exists()


def _count_up(path: Path, lock: Path, times: int) -> None:
    for _ in range(times):
        with holding(lock):
            path.write_text(str(int(path.read_text()) + 1))


def test_a_lock_admits_one_process_at_a_time(state: Path) -> None:
    path, lock = state / "count", state / "locks" / "test"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count_up, args=(path, lock, 100)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "400"
    assert not lock.exists()


def test_collection_follows_pins_ages_and_names(state: Path) -> None:
    store = LayerStore(state)
    layers = {name: seal(state, name) for name in ("pinned", "named", "recent", "old")}
    for name, layer in layers.items():
        store.record(name, Built((layer,)))
    long_ago = time.time() - 30 * 86_400
    for name in ("pinned", "named", "old"):
        os.utime(state / "keys" / name, (long_ago, long_ago))
    pin(state, [layers["pinned"]])
    planned = collect(state, keep=[layers["named"].digest], dry=True)
    assert planned.layers == (layers["old"].digest,)
    assert layers["old"].path.exists()
    done = collect(state, keep=[layers["named"].digest])
    assert done.layers == planned.layers
    assert done.freed_bytes == len("old")
    assert not layers["old"].path.exists()
    assert all(layers[name].path.exists() for name in ("pinned", "named", "recent"))
    assert try_lock(state / "locks" / f"{layers['pinned'].path.parent.name}.layer") is None


def test_collecting_everything_leaves_only_what_is_pinned(state: Path) -> None:
    layer = seal(state, "x")
    LayerStore(state).record("key", Built((layer,)))
    assert collect(state, unused_s=0).layers == (layer.digest,)
    assert LayerStore(state).find("key") is None


def test_a_full_disk_is_said_so_and_leaves_no_layer(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", home], check=True)
    try:
        prepare_home(home)
        entry = TemporaryEntry.create(home, "test")
        tree = entry.path / "tree"
        tree.mkdir()
        with pytest.raises(OSError, match="No space left"), open(tree / "large", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(HostDiskFull, match="full"):
            LayerStore(home).record("key", Built(()))
            LayerStore(home).seal(entry, tree)
        entry.remove()
        assert list((home / "layers").iterdir()) == []
        assert list((home / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", home], check=True)


def test_the_state_directory_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIBO_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert state_home() == tmp_path / "kibo"
    prepare_home(state_home())
    assert state_home().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("KIBO_HOME", str(tmp_path / "other"))
    assert state_home() == tmp_path / "other"
