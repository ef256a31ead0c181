"""What differs between two branches or snapshots: their whole worlds, also in the eyes of another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import kibo
from kibo import Allow, aio
from kibo.branch.comparing import Comparison
from kibo.model.errors import SnapshotUnknown
from letter_boxes import Reader
from patience import eventually
from payer_boxes import Payer
from running_till import Till

pytestmark = pytest.mark.runtime


@pytest.fixture
def payer(till: Till) -> type[Payer]:
    class Customer(Payer):
        """Pays at the shop."""

        egress = [Allow("shop.example", to=till.address)]

    return Customer


def diff(*arguments: str) -> str:
    """Runs ``kibo diff`` in another process."""
    command = [sys.executable, "-m", "kibo.cli", "diff", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(found: Comparison) -> dict[str, list[Any]]:
    return {
        "files": [(each.kind, each.path) for each in found.files],
        "context": [(each.kind, each.item.text) for each in found.context],
        "messages": [(each.kind, each.message.body) for each in found.messages],
        "effects": [(each.kind, each.item.state) for each in found.effects],
        "labels": [(each.kind, each.item) for each in found.labels],
    }


def states(deliveries: Sequence[Any]) -> list[str]:
    return [each.state for each in deliveries]


def test_two_forks_differ_in_files_context_messages_effects_and_labels(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box, reader = main.spawn(payer(), name="payer"), main.spawn(Reader(), name="reader")
    main.context.user("in both")
    box.send_message(reader, "to both").wait(timeout_s=20)
    assert box.pay("/before") == "receipt 1 for /before"
    one, two = main.fork(2, names=["one", "two"])
    one.context.assistant("of one")
    two.context.assistant("of two")
    one[box].files.write("/work/own", "1")
    one[box].send_message(one[reader], "of one").wait(timeout_s=20)
    one.snapshot("first")
    paying = calls.submit(two[box].pay, "/held")
    eventually(two.waits_at_boundary)
    found = kibo.compare(one, two)
    assert told(found) == {
        "files": [("removed", "/work/own")],
        "context": [("removed", "of one"), ("added", "of two")],
        "messages": [("removed", "of one")],
        "effects": [("added", "held")],
        "labels": [("removed", "first")],
    }
    assert states(found.messages[0].before) == ["consumed"]
    assert found.messages[0].after == ()
    assert found.effects[0].item.url == "http://shop.example/held"
    lines = diff("one", two.id).splitlines()
    assert lines == [
        "D payer:/work/own",
        "D context assistant: of one",
        "A context assistant: of two",
        'D message payer to reader: "of one"  (consumed)',
        f"A effect POST http://shop.example/held  (held, {found.effects[0].item.id[:12]})",
        "D label first",
    ] or lines == ["D /work/own", *lines[1:]]
    document = json.loads(diff("two", "one", "--json"))
    assert [(each["change"], each["kind"], each["text"]) for each in document["context"]] == [
        ("removed", "assistant", "of two"),
        ("added", "assistant", "of one"),
    ]
    (message,) = document["messages"]
    assert (message["change"], message["body"], message["after"][0]["state"]) == (
        "added",
        "of one",
        "consumed",
    )
    assert [(each["change"], each["state"]) for each in document["effects"]] == [("removed", "held")]
    assert document["labels"] == [{"change": "added", "label": "first"}]
    # What was asked for before the fork is of both.
    assert told(kibo.compare(main.id, two))["effects"] == [("added", "held")]
    two.commit()
    paying.result(20)
    found = kibo.compare(one, main)
    assert [each.item.state for each in found.effects] == ["done"], "it went with the commit, and is done now"
    assert not kibo.compare(main, main)


def test_alone_a_branch_is_compared_with_the_start_of_its_tree(main: kibo.Branch) -> None:
    reader = main.spawn(Reader(), name="reader")
    main.context.user("first")
    reader.files.write("/work/made", "1")
    sealed = main.snapshot("made")
    main.context.user("second")
    now, then = told(kibo.compare(main)), told(kibo.compare(sealed))
    assert now["context"] == [("added", "first"), ("added", "second")]
    assert then == {**now, "context": [("added", "first")]}
    assert (now["files"], now["labels"]) == ([("added", "/work/made")], [("added", "made")])
    assert told(kibo.compare(sealed, main))["context"] == [("added", "second")]
    with pytest.raises(SnapshotUnknown):
        kibo.compare(main, "nothing that is called so")

    async def from_coroutines() -> Comparison:
        return await aio.compare(sealed.id, main.id)

    assert told(anyio.run(from_coroutines)) == told(kibo.compare(sealed, main))


def test_what_a_box_says_cannot_write_to_the_terminal(main: kibo.Branch) -> None:
    main.context.user("\x1b[2Jgone\nA /work/forged")
    assert diff(main.id) == "A context user: \\x1b[2Jgone A /work/forged\n"
