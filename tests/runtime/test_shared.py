"""Shared directories of a branch: several boxes at once, and what forks, commits, merges and ends make of them."""

from __future__ import annotations

import pytest

import kibo
from kibo import wiring
from kibo.branch import watching
from kibo.model import errors
from kibo.runtime.trees.conflict import THEIRS, Resolution
from kibo.wiring.records import Records
from own_runtimes import own_runtime
from patience import eventually
from shared_boxes import Privileged, Scribe, Small

PLAN = "/shared/notes/plan"


def pair(branch):
    return branch.spawn(Scribe(), name="ada", shared=["notes"]), branch.spawn(
        Scribe(), name="bob", shared=["notes", "data"]
    )


def paths(branch):
    return [(change.kind, change.path) for change in branch.diff()]


# -- several boxes at once


def test_boxes_of_a_branch_see_at_once_what_the_others_write(main):
    ada, bob = pair(main)
    ada.write(PLAN, "one")
    assert bob.read(PLAN) == "one"
    bob.write(PLAN, "two")
    assert ada.read(PLAN) == "two"
    bob.exec("rm /shared/notes/plan && mkdir -p /shared/notes/a/b && ln -s b /shared/notes/a/c")
    assert ada.names("/shared/notes/a") == ["b", "c"]


def test_a_box_has_the_directories_that_it_was_spawned_with_and_no_others(main):
    ada, bob = pair(main)
    bob.write("/shared/data/x", "x")
    assert ada.names("/shared") == ["notes"]
    assert bob.names("/shared") == ["data", "notes"]
    assert ada.exec("touch /shared/new").returncode != 0
    alone = main.spawn(Scribe(), name="alone")
    assert alone.exec("ls /shared").returncode != 0


def test_a_program_outside_reads_and_writes_with_them(main, tmp_path):
    ada, _ = pair(main)
    notes = main.shared("notes")
    notes.write("from/outside", "hello")
    assert ada.read("/shared/notes/from/outside") == "hello"
    ada.write(PLAN, "plan")
    assert notes.read("plan") == b"plan"
    assert [entry.name for entry in notes.list()] == ["from", "plan"]
    notes.download("from", tmp_path / "here")
    assert (tmp_path / "here" / "outside").read_text() == "hello"
    notes.upload(tmp_path / "here", "there")
    assert ada.names("/shared/notes/there") == ["outside"]
    notes.remove("from")
    assert ada.names("/shared/notes") == ["plan", "there"]


def test_what_a_program_writes_before_there_is_a_box_is_there_for_it(main):
    main.shared("notes").write("plan", "first")
    (fork,) = main.fork()
    ada = fork.spawn(Scribe(), shared=["notes"])
    assert ada.read(PLAN) == "first"


def test_boxes_of_different_users_write_the_same_directory(main):
    root, ada = main.spawn(Privileged(), shared=["notes"]), main.spawn(Scribe(), shared=["notes"])
    root.write("/shared/notes/of-root", "x")
    ada.write("/shared/notes/of-ada", "y")
    assert root.read("/shared/notes/of-ada") == "y"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc", ".hidden", "x" * 65, "a\0", "ä b", 7])
def test_a_name_that_is_a_path_is_refused(main, name):
    with pytest.raises(errors.InvalidInput):
        main.spawn(Scribe(), shared=[name])
    with pytest.raises(errors.InvalidInput):
        main.shared(name)
    assert not main.instances


def test_one_name_that_is_no_list_is_refused(main):
    with pytest.raises(errors.InvalidInput, match="list"):
        main.spawn(Scribe(), shared="notes")


@pytest.mark.parametrize("path", ["../data/x", "/etc/passwd", "a/../../x"])
def test_a_path_that_leads_out_of_the_directory_is_refused(main, path):
    with pytest.raises(errors.PathRefused):
        main.shared("notes").read(path)


def test_an_instance_with_shared_directories_is_forked_with_its_branch_alone(main):
    ada, _ = pair(main)
    with pytest.raises(errors.WrongState, match="shares"):
        ada.fork()


# -- forks and commits


def test_a_fork_has_its_own_from_then_on(main):
    ada, bob = pair(main)
    ada.write(PLAN, "before")
    one, two = main.fork(2)
    assert one.live, one.reasons
    one[ada].write(PLAN, "one")
    two[bob].write(PLAN, "two")
    ada.write(PLAN, "main")
    assert one[bob].read(PLAN) == "one"
    assert two[ada].read(PLAN) == "two"
    assert bob.read(PLAN) == "main"
    assert one.shared("notes").read("plan") == b"one"


