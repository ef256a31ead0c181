"""What a box could try by way of the directories that it shares: against others, other branches and the host."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import kibo
from kibo.model import errors
from shared_boxes import Hoarder, Privileged, Scribe


@pytest.fixture
def boxes(main):
    return (
        main.spawn(Privileged(), name="mallory", shared=["notes"]),
        main.spawn(Scribe(), name="bob", shared=["notes", "data"]),
    )


def test_a_link_leads_whoever_follows_it_to_their_own_files_and_never_to_the_hosts(main, boxes, tmp_path):
    mallory, bob = boxes
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    mallory.write("/tmp/mine", "mallory's")
    for name, target in {"host": secret, "mine": "/tmp/mine", "up": "../data/x", "root": "/"}.items():
        assert mallory.exec(["ln", "-s", str(target), f"/shared/notes/{name}"]).returncode == 0
    main.shared("data").write("x", "of bob and the host alone")
    notes = main.shared("notes")
    for name in ("host", "mine", "up"):
        with pytest.raises(errors.FileMissing):
            notes.read(name)
    for name in ("host", "mine"):
        with pytest.raises(errors.KiboError):
            bob.read(f"/shared/notes/{name}")
    # A box that has the other directory follows a link there, as it follows any other path.
    assert bob.read("/shared/notes/up") == "of bob and the host alone"
    with pytest.raises(errors.KiboError):
        mallory.read("/shared/notes/up")
    try:
        notes.write("host", "spoilt")
    except errors.KiboError:
        pass
    assert secret.read_text() == "of the host"
    notes.download(".", tmp_path / "here")
    assert (tmp_path / "here" / "host").is_symlink()


def test_no_way_leads_above_a_shared_directory_or_to_one_that_a_box_does_not_have(main, boxes):
    mallory, _ = boxes
    main.shared("data").write("x", "x")
    assert mallory.names("/shared/notes/../..") == mallory.names("/")
    assert mallory.names("/shared/notes/..") == ["notes"]
    for command in (
        "cat /shared/data/x",
        "cat /shared/notes/../data/x",
        "mkdir /shared/data",
        "rmdir /shared/notes",
        "mv /shared/notes /shared/other",
        "ln -s /shared/notes /shared/data",
        "chmod 777 /shared",
        "umount /shared/notes",
        "mount -t tmpfs none /shared/notes",
        "mount -o remount,rw,suid,dev /shared/notes",
        "ln /shared/notes/../notes /shared/notes/hard",
    ):
        assert mallory.exec(command).returncode != 0, command


def test_a_directory_is_not_moved_from_one_shared_directory_to_another_under_who_is_in_it(main, boxes):
    mallory, bob = boxes
    mallory.exec("mkdir -p /shared/notes/deep/er")
    # mv(1) would copy: the call itself is refused, as between file systems.
    code = "import os; os.rename('/shared/notes/deep', '/shared/data/deep')"
    assert "Errno 18" in bob.exec(["/opt/kibo/python/bin/python3", "-c", code]).stderr
    assert "Errno 18" in bob.exec(
        ["/opt/kibo/python/bin/python3", "-c", "import os; open('/shared/notes/f', 'w'); "
         "os.link('/shared/notes/f', '/shared/data/f')"]
    ).stderr  # fmt: skip


def test_no_device_is_made_in_one_and_a_set_id_bit_gives_nothing(main, boxes):
    mallory, bob = boxes
    for kind in ("c 1 5", "b 8 0"):
        assert mallory.exec(f"mknod /shared/notes/device {kind}").returncode != 0
    mallory.exec("cp /usr/bin/id /shared/notes/id && chmod 6755 /shared/notes/id")
    assert bob.exec("/shared/notes/id").stdout == bob.exec("id").stdout
    assert bob.exec("grep ' /shared/' /proc/self/mountinfo | grep -vc nosuid,nodev").stdout.strip() == "0"


def test_a_descriptor_that_a_guest_hides_does_not_reach_into_another_branch(main):
    hoarder = main.spawn(Hoarder(), name="hoarder", shared=["notes"])
    bob = main.spawn(Scribe(), name="bob", shared=["notes"])
    hoarder.hide("/shared/notes/hidden")
    (fork,) = main.fork()
    assert not fork.live
    hoarder.use("main")
    assert bob.read("/shared/notes/hidden") == "main"
    assert fork[bob].read("/shared/notes/hidden") == ""
    with pytest.raises(errors.KiboError):
        fork[hoarder].use("fork")
    assert bob.read("/shared/notes/hidden") == "main"


def test_a_directory_that_a_guest_keeps_open_is_its_own_branchs(main):
    hoarder = main.spawn(Hoarder(), name="hoarder", shared=["notes"])
    hoarder.keep("/shared/notes")
    (fork,) = main.fork()
    fork[hoarder].make("fork")
    hoarder.make("main")
    assert hoarder.names("/shared/notes") == ["main"]
    assert fork[hoarder].names("/shared/notes") == ["fork"]


def test_a_mapping_of_a_file_is_its_own_branchs(main):
    hoarder = main.spawn(Hoarder(), name="hoarder", shared=["notes"])
    hoarder.map("/shared/notes/mapped")
    (fork,) = main.fork()
    assert not fork.live
    hoarder.change(b"main")
    assert main.shared("notes").read("mapped") == b"main"
    assert fork.shared("notes").read("mapped") == b"\0" * 4


def test_a_branch_does_not_reach_the_directories_of_another_tree(main, boxes):
    mallory, _ = boxes
    mallory.write("/shared/notes/x", "ours")
    with kibo.branch("another") as other:
        box = other.spawn(Scribe(), shared=["notes"])
        assert box.names("/shared/notes") == []
        box.write("/shared/notes/x", "theirs")
    assert mallory.read("/shared/notes/x") == "ours"


def test_who_ends_while_a_fork_copies_what_is_shared_leaves_nobody_stopped(main, boxes):
    mallory, bob = boxes
    mallory.begin_writing("/shared/notes/number")
    mallory.exec("head -c 100000000 /dev/zero > /shared/notes/big")
    with bob.popen("sleep 60"):
        ender = threading.Thread(target=mallory.destroy)
        ender.start()
        try:
            main.fork()
        except errors.InstanceEnded:
            pass
        ender.join()
        assert bob.exec("cat /shared/notes/number").returncode == 0
    bob.write("/shared/notes/after", "x")
    (fork,) = main.fork()
    assert fork.shared("notes").read("after") == b"x"


def test_files_that_a_box_closes_to_others_fail_who_reads_them_and_nothing_else(main, boxes):
    mallory, bob = boxes
    mallory.exec("umask 077; echo x > /shared/notes/closed; mkdir /shared/notes/dir")
    try:
        main.shared("notes").read("closed")
    except errors.PathRefused:
        pass
    bob.write("/shared/notes/open", "x")
    (fork,) = main.fork()
    assert "/shared/notes/open" in [change.path for change in main.diff()]
    assert fork[bob].read("/shared/notes/open") == "x"


def test_directories_deeper_than_a_path_are_told_of_and_end_nobody_else(main, boxes):
    mallory, bob = boxes
    script = "cd /shared/notes; n=0; while [ $n -lt 30 ]; do mkdir {0}; cd {0}; n=$((n+1)); done".format(
        "d" * 200
    )
    mallory.exec(script)
    with pytest.raises(errors.PathTooLong):
        main.diff()
    assert bob.names("/shared/notes") == ["d" * 200]
    assert not Path("/shared").exists()
