"""Files of a box: single ones, trees, changes, and paths that try to lead out."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kibo import Box, Env, Limits, action
from kibo.model import errors
from kibo.runtime.instance import Instance

LARGE = 9 << 20  # more than two pieces


class Shelf(Box):
    """A box that keeps files."""

    env = Env(
        files={"/etc/kitchen/menu.txt": b"latte\n", "/work/given": b"given"},
        limits=Limits(disk_bytes=64 << 20),
    )

    def launch(self) -> None:
        """Leaves files in the cached state."""
        os.makedirs("/work/kept/inner")
        for name in ("a", "b", "inner/c"):
            with open(f"/work/kept/{name}", "w") as file:
                file.write(name)

    @action
    def fill(self) -> int:
        """Write until nothing more fits, and tell how many MiB did."""
        written = 0
        with open("/work/filler", "wb") as file:
            try:
                while True:
                    written += file.write(b"x" * (1 << 20))
                    file.flush()
            except OSError as error:
                if error.errno != 28:  # no assertion, which pytest would have the box import itself for
                    raise
        return written >> 20

    @action
    def fill_and_fail(self) -> None:
        """Write until nothing more fits, and let the error out."""
        with open("/work/filler", "wb") as file:
            while True:
                file.write(b"x" * (1 << 20))


@pytest.fixture
def shelf() -> Iterator[Instance]:
    with Shelf().spawn() as instance:
        yield instance


@pytest.mark.parametrize("content", [b"", b"latte", bytes(range(256)) * 100, b"x" * LARGE], ids=len)
def test_what_is_written_is_read(shelf: Instance, content: bytes) -> None:
    shelf.files.write("some/where/file", content)
    assert shelf.files.read("some/where/file") == content
    assert shelf.files.read("/work/some/where/file") == content


def test_text_is_written_as_utf8_and_modes_are_kept(shelf: Instance) -> None:
    shelf.files.write("run.sh", "#!/bin/sh\necho kaffé\n", mode=0o755)
    assert shelf.exec("./run.sh").stdout == "kaffé\n"


def test_files_of_the_environment_and_of_the_launch_are_there(shelf: Instance) -> None:
    assert shelf.files.read("/etc/kitchen/menu.txt") == b"latte\n"
    assert shelf.files.read("given") == b"given"
    assert shelf.files.read("kept/inner/c") == b"inner/c"


def test_a_directory_is_listed_in_order(shelf: Instance) -> None:
    shelf.exec("ln -s a kept/link; mkfifo kept/pipe")
    listed = shelf.files.list("kept")
    assert [(info.name, info.kind) for info in listed] == [
        ("a", "file"), ("b", "file"), ("inner", "directory"), ("link", "link"), ("pipe", "other"),
    ]  # fmt: skip
    assert (listed[0].size, listed[0].mode) == (1, 0o644)
    assert shelf.files.list("kept/inner")[0].name == "c"


def test_names_that_are_no_text_survive_listing_and_copying(shelf: Instance, tmp_path: Path) -> None:
    shelf.exec(r"mkdir odd; printf x > odd/$(printf 'a\377b'); ln -s $(printf 'a\377b') odd/link")
    assert [info.name for info in shelf.files.list("odd")] == ["a\udcffb", "link"]
    assert shelf.files.read("odd/a\udcffb") == b"x"
    shelf.files.download("odd", tmp_path / "odd")
    assert sorted(os.listdir(os.fsencode(tmp_path / "odd"))) == [b"a\xffb", b"link"]
    shelf.files.upload(tmp_path / "odd", "again")
    assert [info.name for info in shelf.files.list("again")] == ["a\udcffb", "link"]
    assert [change.path for change in shelf.diff() if "again" in change.path][1] == "/work/again/a\udcffb"


def test_what_is_missing_is_named(shelf: Instance) -> None:
    for use in (shelf.files.read, shelf.files.list, shelf.files.remove):
        with pytest.raises(errors.FileMissing, match="/work/nothing"):
            use("nothing")
    with pytest.raises(errors.FileMissing):
        shelf.files.download("nothing", "/tmp/nothing")


def test_a_directory_is_not_read_and_a_file_not_listed(shelf: Instance) -> None:
    with pytest.raises(errors.InvalidInput, match="directory"):
        shelf.files.read("kept")
    with pytest.raises(errors.InvalidInput, match="directory"):
        shelf.files.list("kept/a")
    with pytest.raises(errors.KiboError, match="directory"):
        shelf.files.write("kept", b"x")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "a\ud800b"])
def test_what_is_no_path_is_refused(shelf: Instance, path: str) -> None:
    for use in (shelf.files.read, shelf.files.list, shelf.files.remove):
        with pytest.raises(errors.PathRefused):
            use(path)


def test_removal_takes_trees_and_nothing_behind_links(shelf: Instance) -> None:
    shelf.exec("mkdir tree; ln -s ../kept tree/link")
    shelf.files.remove("tree")
    assert [info.name for info in shelf.files.list()] == ["given", "kept"]
    assert len(shelf.files.list("kept")) == 3
    shelf.files.remove("kept/a")
    assert [info.name for info in shelf.files.list("kept")] == ["b", "inner"]


# Paths that climb, and links that swap


@pytest.mark.parametrize(
    "path", ["../../../../../etc/hostname", "/../../etc/hostname", "kept/../../../etc/hostname"]
)
def test_a_path_that_climbs_stays_in_the_box(shelf: Instance, path: str) -> None:
    try:
        shelf.files.write(path, b"mine")
    except errors.PathRefused:
        pass  # /etc of the box is its root's, where the box has more than one id
    else:
        assert shelf.files.read("/etc/hostname") == b"mine"
    assert Path("/etc/hostname").read_bytes() != b"mine"


def test_an_absolute_path_is_the_boxs_own(shelf: Instance, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    with pytest.raises(errors.FileMissing):
        shelf.files.read(str(secret))
    shelf.files.write("/tmp/kibo-test-own", b"the box's")
    assert not Path("/tmp/kibo-test-own").exists()


def test_a_link_to_a_path_of_the_host_leads_to_the_boxs_own(shelf: Instance, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    shelf.exec(f"ln -s {secret} link; ln -s / root; ln -s {tmp_path} place")
    with pytest.raises(errors.FileMissing):
        shelf.files.read("link")
    with pytest.raises(errors.FileMissing):
        shelf.files.read(f"root{secret}")
    with pytest.raises((errors.PathRefused, errors.FileMissing, errors.InvalidInput)):
        shelf.files.write("place/planted", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_links_that_are_swapped_during_a_read_never_show_the_host(shelf: Instance, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    shelf.exec("mkdir real fake; echo good > real/secret; ln -s real here")
    swapper = shelf.popen(
        f"while :; do ln -sfn {tmp_path} here; ln -sfn /work/real here; ln -sfn ../../../{tmp_path} here; done"
    )
    try:
        for _ in range(300):
            try:
                assert shelf.files.read("here/secret") == b"good\n"
            except errors.KiboError as error:
                assert error.code in ("files.missing", "files.path")  # noqa: PT017
    finally:
        swapper.close()


def test_a_download_does_not_follow_links_that_the_box_made(shelf: Instance, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shelf.exec(f"mkdir trap; ln -s {outside} trap/dir; ln -s /etc/passwd trap/file; echo x > trap/plain")
    target = tmp_path / "target"
    assert shelf.files.download("trap", target) == 4
    assert (target / "dir").is_symlink()
    assert (target / "plain").read_text() == "x\n"
    assert list(outside.iterdir()) == []


def test_a_download_again_replaces_links_and_never_writes_through_them(
    shelf: Instance, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    target = tmp_path / "target"
    shelf.exec(f"mkdir tree; ln -s {victim} tree/name")
    shelf.files.download("tree", target)
    shelf.exec("rm tree/name; echo evil > tree/name")
    shelf.files.download("tree", target)
    assert victim.read_text() == "untouched"
    assert (target / "name").read_text() == "evil\n"


def test_a_downloaded_file_has_no_bits_that_give_rights(shelf: Instance, tmp_path: Path) -> None:
    shelf.exec("echo x > tool; chmod 6755 tool")
    shelf.files.download("tool", tmp_path / "tool")
    assert (tmp_path / "tool").stat().st_mode & 0o7777 == 0o755


# Trees


def _tree(root: Path, count: int) -> None:
    for index in range(count):
        path = root / f"d{index % 7}" / f"f{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{index}\n".encode() * 50)
    (root / "large").write_bytes(os.urandom(LARGE))
    (root / "empty").mkdir()
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    (root / "link").symlink_to("d1/f1")
    (root / "dangling").symlink_to("/no/where")


def _contents(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


def test_a_tree_goes_in_and_comes_out_unchanged(shelf: Instance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _tree(source, 1200)
    seen: list[tuple[int, int]] = []
    files = shelf.files.upload(source, "tree", progress=lambda count, size: seen.append((count, size)))
    assert files == len(_contents(source)) + 1
    assert seen == sorted(seen)
    assert seen[-1][0] == files
    assert seen[-1][1] > LARGE
    assert shelf.exec("sh tree/script && cat tree/link").stdout == "1\n" * 50
    assert shelf.files.download("tree", tmp_path / "back") == files
    assert _contents(tmp_path / "back") == _contents(source)


def test_a_tree_goes_over_one_that_is_there(shelf: Instance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _tree(source, 10)
    shelf.files.upload(source, "tree")
    (source / "d1" / "f1").write_text("changed")
    shelf.files.upload(source, "tree")
    assert shelf.files.read("tree/d1/f1") == b"changed"


def test_an_upload_replaces_a_link_and_does_not_write_through_it(shelf: Instance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "name").symlink_to("/work/kept/a")
    shelf.files.upload(source, "tree")
    (source / "name").unlink()
    (source / "name").write_text("own")
    shelf.files.upload(source, "tree")
    assert shelf.files.read("kept/a") == b"a"
    assert shelf.files.read("tree/name") == b"own"


def test_one_file_goes_in_and_comes_out(shelf: Instance, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * LARGE)
    assert shelf.files.upload(tmp_path / "one", "there/one") == 1
    assert shelf.files.download("there/one", tmp_path / "two") == 1
    assert (tmp_path / "two").read_bytes() == b"1" * LARGE
    shelf.files.write("small", b"2")
    assert shelf.files.download("small", tmp_path / "three") == 1
    assert (tmp_path / "three").read_bytes() == b"2"


def test_many_large_files_arrive_whole(shelf: Instance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index in range(5):
        (source / f"f{index}").write_bytes(os.urandom((4 << 20) - 2 + index))
    shelf.files.upload(source, "large")
    shelf.files.download("large", tmp_path / "back")
    assert _contents(tmp_path / "back") == _contents(source)


def test_a_source_that_is_missing_on_the_host_is_an_error_and_the_box_lives_on(
    shelf: Instance, tmp_path: Path
) -> None:
    with pytest.raises(errors.FileMissing, match=r"nothing on this host"):
        shelf.files.upload(tmp_path / "nothing", "x")
    with pytest.raises(errors.FileMissing, match="on this host"):
        shelf.files.download("given", "/proc/nothing/there")
    assert shelf.files.read("given") == b"given"


@pytest.mark.parametrize("content", [5, None, ["x"]])
def test_content_that_is_none_is_refused_and_nothing_is_written(shelf: Instance, content: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="bytes or text"):
        shelf.files.write("none", content)
    with pytest.raises(errors.PathRefused):
        shelf.files.read(content)
    with pytest.raises(errors.FileMissing):
        shelf.files.read("none")


def test_an_instance_without_a_name_lives_while_its_files_and_commands_are_used() -> None:
    assert Shelf().spawn().files.read("/etc/hostname") == b"box\n"
    files = Shelf().spawn().files
    gc.collect()
    files.write("note", "kept")
    assert files.read("note") == b"kept"
    command = Shelf().spawn().popen("sleep 0.2; echo done")
    gc.collect()
    assert command.stdout.read() == b"done\n"
    command.close()


def test_an_upload_where_the_box_may_not_write_says_where(shelf: Instance, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.PathRefused, match="/usr"):
        shelf.files.upload(tmp_path / "file", "/usr/x")
    assert shelf.files.read("given") == b"given"


def test_a_file_that_the_box_may_not_read_is_refused(shelf: Instance) -> None:
    shelf.exec("echo x > locked; chmod 0 locked")
    with pytest.raises(errors.PathRefused, match="locked"):
        shelf.files.read("locked")


def test_a_pipe_in_the_box_does_not_hold_the_reader_up(shelf: Instance) -> None:
    shelf.exec("mkfifo pipe")
    with pytest.raises(errors.InvalidInput, match="regular"):
        shelf.files.read("pipe")
    with pytest.raises(errors.KiboError):
        shelf.files.write("pipe", b"x")
    assert shelf.files.read("given") == b"given"


def test_an_endless_file_is_stopped(shelf: Instance) -> None:
    with pytest.raises(errors.KiboError):
        shelf.files.read("/dev/zero")
    assert shelf.files.read("given") == b"given"


# Limits and changes


def test_a_full_disk_is_the_boxs_own_and_is_an_error(shelf: Instance) -> None:
    filled = shelf.fill()
    assert 40 <= filled <= 64
    with pytest.raises(errors.DiskFull, match=r"/work/more") as caught:
        shelf.files.write("more", b"x" * (8 << 20))
    assert "disk_bytes" in caught.value.hint
    shelf.files.remove("filler")
    shelf.files.write("more", b"x")
    with Shelf().spawn() as other:
        other.files.write("room", b"x" * (8 << 20))


def test_an_action_that_fills_the_disk_raises_and_says_so(shelf: Instance) -> None:
    with pytest.raises(errors.KiboError, match="No space left") as caught:
        shelf.fill_and_fail()
    assert caught.value.code == "action.raised"
    assert "Limits.disk_bytes" in caught.value.hint
    assert shelf.files.read("given") == b"given"


def test_a_command_on_a_full_disk_says_so(shelf: Instance) -> None:
    done = shelf.exec("dd if=/dev/zero of=big bs=1M count=100")
    assert done.returncode == 1
    assert "No space left" in done.stderr


def test_the_diff_lists_what_was_added_changed_and_removed(shelf: Instance) -> None:
    assert shelf.diff() == []
    shelf.files.write("new/file", b"12345")
    shelf.files.write("kept/a", b"other")
    shelf.files.remove("kept/b")
    found = [(change.kind, change.path, change.size) for change in shelf.diff()]
    assert found == [
        ("changed", "/work/kept/a", 5),
        ("removed", "/work/kept/b", 0),
        ("added", "/work/new/", 0),
        ("added", "/work/new/file", 5),
    ]


def test_the_diff_of_a_directory_that_was_replaced_lists_both_sides(shelf: Instance) -> None:
    shelf.exec("rm -r kept; mkdir kept; echo new > kept/a; echo more > kept/d")
    found = {change.path: change.kind for change in shelf.diff()}
    assert found["/work/kept/a"] == "changed"
    assert found["/work/kept/d"] == "added"
    assert found["/work/kept/b"] == "removed"
    assert found["/work/kept/inner/"] == "removed"


def test_printing_is_no_change(shelf: Instance) -> None:
    shelf.exec("echo x > /dev/null")
    assert shelf.diff() == []


def test_changes_are_seen_as_they_happen(shelf: Instance) -> None:
    changes = shelf.files.watch("kept")
    seen: list[tuple[str, str]] = []

    def look() -> None:
        for change in changes:
            seen.append((change.kind, change.name))
            if change.name == "end":
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    # The watch begins with the first look, in the thread.
    for _ in range(200):
        shelf.exec("touch kept/begun; rm kept/begun")
        if seen:
            break
        time.sleep(0.01)
    shelf.exec("echo x > kept/new; mv kept/a kept/moved; rm kept/b; touch kept/end")
    watcher.join(5)
    for expected in [
        ("created", "new"),
        ("changed", "new"),
        ("removed", "a"),
        ("created", "moved"),
        ("removed", "b"),
    ]:
        assert expected in seen
    changes.close()


def test_watching_what_is_not_there_is_an_error(shelf: Instance) -> None:
    with pytest.raises(errors.FileMissing):
        next(shelf.files.watch("nothing"))


def test_files_work_while_an_action_runs_and_from_many_threads(shelf: Instance) -> None:
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for turn in range(10):
                shelf.files.write(f"t{index}", f"{index} {turn}")
                assert shelf.files.read(f"t{index}") == f"{index} {turn}".encode()
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_file_server_that_the_box_kills_is_an_error_and_the_next_use_has_another(shelf: Instance) -> None:
    shelf.files.read("given")
    # Takes the server along that had started the command, too.
    with pytest.raises(errors.Unavailable, match="killed"):
        shelf.exec(
            "for p in /proc/[0-9]*; do p=${p#/proc/}; test $p != 1 -a $p != $$ && kill -9 $p; done; sleep 5"
        )
    with pytest.raises(errors.Unavailable):
        shelf.files.read("given")
    assert shelf.exec("echo on").stdout == "on\n"
    assert shelf.files.read("given") == b"given"