def test_a_commit_makes_them_what_the_branchs_are_and_boxes_go_on_with_them(main):
    ada, bob = pair(main)
    ada.write(PLAN, "before")
    one, two = main.fork(2)
    one[ada].write(PLAN, "won")
    two[ada].write("/shared/notes/lost", "lost")
    one.commit()
    assert bob.read(PLAN) == "won"
    assert bob.names("/shared/notes") == ["plan"]
    bob.write(PLAN, "on")
    assert ada.read(PLAN) == "on"
    assert main.shared("notes").read("plan") == b"on"
    assert two.status == "stale"


def test_many_generations_of_forks_keep_what_each_wrote(main):
    ada, _ = pair(main)
    for number in range(12):
        (fork,) = main.fork()
        fork[ada].write(f"/shared/notes/{number}", str(number))
        fork.commit()
    assert ada.names("/shared/notes") == sorted(map(str, range(12)))
    assert ada.read("/shared/notes/3") == "3"


def test_nothing_of_an_aborted_branch_remains(main):
    ada, _ = pair(main)
    (fork,) = main.fork()
    fork[ada].write(PLAN, "lost")
    fork.abort()
    assert ada.names("/shared/notes") == []
    assert ("added", PLAN) not in paths(main)
    assert ("added", PLAN) in paths(fork)


def test_a_write_from_outside_moves_the_branch(main):
    ada, _ = pair(main)
    (fork,) = main.fork()
    fork[ada].write(PLAN, "fork")
    main.shared("notes").write("other", "x")
    with pytest.raises(errors.BranchStale):
        fork.commit()
    fork.merge()
    assert ada.names("/shared/notes") == ["other", "plan"]


def test_a_file_that_is_open_is_open_in_every_fork_for_itself(main):
    ada, bob = pair(main)
    ada.add(PLAN, "a")
    (fork,) = main.fork()
    assert fork.live, fork.reasons
    fork[ada].add(PLAN, "fork")
    ada.add(PLAN, "main")
    assert bob.read(PLAN) == "amain"
    assert fork[bob].read(PLAN) == "afork"


def test_a_fork_while_programs_write_has_them_as_they_were_at_one_moment(main):
    ada, bob = pair(main)
    ada.begin_writing("/shared/notes/number")
    (fork,) = main.fork()
    assert not fork.live
    number = int(fork.shared("notes").read("number"))
    assert fork.shared("notes").read("number") == b"%d\n" % number
    eventually(lambda: int(bob.read("/shared/notes/number") or 0) > number)
    fork[bob].write(PLAN, "fork")
    assert "plan" not in bob.names("/shared/notes")


def test_a_cold_fork_has_the_files(main):
    ada, bob = pair(main)
    ada.write(PLAN, "before")
    (fork,) = main.fork(live="never")
    assert not fork.live
    assert fork[bob].read(PLAN) == "before"
    fork[ada].write(PLAN, "fork")
    fork.commit()
    assert bob.read(PLAN) == "fork"


# -- merges


def test_a_merge_joins_what_both_sides_wrote(main):
    ada, bob = pair(main)
    ada.write(PLAN, "one\ntwo\nthree\nfour\nfive\n")
    one, two = main.fork(2)
    one[ada].write(PLAN, "ONE\ntwo\nthree\nfour\nfive\n")
    two[bob].write(PLAN, "one\ntwo\nthree\nfour\nFIVE\n")
    two[bob].write("/shared/data/more", "more")
    one.commit()
    two.merge()
    assert ada.read(PLAN) == "ONE\ntwo\nthree\nfour\nFIVE\n"
    assert bob.read("/shared/data/more") == "more"
    bob.write(PLAN, "both")
    assert ada.read(PLAN) == "both"


def test_a_conflict_is_data_and_a_resolver_decides_it(main):
    ada, bob = pair(main)
    one, two = main.fork(2)
    one[ada].write(PLAN, "one")
    two[bob].write(PLAN, "two")
    one.commit()
    with pytest.raises(errors.MergeConflict) as caught:
        two.merge()
    (conflict,) = caught.value.conflicts
    assert (conflict.instance, conflict.shown) == ("/shared", PLAN)
    assert ada.read(PLAN) == "one"
    seen = []

    def resolver(conflict) -> Resolution:
        seen.append(conflict.path)
        return THEIRS

    two.merge(resolver)
    assert seen == [b"shared/notes/plan"]
    assert (ada.read(PLAN), bob.read(PLAN)) == ("two", "two")


