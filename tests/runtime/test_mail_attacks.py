"""Boxes that lie about the messages that they were given: the box ends, and nothing else is believed or harmed."""

from __future__ import annotations

from typing import Any

import pytest

import kibo
from kibo.branch.branch import Branch
from kibo.model.errors import ActionFailed, InstanceUnknown
from letter_boxes import Reader

pytestmark = pytest.mark.security
SOON_S = 20.0


class Liar(kibo.Box):
    """Answers what it likes, in place of its runner."""

    answer: Any

    def launch(self) -> None:
        from kibo.runtime.guest import Guest

        answer = self.answer
        Guest._do_deliver = lambda _runner, number, *_: ["ok", number, answer]  # type: ignore[assignment]

    @kibo.on_message
    def take(self) -> None:
        """Never called."""


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1,
        [],
        [2, None, None],
        [-1, None, None],
        [0, None, None],
        ["1", None, None],
        [1, None, {}],
        [1, None, "x"],
    ],
    ids=str,
)
def test_a_box_that_lies_about_what_it_handled_is_ended(main: Branch, answer: Any) -> None:
    honest, liar = main.spawn(Reader(), name="honest"), main.spawn(Liar(answer=answer), name="liar")
    (delivery,) = honest.send_message(liar, 1).wait(timeout_s=SOON_S)
    assert delivery.state == "dead"
    assert liar.status == "ended"
    assert honest.send_message(honest, 2).wait(timeout_s=SOON_S)[0].state == "consumed"


def test_an_answer_that_no_message_can_hold_is_the_boxes_failure(main: Branch) -> None:
    honest = main.spawn(Reader(), name="honest")
    liar = main.spawn(Liar(answer=[1, {"\ud800": float("nan")}, None]), name="liar")
    with pytest.raises(ActionFailed):
        honest.request(liar, 1, timeout_s=SOON_S)


def test_a_name_that_is_guessed_reaches_nobody(main: Branch) -> None:
    honest = main.spawn(Reader(), name="honest")
    main.spawn(Reader(), name="victim")
    (fork,) = main.fork()
    fork.spawn(Reader(), name="other")
    for name in ("other", "~other", "?msg_1", "", "victim\0", "../victim"):
        with pytest.raises(InstanceUnknown):
            honest.send_message(name, "guess")
    assert fork.mail.sent() == []
