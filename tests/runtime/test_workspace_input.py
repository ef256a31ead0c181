"""Workspaces with everything that directories can hold: through a freeze, forks, a merge and an apply unharmed, or an
error that names it. `docs/howto/branch-an-agent.md` has a row for each.
"""

from __future__ import annotations

import inspect
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from kibo.branch.branch import Branch
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.watching import Room, used_room
from kibo.model import errors
from kibo.model.limits import MAX_TREE_PATH_BYTES
from kibo.runtime.trees.conflict import THEIRS
from value_boxes import Values
from workspace_trials import as_root, as_user, in_a_fork, left_in, refused, run, tree

# -- names


NAMES = [
    b"case", b"Case", b"CASE", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xff\xfe not text", b"two\nlines", b" ", b"...",
    b"-rf", b"back\\slash", b"*?[a]", b"\x1b[31mred", b"\xf0\x9f\xa6\x8a\xe2\x80\x8d\xf0\x9f\x8e\xa9", b"n" * 255,
    b"\xe4\xb8\xad" * 85, b".kibo-apply-mine", b".wh.whiteout", b"CON", b"\xe2\x80\xaetxt.exe",
]  # fmt: skip


def test_every_name_that_a_file_can_have_comes_in_and_goes_out(main: Branch, work: Path) -> None:
    for number, name in enumerate(NAMES):
        Path(os.fsdecode(bytes(work) + b"/" + name)).write_text(f"host {number}")
    box = main.spawn(Values(), workspace=work)
    names = f"names = {NAMES!r}\n"
    assert run(box, f"{names}print(sorted(os.listdir(b'.')) == sorted(names))") == "True\n"
    code = "for n in names:\n open(n, 'a').write(' box')\n os.mkdir(n[:250] + b'+dir')\n"
    in_a_fork(main, box, f"{names}{code} open(n[:250] + b'+dir/' + n, 'w').close()")
    changed = {os.fsencode(change.path) for change in main.diff()}
    assert {b"/work/" + name for name in NAMES} < changed
    main.apply()
    for number, name in enumerate(NAMES):
        assert Path(os.fsdecode(bytes(work) + b"/" + name)).read_text() == f"host {number} box"
        assert os.listdir(bytes(work) + b"/" + name[:250] + b"+dir") == [name]
    assert len(os.listdir(work)) == 2 * len(NAMES) + 1