def test_a_stale_branch_can_overwrite(main):
    ada, _ = pair(main)
    one, two = main.fork(2)
    one[ada].write(PLAN, "one")
    two[ada].write(PLAN, "two")
    one.commit()
    two.commit(overwrite=True)
    assert ada.read(PLAN) == "two"


def test_a_commit_is_validated_by_what_changed_in_them(main):
    ada, _ = pair(main)
    main.shared("data").write("x", "1")
    (fork,) = main.fork()
    fork[ada].write(PLAN, "fork")
    main.shared("data").write("x", "2")
    with pytest.raises(errors.ReadsChanged, match="/shared/data/x"):
        fork.commit(onto="validated", reads=["/shared/data/**"])
    fork.commit(onto="validated", reads=["/shared/notes/**"])
    assert ada.read(PLAN) == "fork"
    assert main.shared("data").read("x") == b"2"


# -- looking, going on, ending


def test_a_diff_names_them(main):
    ada, _ = pair(main)
    ada.write(PLAN, "plan")
    (change,) = [change for change in main.diff() if change.path == PLAN]
    assert (change.kind, change.size, change.instance) == ("added", 4, "/shared")
    (fork,) = main.fork()
    assert paths(fork) == []
    fork[ada].write(PLAN, "other")
    assert paths(fork) == [("changed", PLAN)]
    assert [change.path for change in fork.shared("notes").diff()] == [PLAN]
    assert fork.shared("data").diff() == []


def test_a_branch_goes_on_from_a_snapshot_with_them():
    with kibo.branch() as main:
        ada, _ = pair(main)
        ada.write(PLAN, "kept")
        label = main.snapshot().id
        ada.write(PLAN, "later")
    with kibo.checkout(label, Scribe()) as again:
        assert again["bob"].read(PLAN) == "kept"
        again["ada"].write(PLAN, "again")
        assert again["bob"].read(PLAN) == "again"
        (fork,) = again.fork()
        assert fork["bob"].read(PLAN) == "again"
    with kibo.checkout(again.id, Scribe()) as last:
        assert last["ada"].read(PLAN) == "again"


def test_a_branch_that_has_ended_is_used_no_more(main):
    pair(main)
    (fork,) = main.fork()
    notes = fork.shared("notes")
    notes.write("plan", "x")
    fork.abort()
    with pytest.raises(errors.BranchClosed):
        notes.read("plan")
    assert PLAN in [change.path for change in notes.diff()]


def test_nothing_of_them_is_left_once_their_branches_are_collected(home):
    with own_runtime(home):
        with kibo.branch() as main:
            ada, _ = pair(main)
            ada.write(PLAN, "x")
            for fork in main.fork(3):
                fork.abort()
        place = wiring.runtime().home
        wiring.runtime().close()
        assert list((place / "deltas").iterdir())
        records = Records(place)
        records.standing().collect(0, 0)
        records.close()
        assert not list((place / "deltas").iterdir())


def test_boxes_that_fill_the_disk_through_them_are_ended_and_others_go_on(main, monkeypatch):
    monkeypatch.setattr(watching, "INTERVAL_S", 0.05)
    small, other = main.spawn(Small(), shared=["notes"]), main.spawn(Scribe(), name="other")
    with pytest.raises(errors.KiboError):
        small.exec("while true; do head -c 1000000 /dev/zero >> /shared/notes/big; done", timeout_s=30)
    assert small.status == "ended"
    assert other.read("/etc/hostname") is not None


def test_an_exported_snapshot_has_them_where_it_is_imported(tmp_path, home):
    with kibo.branch() as main:
        ada, _ = pair(main)
        ada.write(PLAN, "exported")
        main.snapshot()
    standing = wiring.runtime().records().standing()
    standing.send(main.id, tmp_path / "parcel")
    received = standing.receive(tmp_path / "parcel")
    assert received.labels == ("Scribe",)
    with kibo.checkout(received.branch.id, Scribe()) as again:
        assert again["bob"].read(PLAN) == "exported"
        assert again["ada"].names("/shared") == ["notes"]


def test_two_points_are_compared_with_them_by_who_runs_neither(main):
    ada, _ = pair(main)
    before = main.snapshot().id
    ada.write(PLAN, "x")
    after = main.snapshot().id
    standing = wiring.runtime().records().standing()
    found = {(change.instance, change.path) for change in standing.diff(before, after)}
    assert ("/shared", PLAN) in found
    assert b"+x" in b"".join(standing.patch(before, after))
