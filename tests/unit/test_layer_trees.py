"""Layers: the same content has the same name, whenever and wherever it was made."""

import os
import time
from pathlib import Path

import pytest

from kibo.runtime.layers.digest import digest_tree
from kibo.runtime.layers.normalise import EPOCH_S, Cleaning, normalise


def make_tree(root: Path) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/one").write_text("one")
    os.link(root / "etc/one", root / "etc/two")
    (root / "link").symlink_to("etc/one")
    (root / "empty").mkdir()
    return root


def named(root: Path) -> str:
    normalise(root)
    return digest_tree(root).digest


def test_equal_trees_have_equal_digests_whenever_they_were_made(tmp_path: Path) -> None:
    first = make_tree(tmp_path / "a")
    second = make_tree(tmp_path / "b")
    later = time.time() + 3600
    os.utime(second / "etc/one", (later, later))
    assert named(first) == named(second)


@pytest.mark.parametrize(
    "change", ["content", "mode", "name", "target", "hard link", "attribute", "whiteout"]
)
def test_whatever_a_box_could_tell_apart_gives_another_digest(tmp_path: Path, change: str) -> None:
    tree = make_tree(tmp_path / "a")
    before = named(tree)
    if change == "content":
        (tree / "etc/one").write_text("eno")
    elif change == "mode":
        (tree / "etc/one").chmod(0o600)
    elif change == "name":
        (tree / "empty").rename(tree / "void")
    elif change == "target":
        (tree / "link").unlink()
        (tree / "link").symlink_to("etc/two")
    elif change == "hard link":
        (tree / "etc/two").unlink()
        (tree / "etc/two").write_text("one")
    elif change == "attribute":
        os.setxattr(tree / "empty", "user.overlay.opaque", b"y")
    else:
        os.mknod(tree / "empty/gone", 0o20000, os.makedev(0, 0))
    assert named(tree) != before


def test_overlay_notes_of_origin_do_not_count(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    before = named(tree)
    os.setxattr(tree / "empty", "user.overlay.origin", b"somewhere on this disk")
    assert named(tree) == before


def test_times_are_clamped_to_the_epoch_and_older_ones_stay(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    os.utime(tree / "etc/one", (1_000, 1_000))
    normalise(tree)
    assert (tree / "etc/one").stat().st_mtime == 1_000
    assert (tree / "empty").stat().st_mtime == EPOCH_S


def test_logs_and_caches_go_and_a_whiteout_of_one_stays(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    before = named(tree)
    for name in ("var/log/dpkg.log", "var/lib/apt/lists/index", "tmp/scratch", "root/.cache/pip/x"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of this build")
    normalise(tree)
    assert not (tree / "var/log/dpkg.log").exists()
    assert list((tree / "tmp").iterdir()) == []
    assert (tree / "var/lib/apt/lists").is_dir()
    os.mknod(tree / "var/log/dpkg.log", 0o20000, os.makedev(0, 0))
    normalise(tree)
    assert (tree / "var/log/dpkg.log").is_char_device()
    assert digest_tree(tree).digest != before


def test_a_link_in_the_tree_does_not_lead_the_cleaning_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("log/apt", "lib/apt/lists", "cache/apt/archives"):
        (outside / name).mkdir(parents=True)
        (outside / name / "precious").touch()
    (outside / "log/dpkg.log").touch()
    (outside / "machine-id").write_text("mine")
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("var", "etc", "tmp", "run"):
        (tree / name).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    normalise(tree)
    assert sorted(outside.rglob("*")) == before
    assert (outside / "machine-id").read_text() == "mine"


@pytest.mark.parametrize(("cleaning", "left"), [("packages", set()), ("command", {"tmp/a", "root/.cache/a"}),
                                                ("nothing", {"tmp/a", "root/.cache/a", "var/log/apt/a"})])  # fmt: skip
def test_only_a_package_managers_own_leavings_go(tmp_path: Path, cleaning: Cleaning, left: set[str]) -> None:
    names = ("tmp/a", "root/.cache/a", "var/log/apt/a")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    normalise(tmp_path, cleaning)
    assert {name for name in names if (tmp_path / name).exists()} == left


def test_compiled_python_stays_valid_for_its_source(tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    source = tmp_path / "module.py"
    source.write_text("answer = 42\n")
    compiled = Path(py_compile.compile(str(source), doraise=True))
    normalise(tmp_path)
    data = compiled.read_bytes()
    assert int.from_bytes(data[8:12], "little") == int(source.stat().st_mtime) == EPOCH_S
    assert data[:4] == importlib.util.MAGIC_NUMBER


def test_ids_are_counted_as_a_box_sees_them(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    assert digest_tree(tree, lambda number: 7).digest == digest_tree(tree, lambda number: 7).digest
    assert digest_tree(tree, lambda number: 7).digest != digest_tree(tree, lambda number: 8).digest


def test_a_socket_cannot_be_kept(tmp_path: Path) -> None:
    import socket

    tree = make_tree(tmp_path / "a")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "s"))
    with pytest.raises(ValueError, match="socket"):
        digest_tree(tree)
