"""Branches of running boxes: what each sees, what a commit makes of them, and what is left of the others."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kibo
from kibo import wiring
from kibo.branch import watching
from kibo.branch.branch import Branch
from kibo.model import errors
from kibo.model.limits import MAX_WORLD_BYTES
from kibo.runtime.trees.conflict import OURS, THEIRS, Resolution
from kibo.store import crash
from own_runtimes import own_runtime
from value_boxes import Few, Lines, Small, Values


@pytest.fixture
def main() -> Iterator[Branch]:
    with kibo.branch("to be tested") as branch:
        yield branch


@pytest.fixture
def built() -> Path:
    return wiring.runtime().home


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    place = tmp_path / "repo"
    place.mkdir()
    (place / "a.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    (place / "b.txt").write_text("b\n")
    (place / "src").mkdir()
    (place / "src" / "deep.txt").write_text("deep\n")
    return place


def paths(branch: Branch) -> list[tuple[str, str]]:
    return [(change.kind, change.path) for change in branch.diff()]


# -- forks


def test_the_example_of_the_readme(main, repo):
    coder = main.spawn(Values(), workspace=repo)
    attempts = main.fork(3)
    for number, attempt in enumerate(attempts):
        attempt[coder].put("a.txt", 3 - number)
    best = min(attempts, key=lambda attempt: attempt[coder].get("a.txt"))
    best.commit()
    assert coder.get("a.txt") == 1
    assert paths(main) == [("changed", "/work/a.txt")]
    assert (repo / "a.txt").read_text().startswith("one")
    main.apply()
    assert (repo / "a.txt").read_text() == "1"
    assert [attempt.status for attempt in attempts] == ["stale", "stale", "committed"]


def test_all_instances_of_a_branch_fork_and_commit_together(main):
    one, two = main.spawn(Values()), main.spawn(Values(), name="other")
    one.put("a", 1)
    two.put("a", 2)
    (fork,) = main.fork()
    assert fork.live
    assert sorted(fork.instances) == ["Values", "other"]
    fork[one].put("a", 3)
    fork["other"].put("a", 4)
    assert (one.get("a"), two.get("a")) == (1, 2)
    fork.commit()
    assert (one.get("a"), two.get("a")) == (3, 4)
    assert one.id != two.id


def test_an_instance_of_a_branch_knows_its_branch_and_is_found_by_its_name(main):
    box = main.spawn(Values())
    (fork,) = main.fork(names=["attempt"])
    assert box.branch is main
    assert fork[box].branch is fork
    assert fork["Values"] is fork[box]
    assert fork.parent is main
    assert fork.name == "attempt"
    late = main.spawn(Lines())
    with pytest.raises(errors.InstanceUnknown, match="no instance 'Lines'"):
        fork[late]


def test_forks_fork_and_commit_into_their_own_parents(main):
    box = main.spawn(Values())
    (outer,) = main.fork()
    outer[box].put("outer", 1)
    (inner,) = outer.fork()
    inner[box].put("inner", 1)
    assert paths(inner) == [("added", "/work/inner")]
    inner.commit()
    assert paths(outer) == [("added", "/work/inner"), ("added", "/work/outer")]
    assert box.seen() == {}
    outer.commit()
    assert box.seen() == {"inner": "1", "outer": "1"}
    assert (box.get("inner"), box.get("outer")) == (1, 1)


def test_what_is_spawned_in_a_fork_is_its_parents_once_that_is_committed(main):
    main.spawn(Values())
    (fork,) = main.fork()
    found = fork.spawn(Lines())
    found.add("written in the fork")
    fork.commit()
    assert found.branch is main
    assert main["Lines"] is found
    assert found.lines() == ["written in the fork"]


def test_an_instance_that_was_destroyed_is_in_its_branch_no_more(main):
    gone, kept = main.spawn(Values()), main.spawn(Values())
    assert sorted(main.instances) == ["Values", "Values-2"]
    (before,) = main.fork()
    gone.destroy()
    (fork,) = main.fork()
    assert list(fork.instances) == ["Values-2"]
    with pytest.raises(errors.BranchStale):
        before.commit()  # main is not what it was
    fork[kept].put("a", 1)
    fork.commit()
    assert kept.get("a") == 1


def test_of_several_instances_all_are_forked_or_none(main):
    main.spawn(Values()).put("a", 1)
    crashed = main.spawn(Values(), name="crashed")
    with pytest.raises(errors.ActionExited):
        crashed.crash()
    for _ in range(2):
        with pytest.raises(errors.InstanceEnded):
            main.fork(2)
    assert main["Values"].seen() == {"a": "1"}
    assert main._running.family.history.children(main.id) == []
    crashed.destroy()
    (fork,) = main.fork()
    assert fork["Values"].get("a") == 1


def test_a_tree_may_be_deeper_than_names_are_long_and_than_python_nests():
    with kibo.branch() as main:
        deepest = main
        for _ in range(1_100):
            (deepest,) = deepest.fork()
        assert deepest.status == "open"
        assert deepest.name.startswith("main.0.0.")
    assert deepest.status == "aborted"


def test_what_the_winner_had_forked_ends_with_the_root():
    with kibo.branch() as main:
        (winner,) = main.fork()
        (below,) = winner.fork()
        winner.commit()
        assert below.status == "stale"
    assert below.status == "aborted"  # else nothing would ever let its files go


def test_what_a_crashed_instance_left_is_kept_when_the_branch_ends():
    with kibo.branch() as main:
        box = main.spawn(Values())
        box.put("a", 1)
        with pytest.raises(errors.ActionExited):
            box.crash()
    with kibo.checkout(main.id, Values()) as again:
        assert again["Values"].seen() == {"a": "1"}


def test_an_instance_that_was_spawned_after_the_fork_is_not_lost_by_a_commit(main):
    (fork,) = main.fork()
    late = main.spawn(Values())
    with pytest.raises(errors.BranchStale):
        fork.commit()
    late.put("a", 1)
    fork.merge()
    assert late.get("a") == 1


# -- commits


def test_a_parent_that_acted_has_moved_and_one_that_was_looked_at_has_not(main):
    box = main.spawn(Values())
    box.put("a", 0)
    (fork,) = main.fork()
    fork[box].put("a", 1)
    assert box.get("a") == 0
    assert box.exec("ls /work").stdout == "a\n"
    assert box.files.read("a") == b"0"
    assert paths(main) == [("added", "/work/a")]
    fork.commit()
    assert box.get("a") == 1
    (one,) = main.fork()
    box.put("a", 2)
    with pytest.raises(errors.BranchStale):
        one.commit()
    assert one[box].get("a") == 1
    (two,) = main.fork()
    box.exec("touch /work/new")
    with pytest.raises(errors.BranchStale):
        two.commit()


def test_a_losing_branch_is_stopped_and_says_so(main):
    box = main.spawn(Values())
    one, two = main.fork(2)
    two[box].put("lost", 1)
    one.commit()
    with pytest.raises(errors.InstanceEnded, match="is stale"):
        two[box].put("lost", 2)
    with pytest.raises(errors.BranchStale):
        two.fork()
    assert paths(two) == [("added", "/work/lost")]
    assert two[box].status == "ended"
    with pytest.raises(errors.InstanceEnded, match="was committed"):
        one[box].get("a")


def test_a_commit_can_overwrite_what_the_parent_has_become(main):
    box = main.spawn(Values())
    running, stopped = main.fork(2)
    running[box].put("who", "running")
    stopped[box].put("who", "stopped")
    box.put("who", "main")
    running.commit(overwrite=True)
    assert box.get("who") == "running"
    stopped.commit(overwrite=True)  # from its files, with a fresh guest
    assert box.seen() == {"who": "'stopped'"}
    assert box.get("who") is None
    box.put("who", "main again")
    assert paths(main) == [("added", "/work/who")]


def test_a_merge_joins_files_line_by_line(main, repo):
    box = main.spawn(Values(), workspace=repo)
    one, two = main.fork(2)
    one[box].exec("sed -i s/one/ONE/ a.txt; rm b.txt")
    two[box].exec("sed -i s/five/FIVE/ a.txt; echo new > src/new.txt")
    one.commit()
    done = two.merge()
    assert not done.fast_forward
    assert box.seen() == {
        "a.txt": "ONE\ntwo\nthree\nfour\nFIVE\n",
        "src/deep.txt": "deep\n",
        "src/new.txt": "new\n",
    }
    main.apply()
    assert (repo / "a.txt").read_text() == "ONE\ntwo\nthree\nfour\nFIVE\n"
    assert not (repo / "b.txt").exists()
    assert (two.status, main.status) == ("committed", "open")


def test_a_conflict_loses_nothing_and_a_resolver_settles_it(main, repo):
    box = main.spawn(Values(), workspace=repo)
    one, two = main.fork(2)
    one[box].files.write("b.txt", "ours\n")
    two[box].files.write("b.txt", "theirs\n")
    two[box].files.write("c.txt", "only theirs\n")
    one.commit()
    with pytest.raises(errors.MergeConflict) as raised:
        two.merge()
    (conflict,) = raised.value.conflicts
    assert (conflict.path, conflict.kind) == (b"work/b.txt", "content")
    assert conflict.texts() == (b"b\n", b"ours\n", b"theirs\n")
    assert "'/work/b.txt'" in raised.value.message
    assert [each["path"] for each in raised.value.details["paths"]] == ["/work/b.txt"]
    assert box.files.read("b.txt") == b"ours\n"
    two.merge(lambda _: Resolution.write(b"both\n"))
    assert box.files.read("b.txt") == b"both\n"
    assert box.files.read("c.txt") == b"only theirs\n"


def test_a_validated_commit_asks_whether_what_was_read_has_changed(main, repo):
    box = main.spawn(Values(), workspace=repo)
    one, two = main.fork(2)
    one[box].exec("echo changed > b.txt")
    two[box].exec("echo mine > src/deep.txt")
    one.commit()
    with pytest.raises(errors.ReadsChanged, match=r"/work/b\.txt"):
        two.commit(onto="validated")
    with pytest.raises(errors.ReadsChanged):
        two.commit(onto="validated", reads=["/work/*.txt"])
    two.commit(onto="validated", reads=["/work/src/**"])
    assert box.files.read("b.txt") == b"changed\n"
    assert box.files.read("src/deep.txt") == b"mine\n"


def test_a_merge_is_refused_where_both_sides_want_other_lines_and_keeps_both(main):
    box = main.spawn(Values())
    (fork,) = main.fork()
    fork[box].exec("echo fork > f")
    box.exec("echo main > f")
    with pytest.raises(errors.MergeConflict):
        fork.merge()
    assert fork[box].files.read("f") == b"fork\n"
    fork.merge(lambda _: THEIRS)
    assert box.files.read("f") == b"fork\n"


@pytest.mark.parametrize("destroyer", ["branch", "parent"])
def test_what_one_side_destroyed_and_the_other_went_on_with_is_a_conflict(main, destroyer):
    box, left = main.spawn(Values()), main.spawn(Values())
    (fork,) = main.fork()
    goes, stays = (fork, main) if destroyer == "branch" else (main, fork)
    stays[box].put("work", "an hour of it")
    goes[box].destroy()
    goes[left].destroy()  # which the other has left as it was
    with pytest.raises(errors.MergeConflict) as raised:
        fork.merge()
    (conflict,) = raised.value.conflicts
    assert (conflict.instance, conflict.kind, conflict.path) == (box._member, "destroyed", b"")
    assert (conflict.ours is None) == (destroyer == "parent")
    assert repr(box._member) in raised.value.message
    with pytest.raises(errors.InvalidInput, match="no file"):
        fork.merge(lambda _: Resolution.write(b"text"))
    assert stays[box].seen() == {"work": "'an hour of it'"}
    fork.merge(lambda _: THEIRS if destroyer == "parent" else OURS)
    assert main.instances.keys() == {box._member}
    assert main[box._member].seen() == {"work": "'an hour of it'"}


def test_what_both_sides_are_rid_of_after_a_conflict_is_gone(main):
    box = main.spawn(Values())
    (fork,) = main.fork()
    box.put("work", "an hour of it")
    fork[box].destroy()
    fork.merge(lambda _: THEIRS)
    assert not main.instances
    assert box.status == "ended"


def test_ended_branches_refuse_and_a_root_has_nothing_to_commit_into(main):
    main.spawn(Values())
    one, two = main.fork(2)
    one.abort()
    for refused in (one.commit, one.fork, one.snapshot, one.merge, lambda: one.spawn(Values())):
        with pytest.raises(errors.BranchClosed):
            refused()
    one.abort()
    with pytest.raises(errors.WrongState, match="is a root"):
        main.commit()
    with pytest.raises(errors.WrongState, match="has a parent"):
        two.apply()
    with pytest.raises(errors.InvalidInput):
        main.fork(0)
    with pytest.raises(errors.InvalidInput):
        two.commit(onto="nowhere")  # type: ignore[arg-type]


# -- snapshots


def test_an_instance_that_is_in_no_branch_has_no_snapshots():
    with Values().spawn() as box, pytest.raises(errors.WrongState, match="in no branch"):
        box.snapshot()


def test_any_snapshot_can_be_gone_back_to(main):
    box = main.spawn(Values())
    box.put("a", 1)
    before = box.snapshot("before")
    assert main.snapshot().id == before.id
    box.put("a", 2)
    with kibo.checkout("before", Values()) as again:
        assert again["Values"].seen() == {"a": "1"}
        again["Values"].put("b", 1)
        assert paths(again) == [("added", "/work/b")]
    assert box.seen() == {"a": "2"}
    with pytest.raises(errors.UnmetNeed, match="instances of Values"):
        kibo.checkout("before")
    with pytest.raises(errors.SnapshotUnknown):
        kibo.checkout("nothing is called so", Values())


class Changed(Values):
    """Keeps values otherwise than what was sealed did."""


def test_a_snapshot_is_refused_to_a_box_that_was_defined_otherwise_and_leaves_no_branch(main):
    main.spawn(Values()).put("a", 1)
    main.snapshot("of another definition")
    for box in (Changed(), Values() + Lines(), Small()):
        with pytest.raises(errors.UnmetNeed, match="instances of Values") as refused:
            kibo.checkout("of another definition", box)
        assert refused.value.hint
    history = main._running.family.history
    assert {child.status for child in history.children(main.id)} <= {"aborted"}
    with kibo.checkout("of another definition", Values()) as again:
        assert again["Values"].seen() == {"a": "1"}


def test_a_root_that_ended_can_be_gone_on_from(tmp_path):
    (tmp_path / "kept.txt").write_text("as it was\n")
    with kibo.branch() as first:
        first.spawn(Values(), workspace=tmp_path).put("a", 1)
    assert first.status == "committed"
    assert first._running.members["Values"].talk.ended
    with kibo.checkout(first.id, Values()) as second:
        assert second["Values"].seen() == {"a": "1", "kept.txt": "as it was\n"}


# -- the host's directories


def git(place: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_repository_stays_valid_inside_and_after_an_apply(main, repo):
    git(repo, "init", "-q")
    git(repo, "add", ".")
    git(repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    box = main.spawn(Values(), workspace=repo)
    assert box.exec("git status --porcelain").stdout == ""
    (fork,) = main.fork()
    done = fork[box].exec(
        "echo x >> a.txt; git mv b.txt c.txt; git -c user.name=a -c user.email=a@b commit -qam second; "
        "echo y > untracked; git status --porcelain"
    )
    assert (done.stdout, done.returncode) == ("?? untracked\n", 0)
    fork.commit()
    assert git(repo, "log", "--format=%s") == "first\n"
    main.apply()
    assert git(repo, "log", "--format=%s") == "second\nfirst\n"
    assert git(repo, "status", "--porcelain") == "?? untracked\n"
    git(repo, "fsck", "--strict")


def test_an_apply_stops_where_the_host_has_changed_meanwhile(main, repo):
    box = main.spawn(Values(), workspace=repo)
    box.exec("echo box > a.txt; echo box > b.txt")
    (repo / "b.txt").write_text("host\n")
    with pytest.raises(errors.HostDrift):
        main.apply()
    assert (repo / "a.txt").read_text().startswith("one")
    (repo / "b.txt").write_text("b\n")
    main.apply()
    assert (repo / "a.txt").read_text() == (repo / "b.txt").read_text() == "box\n"
    box.exec("echo later > a.txt")
    done = main.apply()["Values"]
    assert (done.replaced, done.created, done.removed) == ((b"a.txt",), (), ())


def test_a_running_boxs_set_id_bits_reach_neither_its_diff_nor_the_host(main, repo):
    box = main.spawn(Values(), workspace=repo)
    done = box.exec("chmod 6644 a.txt && stat -c %a a.txt && cp a.txt new && chmod 4711 new")
    assert done.stdout == "6644\n"
    assert paths(main) == [("added", "/work/new")]
    main.apply()
    assert [stat.S_IMODE((repo / name).stat().st_mode) for name in ("a.txt", "new")] == [0o644, 0o711]


def test_a_workspace_that_cannot_be_frozen_is_an_error_and_leaves_no_instance(main, tmp_path):
    with pytest.raises(errors.FileMissing):
        main.spawn(Values(), workspace=tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InvalidInput):
        main.spawn(Values(), workspace=tmp_path / "file")
    assert main.instances == {}


# -- what is left


def test_layers_that_nobody_sealed_go_with_their_owner(home):
    deltas = home / "deltas"
    kibo.wiring.runtime().close()
    before = set(os.listdir(deltas))
    with kibo.branch() as main:
        box = main.spawn(Values())
        box.put("a", 1)
        for attempt in main.fork(5):
            attempt[box].put("b", 1)
        main.fork(1)[0].commit()
        assert len(set(os.listdir(deltas)) - before) > 5
    kibo.wiring.runtime().close()
    left = set(os.listdir(deltas)) - before
    with kibo.checkout(main.id, Values()) as again:
        assert again["Values"].seen() == {"a": "1"}
    named = {
        name for world in kibo.wiring.runtime().records().history.worlds() for name in str(world).split("'")
    }
    assert left <= named


def test_many_rounds_in_one_branch_past_what_the_kernel_nests_stay_right(main):
    box = main.spawn(Values())
    for number in range(40):
        (fork,) = main.fork()
        fork[box].put(f"f{number % 7}", number)
        fork.commit()
    assert box.seen() == {f"f{number % 7}": str(number) for number in range(33, 40)}


def test_a_branch_with_running_programs_forks_cold_and_commits(main):
    box = main.spawn(Values())
    box.put("a", 1)
    server = box.popen("echo begun > log; exec sleep 300")
    while "log" not in box.seen():
        pass
    one, two = main.fork(2)
    assert not one.live
    assert "programs run in it" in one.reasons[0]
    assert one[box].seen() == {"a": "1", "log": "begun\n"}
    assert one[box].get("a") is None
    one[box].put("a", 2)
    assert server.returncode is None
    one.commit()  # nothing was written in main since
    assert (box.seen()["a"], two.status) == ("2", "stale")
    with pytest.raises(errors.InstanceEnded):
        server.wait(5)
    server.close()
    writer = box.popen("echo more > more; exec sleep 300")
    (late,) = main.fork()
    box.exec("echo changed > log")
    with pytest.raises(errors.BranchStale):
        late.commit()
    assert sorted(box.seen()) == ["a", "log", "more"]
    writer.close()


def test_an_instance_that_outgrows_its_disk_is_ended_and_its_files_can_be_read(main):
    box = main.spawn(Small())
    box.exec("echo kept > note; head -c 3000000 /dev/zero > fits")
    (fork,) = main.fork()
    with pytest.raises((errors.DiskFull, errors.InstanceEnded)):
        fork[box].exec("while head -c 2000000 /dev/zero >> big; do sleep 0.05; done")
    with pytest.raises(errors.DiskFull):
        fork[box].exec("true")
    assert ("added", "/work/big") in paths(fork)
    assert box.files.read("note") == b"kept\n"


def test_branches_that_ended_hold_no_descriptor_though_they_can_be_read_and_their_tree_goes_on(main):
    box = main.spawn(Values())
    ended = []

    def round_of_two() -> None:
        one, two = main.fork(2)
        for fork in (one, two):
            fork[box].put("a", len(ended))
            fork[box].files.write("b", b"b")
        ended.append(two)
        one.abort() if len(ended) % 2 else one.commit()

    for _ in range(4):
        round_of_two()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        round_of_two()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    ended[0].abort()
    assert ("added", "/work/b") in paths(ended[0])
    with pytest.raises(errors.KiboError):
        ended[0][box].files.read("b")


def test_a_fork_that_was_aborted_and_that_nobody_holds_takes_no_memory_while_its_tree_goes_on(main):
    box = main.spawn(Values())
    for number in range(6):
        one, two = main.fork(2)
        one[box].put("a", number)
        one.abort()
        two.abort()
    del one, two
    gc.collect()
    assert [each.id for each in wiring.runtime().records().running.values()] == [main.id]


def test_a_stale_fork_is_kept_until_it_is_aborted_or_its_tree_is_closed(main):
    box = main.spawn(Values())
    for number in range(6):
        one, two = main.fork(2)
        one[box].put("a", number)
        one.commit()
        if number:
            two.abort()
        else:
            kept = two.id
    del one, two
    gc.collect()
    assert {each.id for each in wiring.runtime().records().running.values()} == {main.id, kept}
    assert box.get("a") == 5


#: Makes empty files for ever; directories too, and one hundred in each.
FLOOD = "i=0; while mkdir d$i; do for f in $(seq 100); do : > d$i/$f; done; i=$((i+1)); done"


def test_an_instance_that_makes_too_many_files_is_ended_and_told_so(main):
    box = main.spawn(Few())
    box.exec("echo kept > note; for f in $(seq 1000); do : > $f; done")
    (fork,) = main.fork()
    with pytest.raises((errors.DiskFull, errors.InstanceEnded)):
        fork[box].exec(FLOOD)
    with pytest.raises(errors.DiskFull, match="more files") as caught:
        fork[box].exec("true")
    assert "disk_files" in caught.value.hint
    assert box.files.read("note") == b"kept\n"
    assert ("added", "/work/d0/") in paths(fork)


def test_a_flood_of_files_is_seen_though_looking_at_all_is_not_due(monkeypatch, built):
    """Where looking takes long it is done seldom; what the disk loses meanwhile says when it must be done at once."""
    monkeypatch.setattr(watching, "SHARE", 1e-12)
    with own_runtime(built), kibo.branch() as main:
        quiet, box = main.spawn(Values()), main.spawn(Few())
        # From here on none is due by itself.
        deadline = time.monotonic() + 20
        watch = wiring.runtime().records().watch
        while watch._due_s < time.monotonic() + 60 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watch._due_s > time.monotonic() + 60
        with pytest.raises((errors.DiskFull, errors.InstanceEnded)):
            box.exec(FLOOD, timeout_s=60)
        with pytest.raises(errors.DiskFull, match="more files"):
            box.exec("true")
        assert quiet.exec("true").returncode == 0


def test_a_branch_ends_though_something_is_called_in_it():
    raised: list[BaseException] = []

    def call(box: Values) -> None:
        try:
            box.block()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    with kibo.branch() as main:
        box = main.spawn(Values())
        box.put("a", 1)
        caller = threading.Thread(target=call, args=(box,))
        caller.start()
        while box.exec("test -e /work/a").returncode:
            pass
        time.sleep(0.1)
    caller.join(10)
    assert isinstance(raised[0], errors.InstanceEnded)


# -- what its user does wrong, and what goes wrong around it


@pytest.mark.parametrize("leave", ["end the block", "exit"])
def test_a_process_that_is_forked_in_the_block_of_a_branch_ends_nothing_of_it(main, leave):
    box = main.spawn(Values())
    box.put("a", 1)
    (fork,) = main.fork()
    child = os.fork()
    if not child:
        status = 1
        try:
            with main:
                for verb in (main.fork, main.snapshot, fork.commit, fork.abort, fork.merge, main.apply):
                    with pytest.raises(errors.WrongState, match="forked from"):
                        verb()
                with pytest.raises(errors.WrongState, match="forked from"):
                    main.context.user("from elsewhere")
                assert [change.path for change in main.diff()] == ["/work/a"]
                if leave == "exit":
                    sys.exit(3)
            status = 3
        except SystemExit:
            status = 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    fork[box].put("a", 2)
    fork.commit()
    assert box.get("a") == 2
    assert main.status == "open"


def test_an_instance_is_in_its_branch_no_more_from_when_it_is_destroyed_until_the_branch_ends(main):
    one, other = main.spawn(Values()), main.spawn(Values())
    one.put("a", 1)
    (fork,) = main.fork()
    one.destroy()
    assert list(main.instances.values()) == [other]
    assert main.diff() == []
    with pytest.raises(errors.InstanceUnknown):
        main[one]
    assert len(fork.instances) == 2
    other.destroy()
    main.close()
    assert paths(fork) == []


def test_an_instance_that_ended_by_itself_is_named_and_the_branch_goes_on_without_it(main):
    one, other = main.spawn(Values(), name="one"), main.spawn(Values(), name="other")
    (fork,) = main.fork()
    with pytest.raises(errors.ActionExited):
        fork[one].crash()
    for verb in (fork.fork, fork.snapshot, fork.commit):
        with pytest.raises(errors.InstanceEnded, match=r"^one: ") as raised:
            verb()
        assert "destroy()" in raised.value.hint
        assert raised.value.details["instance"] == "one"
    fork[one].destroy()
    fork[other].put("a", 1)
    fork.commit()
    assert list(main.instances) == ["other"]
    assert other.get("a") == 1


def test_what_a_branch_was_is_kept_though_a_fork_of_it_is_another_writers(home):
    with pytest.raises(errors.BranchTaken), kibo.branch() as main:
        box = main.spawn(Values())
        one, other = main.fork(2)
        box.put("a", 1)
        wiring.runtime().records().history.claim(one.id)
    assert (main.status, other.status, box.status) == ("committed", "aborted", "ended")
    with kibo.checkout(main.id, Values()) as again:
        assert again[box._member].seen() == {"a": "1"}


@pytest.mark.parametrize(
    "goal", [b"bytes", None, 5, ["list"], "half \udcff", "null \0", "x" * (MAX_WORLD_BYTES + 1)]
)
def test_a_goal_that_no_database_can_hold_is_refused(goal):
    before = [each.id for each in wiring.runtime().records().history.roots()]
    with pytest.raises(errors.InvalidInput, match="not a goal"):
        kibo.branch(goal)
    assert [each.id for each in wiring.runtime().records().history.roots()] == before


@pytest.mark.parametrize("name", [5, b"bytes", None, ["list"], "half \udcff", "null \0", "line\n", "n" * 201])
def test_a_name_that_is_none_is_refused(main, name):
    for verb in (lambda: main.fork(names=[name]), lambda: kibo.branch(name=name)):
        with pytest.raises(errors.InvalidInput, match=r"not a name|names=\[.* is no list of texts"):
            verb()


def test_one_text_where_several_are_meant_is_not_taken_for_its_letters(main):
    box = main.spawn(Values())
    (fork,) = main.fork()
    fork[box].put("b", 1)
    box.put("src", 1)
    for reads in ("work/src", b"work/src", [5]):
        with pytest.raises(errors.InvalidInput, match="is no list of texts"):
            fork.commit(onto="validated", reads=reads)
    with pytest.raises(errors.ReadsChanged):
        fork.commit(onto="validated", reads=["work/src"])
    with pytest.raises(errors.InvalidInput, match="is no list of texts"):
        main.fork(2, names="ab")


@pytest.mark.parametrize("ref", ["half \udcff", "null \0", "line\n", "r" * 100_000])
def test_what_nothing_can_be_called_names_nothing(ref):
    with pytest.raises(errors.SnapshotUnknown):
        kibo.checkout(ref, Values())
    with pytest.raises(errors.BranchUnknown):
        wiring.runtime().records().history.get(ref)


@pytest.mark.parametrize("answer", [None, "theirs", 5])
def test_a_resolver_that_says_nothing_that_it_may_loses_nothing(main, answer):
    box = main.spawn(Values())
    (fork,) = main.fork()
    fork[box].put("a", 1)
    box.put("a", 2)
    with pytest.raises(errors.InvalidInput, match="the resolver returned"):
        fork.merge(lambda _: answer)
    assert (box.get("a"), fork[box].get("a")) == (2, 1)
    fork.merge(lambda _: THEIRS)
    assert box.seen() == {"a": "1"}


@pytest.mark.parametrize("verb", ["commit", "merge"])
def test_ctrl_c_in_the_middle_of_a_commit_comes_after_it(main, verb):
    box = main.spawn(Values())
    (fork,) = main.fork()
    fork[box].put("a", 1)
    if verb == "merge":
        box.put("b", 2)
    passed = []

    def interrupt(name: str) -> None:
        if name == f"{verb}.recorded":
            passed.append(name)
            signal.raise_signal(signal.SIGINT)

    crash.install(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            getattr(fork, verb)()
    finally:
        crash.install(None)
    assert passed == [f"{verb}.recorded"]
    assert (fork.status, main.status) == ("committed", "open")
    assert box.seen() == {"a": "1"} | ({"b": "2"} if verb == "merge" else {})
    box.put("c", 3)
    main.snapshot()
    assert box.seen()["a"] == "1"
