"""What boxes spawn themselves, with directories that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from caller_boxes import Asking, Planner
from kibo import MaySpawn
from kibo.branch.branch import Branch
from patience import eventually
from shared_boxes import Scribe


class Editor(Asking):
    """Has others write."""

    rights = [MaySpawn(Scribe)]


class Chief(Planner):
    """Begins branches of writers."""

    rights = [MaySpawn(Scribe)]


PLAN = "/shared/notes/plan"


@pytest.fixture
def editor(main: Branch) -> Iterator[Any]:
    return main.spawn(Editor(), name="editor", shared=["notes", "data"])


def test_what_a_box_has_spawned_shares_what_it_is_given_of_the_boxs_own(main: Branch, editor: Any) -> None:
    found = editor.run(
        "one, two = me.spawn('Scribe', shared=['notes']), me.spawn('Scribe')\n"
        f"one.write({PLAN!r}, 'from a scribe')\n"
        "result = [open('/shared/notes/plan').read(), one.names('/shared'), two.exec('ls /shared')['returncode'] != 0]"
    )
    assert found == ["from a scribe", ["notes"], True]
    assert main.shared("notes").read("plan") == b"from a scribe"
    assert PLAN in [change.path for change in main.diff()]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"box": "Scribe", "shared": ["others"]}, "policy.denied"),
        ({"box": "Scribe", "shared": ["../x"]}, "input.invalid"),
        ({"box": "Scribe", "shared": [f"n{n}" for n in range(33)]}, "input.invalid"),
        ({"box": "Scribe", "shared": "notes"}, "input.invalid"),
    ],
)
def test_a_box_cannot_give_away_what_it_does_not_have(
    main: Branch, editor: Any, arguments: dict[str, Any], code: str
) -> None:
    main.shared("others").write("secret", "x")
    assert editor.try_to_ask("spawn", arguments)[0] == code


def test_a_box_that_is_in_no_branch_has_nothing_to_share() -> None:
    code, message, _ = Editor().spawn().try_to_ask("spawn", {"box": "Scribe", "shared": ["notes"]})
    assert (code, "in no branch" in message) == ("state.wrong", True)


def test_a_fork_has_what_they_wrote_at_one_moment_and_nothing_that_they_write_later(
    main: Branch, editor: Any
) -> None:
    """They are in no branch, and go on where they were: what they share is copied."""
    editor.run(f"self.kept = me.spawn('Scribe', shared=['notes'])\nself.kept.write({PLAN!r}, 'before')")
    (fork,) = main.fork()
    editor.run(f"self.kept.write({PLAN!r}, 'after')")
    assert fork.shared("notes").read("plan") == b"before"
    assert main.shared("notes").read("plan") == b"after"
    fork.abort()
    editor.destroy()
    eventually(lambda: main.shared("notes").read("plan") == b"after")


def test_in_a_branch_that_a_box_began_writers_share_and_forks_have_their_own(main: Branch) -> None:
    found = main.spawn(Chief(), name="chief").run(
        "with me.branch() as root:\n"
        "    a, b = (root.spawn('Scribe', name=n, shared=['notes']) for n in 'ab')\n"
        f"    a.write({PLAN!r}, 'one')\n"
        "    (fork,) = root.fork()\n"
        f"    fork['b'].write({PLAN!r}, 'two')\n"
        f"    result = [fork['a'].read({PLAN!r})]\n"
        f"    other = root.fork()[0]\n"
        f"    result.append(other['b'].read({PLAN!r}))\n"
        "    fork.commit()\n"
        f"    result.append(b.read({PLAN!r}))"
    )
    assert found == ["two", "one", "two"]
    assert main.diff() == []
