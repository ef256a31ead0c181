"""Branches that a killed process has left unsealed, ended and gone on with by programs that run none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kibo.branch.standing import Standing
from kibo.branch.worlds import InstanceWorld, to_json
from kibo.hub.post import Post
from kibo.wiring.records import Records

#: A world of an instance that has no files.
WORLD = to_json({"b": InstanceWorld("0" * 64, "Reader", (), ())})


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    found = Records(tmp_path)
    yield found
    found.close()


@pytest.fixture
def standing(records: Records) -> Standing:
    return records.standing()


def left(records: Records) -> tuple[str, str]:
    """Makes a branch with a fork that has handled one message in its box and sent another from there, unsealed."""
    history = records.history
    main = history.create(world=WORLD)
    (fork,) = history.fork(main.id)
    post = Post(history.log, fork.id)
    post.send("a", [("b", "")], "asked")
    post.settle([letter for letter, _ in post.take(("b", ""))], inside=True)
    post.send("b", [("a", "")], "told", inside=True)
    return main.id, fork.id


def mail(records: Records, branch: str) -> list[tuple[object, str]]:
    post = Post(records.history.log, branch)
    return [(message.body, letter.state) for letter, message in post.listed()]


def test_a_commit_takes_what_was_sealed_and_what_was_sent_from_outside(
    records: Records, standing: Standing
) -> None:
    main, fork = left(records)
    standing.commit(fork)
    assert mail(records, main) == [("asked", "accepted")]


def test_a_merge_does_too(records: Records, standing: Standing) -> None:
    main, fork = left(records)
    Post(records.history.log, main).send("a", [("b", "")], "ours")
    standing.merge(fork)
    assert mail(records, main) == [("ours", "accepted"), ("asked", "accepted")]


def test_a_checkout_by_the_branchs_name_does_and_by_a_snapshot_is_that(
    records: Records, standing: Standing
) -> None:
    _, fork = left(records)
    head = records.history.get(fork).head
    before, _ = standing.checkout(head)
    assert records.history.get(fork).unsealed
    made, needed = standing.checkout(fork)
    assert needed == ("Reader",)
    assert mail(records, made.id) == [("asked", "accepted")]
    assert mail(records, before.id) == []


def test_a_branch_that_runs_is_left_alone(records: Records, standing: Standing) -> None:
    _, fork = left(records)
    unsealed = records.history.get(fork).unsealed
    records.owner.begin(fork)
    standing.checkout(fork)
    assert records.history.get(fork).unsealed == unsealed