def deep(place: Path, length: int, text: str = "deep") -> None:
    """Makes a file whose path from ``place`` has so many bytes, more than one call may name."""
    fd = os.open(place, os.O_RDONLY)
    names = ["d" * 200] * ((length - 1) // 201)
    for name in names:
        if not os.path.lexists(f"/proc/self/fd/{fd}/{name}"):
            os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    file = os.open("f" * (length - 201 * len(names)), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, dir_fd=fd)
    os.write(file, text.encode())
    os.close(file)
    os.close(fd)


DEEP = f"import os\n{inspect.getsource(deep)}".replace("place: Path", "place")
LONGEST = MAX_TREE_PATH_BYTES - len("work/")


def test_a_path_of_the_greatest_length_comes_in_and_goes_out(main: Branch, work: Path) -> None:
    deep(work, LONGEST)
    box = main.spawn(Values(), workspace=work)
    in_a_fork(main, box, f"{DEEP}deep('/work', {LONGEST}, 'box')\ndeep('/work', {LONGEST - 1}, 'more')")
    assert max(len(change.path) for change in main.diff()) == len("/work/") + LONGEST
    main.apply()
    for length, text in ((LONGEST, "box"), (LONGEST - 1, "more")):
        place = "/".join(["d" * 200] * ((length - 1) // 201))
        name = "f" * (length - len(place) - 1)
        fd = os.open(work, os.O_RDONLY)
        with open(
            f"{place}/{name}", opener=lambda path, flags, fd=fd: os.open(path, flags, dir_fd=fd)
        ) as file:
            assert file.read() == text
        os.close(fd)


@pytest.mark.parametrize("length", [LONGEST + 1, 4085, 4095, 4096, 9000])
def test_a_longer_path_on_the_host_is_named_and_nothing_is_kept(
    main: Branch, work: Path, home: Path, length: int
) -> None:
    deep(work, length)
    before = os.listdir(home / "deltas")
    error = refused(
        errors.PathTooLong, lambda: main.spawn(Values(), workspace=work), "dddd", MAX_TREE_PATH_BYTES
    )
    assert error.code == "files.path_too_long"
    assert (os.listdir(home / "deltas"), left_in(home), main.instances) == (before, [], {})


@pytest.mark.parametrize("length", [MAX_TREE_PATH_BYTES + 1, 4085, 4095, 4096, 9000])
def test_a_longer_path_that_a_box_made_is_named_until_it_is_gone(
    main: Branch, work: Path, home: Path, length: int
) -> None:
    (work / "file").write_text("host")
    box = main.spawn(Values(), workspace=work)
    (fork,) = main.fork()
    run(fork[box], f"{DEEP}deep('/work', {length})\nopen('file', 'w').write('box')")
    run(box, "open('of the parent', 'w').close()")
    for call in (fork[box].diff, fork.diff, fork.merge):
        assert refused(errors.PathTooLong, call, "dddd").details["bytes"] > MAX_TREE_PATH_BYTES
    fork.commit(overwrite=True)
    for call in (main.diff, main.apply):
        refused(errors.PathTooLong, call, "dddd")
    assert os.listdir(work) == ["file"]
    assert (work / "file").read_text() == "host"
    box.exec("rm -r d*")
    main.apply()
    assert (work / "file").read_text() == "box"
    assert left_in(home) == []


def test_what_lies_deeper_than_paths_reach_counts_towards_the_disk_that_a_box_may_use(work: Path) -> None:
    deep(work, 9000, "x" * (1 << 20))
    used = used_room(str(work), Room(1 << 30, 1 << 30)).bytes
    assert 1 << 20 < used < 2 << 20
    assert used_room(str(work), Room(1 << 20, 1 << 30)).bytes > 1 << 20
    deep(work, 100_000)
    assert used_room(str(work), Room(1 << 30, 1 << 30)).bytes > 1 << 30, "nobody can tell what is at its end"
    assert used_room(str(work / "gone"), Room(1 << 30, 1 << 30)).bytes == 0


# -- what files can be


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_holes_stay_holes_all_the_way(main: Branch, work: Path) -> None:
    size, middle = 1 << 33, 1 << 32
    for name in ("touched", "kept"):
        with open(work / name, "wb") as file:
            file.truncate(size)
            file.seek(middle)
            file.write(b"host" * 1024)
    if on_disk(work / "kept") > 1 << 20:
        pytest.skip("this file system has no holes")
    box = main.spawn(Values(), workspace=work)
    assert int(box.exec("stat -c %b kept").stdout) * 512 < 1 << 20
    code = f"f = open('touched', 'r+b'); f.seek({middle + 4096}); f.write(b'box')\n"
    code += f"f = open('made', 'wb'); f.truncate({size}); f.seek({middle}); f.write(b'made')"
    in_a_fork(main, box, code)
    assert {change.path: change.size for change in main.diff()}["/work/made"] == size
    main.apply()
    for name, place, text in (("touched", middle + 4096, b"box"), ("made", middle, b"made")):
        assert (work / name).stat().st_size == size
        assert on_disk(work / name) < 16 << 20, "the kernel copies up a megabyte at a time"
        with open(work / name, "rb") as file:
            file.seek(place)
            assert file.read(len(text)) == text


def test_names_of_one_file_stay_that_and_a_write_through_one_parts_it(main: Branch, work: Path) -> None:
    for group in ("kept", "parted"):
        (work / f"{group}1").write_text(group)
        os.link(work / f"{group}1", work / f"{group}2")
    box = main.spawn(Values(), workspace=work)
    assert box.exec("stat -c %i kept1 kept2 | uniq | wc -l").stdout == "1\n"
    code = "open('parted1', 'w').write('box'); open('new1', 'w').write('new'); os.link('new1', 'new2'); "
    in_a_fork(main, box, code + "os.mkdir('sub'); os.link('new1', 'sub/new3'); os.link('kept1', 'kept3')")
    main.apply()
    assert [(work / name).read_text() for name in ("parted1", "parted2")] == ["box", "parted"]
    assert (work / "kept1").samefile(work / "kept2")
    assert (work / "kept3").read_text() == "kept"
    assert (work / "new1").stat().st_nlink == 3
    assert (work / "new1").samefile(work / "sub/new3")


def test_attributes_come_in_and_go_out(main: Branch, work: Path) -> None:
    (work / "file").write_text("host")
    (work / "dir").mkdir()
    try:
        # One that the overlay would take for a note of its own is a program's like any other.
        for name in ("user.kept", "user.removed", "user.overlay.opaque"):
            os.setxattr(work / "file", name, b"y")
            os.setxattr(work / "dir", name, b"y")
    except OSError:
        pytest.skip("this file system has no attributes")
    (work / "dir/inside").write_text("seen")
    box = main.spawn(Values(), workspace=work)
    assert run(box, "print(os.getxattr('file', 'user.kept'), os.listdir('dir'))") == "b'y' ['inside']\n"
    code = "for p in 'file', 'dir':\n os.removexattr(p, 'user.removed'); os.setxattr(p, 'user.made', b'\\0' * 1000)\n"
    in_a_fork(main, box, code + "open('new', 'w').close(); os.setxattr('new', 'user.made', b'')")
    assert {c.path for c in main.diff()} >= {"/work/file", "/work/dir/", "/work/new"}
    main.apply()
    for name in ("file", "dir"):
        own = {key: os.getxattr(work / name, key) for key in os.listxattr(work / name)}
        assert own == {"user.kept": b"y", "user.overlay.opaque": b"y", "user.made": bytes(1000)}
    assert os.listxattr(work / "new") == ["user.made"]
    assert os.listdir(work / "dir") == ["inside"]


def test_fifos_come_in_and_go_out_and_lead_nowhere(main: Branch, work: Path) -> None:
    for name in ("kept", "removed", "replaced", "mode"):
        os.mkfifo(work / name, 0o640)
    box = main.spawn(Values(), workspace=work)
    assert set(box.exec("find . -type p").stdout.split()) == {"./kept", "./removed", "./replaced", "./mode"}
    reader = os.open(work / "kept", os.O_RDONLY | os.O_NONBLOCK)
    code = "\n".join([
        "try:\n os.open('kept', os.O_WRONLY | os.O_NONBLOCK)",
        "except OSError as error:\n assert error.errno == 6, error",
        "else:\n raise SystemExit('somebody outside reads it')",
        "os.unlink('removed'); os.unlink('replaced'); open('replaced', 'w').close(); os.mkfifo('made', 0o600)",
        "os.chmod('mode', 0o600)",
    ])  # fmt: skip
    in_a_fork(main, box, code)
    os.close(reader)
    main.apply()
    kinds = {path.name: stat.filemode(path.lstat().st_mode) for path in work.iterdir()}
    assert kinds == {
        "kept": "prw-r-----", "mode": "prw-------", "made": "prw-------", "replaced": "-rw-r--r--",
        "of the parent": "-rw-r--r--",
    }  # fmt: skip


def test_a_fifo_that_the_host_uses_meanwhile_has_not_changed(main: Branch, work: Path) -> None:
    (work / "dir").mkdir()
    for name in ("removed", "replaced", "dir/within"):
        os.mkfifo(work / name)
    box = main.spawn(Values(), workspace=work)
    for name in ("removed", "replaced", "dir/within"):
        fd = os.open(work / name, os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, b"through")
        os.close(fd)
    run(
        box,
        "import shutil; shutil.rmtree('dir'); os.unlink('removed'); os.unlink('replaced'); os.mkdir('replaced')",
    )
    main.apply()
    assert tree(work) == {"replaced": "d"}


def test_sockets_are_left_out_and_neither_replaced_nor_removed(main: Branch, work: Path, home: Path) -> None:
    (work / "dir").mkdir()
    here = os.getcwd()
    try:
        os.chdir(work)  # a socket's path may not be long
        for name in ("taken", "same", "dir/within"):
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
    finally:
        os.chdir(here)
    with socket.socket(socket.AF_UNIX):
        box = main.spawn(Values(), workspace=work)
    assert box.exec("find . -type s").stdout == ""
    run(box, "import socket\nfor n in 'same', 'made': socket.socket(socket.AF_UNIX).bind(n)")
    done = main.apply()["Values"]
    assert (done.created, done.replaced, done.removed) == ((), (), ()), (
        "a socket of the box's is none of the host's"
    )
    assert sorted(done.dropped) == [b"made", b"same"]
    box.exec("echo x > taken; rm -r dir")
    error = refused(errors.HostDrift, main.apply, work, "unseen")
    assert error.details["paths"] == [
        {"path": f"{work}/dir/within", "how": "unseen"},
        {"path": f"{work}/taken", "how": "unseen"},
    ]
    assert "sockets and devices" in error.hint
    (work / "taken").unlink()
    (work / "dir/within").unlink()
    main.apply()
    assert sorted(os.listdir(work)) == ["same", "taken"]
    assert left_in(home) == []


@as_root
def test_devices_are_left_out_and_named(work: Path, home: Path) -> None:
    os.mknod(work / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(work / "whiteout", stat.S_IFCHR | 0o600, 0)
    os.mknod(work / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    (work / "file").write_text("seen")
    frozen = freeze(work, home, flush=False)
    assert frozen.skipped == ((b"block", "device"), (b"null", "device"), (b"whiteout", "device"))
    assert os.listdir(frozen.layers[0]) == ["file"]


SWAPS = {
    "file to directory": (
        "open('x', 'w').write('f')",
        "os.unlink('x'); os.mkdir('x'); open('x/in', 'w').close()",
    ),
    "directory to file": (
        "os.mkdir('x'); open('x/in', 'w').close()",
        "os.unlink('x/in'); os.rmdir('x'); open('x', 'w').write('f')",
    ),
    "link to directory": (
        "os.symlink('/etc', 'x')",
        "os.unlink('x'); os.mkdir('x'); open('x/passwd', 'w').write('own')",
    ),
    "directory to link": (
        "os.mkdir('x'); open('x/in', 'w').close()",
        "os.unlink('x/in'); os.rmdir('x'); os.symlink('nowhere', 'x')",
    ),
    "file to link": ("open('x', 'w').write('f')", "os.unlink('x'); os.symlink('/', 'x')"),
    "link to file": ("os.symlink('/etc/passwd', 'x')", "os.unlink('x'); open('x', 'w').write('own')"),
    "directory to new one": (
        "os.mkdir('x'); open('x/in', 'w').close()",
        "os.unlink('x/in'); os.rmdir('x'); os.mkdir('x', 0o700); open('x/other', 'w').close()",
    ),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_one_kind_of_file_takes_the_place_of_another(
    main: Branch, work: Path, tmp_path: Path, swap: str
) -> None:
    before, after = SWAPS[swap]
    expected = tmp_path / "expected"
    expected.mkdir()
    for place, codes in ((work, [before]), (expected, [before, after])):
        for code in codes:
            subprocess.run(["python3", "-c", f"import os; {code}"], cwd=place, check=True)
    box = main.spawn(Values(), workspace=work)
    in_a_fork(main, box, after)
    assert {c.path.rstrip("/") for c in main.diff()} >= {"/work/x"}
    passwd = Path("/etc/passwd").read_bytes()
    main.apply()
    (expected / "of the parent").touch()
    assert tree(work) == tree(expected)
    assert Path("/etc/passwd").read_bytes() == passwd


def test_a_file_that_one_side_edits_and_the_other_makes_a_directory_conflicts(
    main: Branch, work: Path
) -> None:
    (work / "x").write_text("host")
    box = main.spawn(Values(), workspace=work)
    (fork,) = main.fork()
    run(fork[box], "os.unlink('x'); os.mkdir('x'); open('x/in', 'w').close()")
    run(box, "open('x', 'w').write('edited')")
    error = refused(errors.MergeConflict, fork.merge, "/work/x")
    assert [(each["path"], each["kind"]) for each in error.details["paths"]] == [("/work/x", "type")]
    fork.merge(lambda conflict: THEIRS)
    main.apply()
    assert tree(work) == {"x": "d", "x/in": "-"}


# -- whose files are


@as_root
def test_files_of_others_stay_theirs_and_new_ones_are_the_directorys_owners(main: Branch, work: Path) -> None:
    (work / "theirs").write_text("host")
    (work / "theirs").chmod(0o600)
    (work / "dir").mkdir(mode=0o700)
    for name, owner in (("theirs", 4321), ("dir", 4322)):
        os.chown(work / name, owner, owner)
    box = main.spawn(Values(), workspace=work)
    assert box.exec("cat theirs; stat -c %U . theirs dir | uniq").stdout == "hostbox\n"
    in_a_fork(
        main, box, "open('theirs', 'w').write('box'); open('dir/new', 'w').close(); open('new', 'w').close()"
    )
    main.apply()
    owners = {name: (work / name).stat().st_uid for name in ("theirs", "dir", "dir/new", "new")}
    assert owners == {"theirs": 4321, "dir": 4322, "dir/new": 4322, "new": 0}
    assert stat.S_IMODE((work / "theirs").stat().st_mode) == 0o600


@as_user
@pytest.mark.parametrize("what", ["file", "dir", "listed", "itself"])
def test_what_this_user_cannot_read_is_named_and_nothing_is_kept(
    main: Branch, work: Path, home: Path, what: str
) -> None:
    (work / "file").write_text("x")
    (work / "dir").mkdir()
    (work / "listed").mkdir()
    (work / "listed" / "file").touch()
    place = work if what == "itself" else work / what
    place.chmod(0o400 if what == "listed" else 0)
    before = os.listdir(home / "deltas")
    error = refused(errors.WorkspaceUnreadable, lambda: main.spawn(Values(), workspace=work), place.name)
    assert "chmod" in error.hint
    assert (os.listdir(home / "deltas"), left_in(home), main.instances) == (before, [], {})
    place.chmod(0o700)
    assert main.spawn(Values(), workspace=work).exec("cat file").stdout == "x"


@as_root
def test_files_and_directories_without_any_right_come_in_and_go_out(main: Branch, work: Path) -> None:
    (work / "file").write_text("host")
    (work / "dir").mkdir()
    (work / "dir/in").write_text("host")
    for name in ("file", "dir"):
        (work / name).chmod(0)
    box = main.spawn(Values(), workspace=work)
    assert box.exec("stat -c %a file dir").stdout == "0\n0\n"
    code = "open('made', 'w').write('box'); os.mkdir('new'); open('new/in', 'w').write('box'); "
    code += "os.chmod('file', 0o600); open('file', 'w').write('box'); [os.chmod(n, 0) for n in ('file', 'made', 'new')]"
    in_a_fork(main, box, code)
    main.apply()
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in work.iterdir()} == {
        "file": 0, "dir": 0, "made": 0, "new": 0, "of the parent": 0o644,
    }  # fmt: skip
    assert [(work / name).read_text() for name in ("file", "made", "new/in", "dir/in")] == ["box"] * 3 + [
        "host"
    ]


@as_user
@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("open('file', 'w').write('box!'); os.chmod('file', 0)", "chmod u+rw file"),
        (
            "os.mkdir('new'); open('new/in', 'w').close(); os.chmod('new', 0)",
            "chmod 700 new; rm -r new; mkdir new",
        ),
        ("os.mkdir('new'); open('new/in', 'w').close(); os.chmod('new', 0o400)", "chmod 700 new; rm -r new"),
    ],
    ids=["file", "directory", "listed"],
)
def test_what_a_box_left_without_any_right_is_named_until_it_has_one(
    main: Branch, work: Path, home: Path, code: str, remedy: str
) -> None:
    (work / "file").write_text("host")
    box = main.spawn(Values(), workspace=work)
    (fork,) = main.fork()
    run(fork[box], code)
    run(box, "open('of the parent', 'w').close()")
    assert fork[box].diff(), "the runtime may read it, and tells what has changed"
    for call in (fork.diff, fork.merge):
        refused(errors.WorkspaceUnreadable, call, "a box left")
    fork.commit(overwrite=True)
    refused(errors.WorkspaceUnreadable, main.apply, "a box left")
    assert (tree(work), left_in(home)) == ({"file": "-host"}, [])
    assert box.exec(remedy).returncode == 0
    main.apply()
    expected = {"file": "-box!" if "box!" in code else "-host"} | (
        {"new": "d"} if "mkdir new" in remedy else {}
    )
    assert tree(work) == expected
