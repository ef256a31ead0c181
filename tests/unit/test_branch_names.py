"""What forks are called whose user has no name for them."""

from __future__ import annotations

from kibo.branch.marks import MAX_NAME, checked_name, numbered


def test_a_fork_is_numbered_after_what_it_was_forked_from():
    assert numbered("main.2", 10) == "main.2.10"


def test_of_a_name_that_would_be_too_long_the_middle_is_left_out():
    name = "the root of all of it"
    for number in range(1_000):
        name = numbered(name, number)
        assert checked_name(name, "name") == name
    assert len(name) == MAX_NAME
    assert name.startswith("the root of all of i\N{HORIZONTAL ELLIPSIS}")
    assert name.endswith(".997.998.999")
    assert name.count("\N{HORIZONTAL ELLIPSIS}") == 1
