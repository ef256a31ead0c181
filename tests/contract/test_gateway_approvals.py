"""Approvals through the gateway as its own process: it waits for a person, and does what that one says, and no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.test_gateway_effects import Asking, Installation, ask, here, killed, request  # noqa: F401
from doors import read_until
from kibo.box.policy import Allow, Secret
from kibo.effects import presence
from kibo.effects.bells import ringing
from kibo.effects.forwarder import Forwarder
from kibo.effects.records import Effect
from kibo.model.asker import Asker
from kibo.model.errors import RuntimeLost, WrongState
from kibo.model.limits import MAX_EFFECT_BODY_BYTES
from patience import until

pytestmark = pytest.mark.contract

#: What another process does that approves: it is killed at a crash point, or not.
PERSON = """
import sys
from pathlib import Path
from kibo.wiring.records import Records
records = Records(Path(sys.argv[1]))
records.approve(sys.argv[2], records.ledger.get(sys.argv[2]).effect.digest)
"""


def asking_rule(here: Installation, **more: object) -> Allow:  # noqa: F811
    return Allow("shop.example", to=here.shop.address, approve=True, **more)  # type: ignore[arg-type]


def approve(here: Installation, effect: Effect) -> Effect:  # noqa: F811
    with ringing(here.place / "gateways"):
        return here.ledger.approve(effect.id, digest=effect.digest, by="ada (uid 1)")


def deny(here: Installation, effect: Effect, why: str = "") -> Effect:  # noqa: F811
    with ringing(here.place / "gateways"):
        return here.ledger.refuse(effect.id, by="ada (uid 1)", why=why)


def approve_elsewhere(here: Installation, effect: Effect, crash: str = "") -> int:  # noqa: F811
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if crash:
        variables["KIBO_CRASH_AT"] = crash
    command = [sys.executable, "-c", PERSON, str(here.place), effect.id]
    return subprocess.run(command, env=variables, timeout=50).returncode


def test_a_request_waits_for_its_person_and_is_sent_when_that_one_has_approved_it(
    here: Installation,  # noqa: F811
) -> None:
    asking = Asking(here.box(None, asking_rule(here)), request())
    here.await_states("asking")
    assert here.shop.requests == []
    assert asking.waits
    approve(here, here.effects()[0])
    assert asking.wait().startswith(b"HTTP/1.1 200")
    (effect,) = here.effects()
    assert (effect.state, effect.approver) == ("done", "ada (uid 1)")
    assert here.shop.paths == [b"/pay"]


def test_what_reads_and_what_no_rule_asks_about_waits_for_nobody(here: Installation) -> None:  # noqa: F811
    rules = (
        Allow("shop.example", to=here.shop.address),
        asking_rule(here, methods=("POST",), paths=("/pay",)),
    )
    box = here.box(None, *rules)
    assert ask(box, request("/pay", method="GET", body=b"")).startswith(b"HTTP/1.1 200")
    assert ask(box, request("/other")).startswith(b"HTTP/1.1 200")
    # Servers may take these for /pay.
    asking = [Asking(box, request(path)) for path in ("/pay", "/PAY", "//pay", "/x/../pay", "/%70ay")]
    here.await_states("done", *["asking"] * 5)
    for each in asking:
        each.leave()


def test_a_request_that_is_refused_is_not_sent_and_its_client_reads_why(here: Installation) -> None:  # noqa: F811
    for why in ("", "too dear\r\nx: y"):
        with here.box(None, asking_rule(here)).connect() as connection:
            connection.sendall(request())
            until(lambda: here.states()[-1:] == ["asking"])
            effect = here.effects()[-1]
            deny(here, effect, why)
            page = read_until(connection, b"kibo approve")
        assert page.startswith(b"HTTP/1.1 403")
        assert f"{effect.id}, was not sent: ada (uid 1) refused it".encode() in page
        assert b"x: y" not in page.partition(b"\r\n\r\n")[0]
    assert here.shop.requests == []


def test_a_request_that_nobody_approves_in_time_is_not_sent_and_its_client_reads_how_long_it_had(
    here: Installation,  # noqa: F811
) -> None:
    with here.box(None, asking_rule(here, approve_within_s=0.3)).connect() as connection:
        connection.sendall(request())
        page = read_until(connection, b"within 0.3 s.")
    assert page.startswith(b"HTTP/1.1 403")
    assert here.states() == ["dropped"]
    with pytest.raises(WrongState, match="nobody approved it within"):
        approve(here, here.effects()[0])
    assert here.shop.requests == []


def test_of_those_that_wait_the_first_that_is_late_goes_first(here: Installation) -> None:  # noqa: F811
    slow = Asking(here.box(None, asking_rule(here, approve_within_s=60)), request("/slow"))
    here.await_states("asking")
    quick = Asking(here.box(None, asking_rule(here, approve_within_s=0.2)), request("/quick"))
    assert quick.wait().startswith(b"HTTP/1.1 403")
    assert here.states() == ["asking", "dropped"]
    slow.leave()


def test_a_client_that_goes_away_takes_its_request_back(here: Installation) -> None:  # noqa: F811
    asking = Asking(here.box(None, asking_rule(here)), request())
    here.await_states("asking")
    asking.leave()
    here.await_states("dropped")
    with pytest.raises(WrongState, match="its client went away"):
        approve(here, here.effects()[0])


def test_in_a_fork_it_may_be_approved_before_the_commit_or_after(here: Installation) -> None:  # noqa: F811
    main = here.history.create()
    for before in (True, False):
        (fork,) = here.history.fork(main.id)
        asking = Asking(here.box(fork, asking_rule(here)), request())
        until(lambda: here.states()[-1:] == ["held"])
        sent = len(here.shop.requests)
        if before:
            approve(here, here.effects()[-1])
        here.commit(fork)  # returns, whether or not somebody has said something
        assert len(here.shop.requests) == sent + before
        assert here.effects()[-1].state == ("done" if before else "asking")
        if not before:
            assert asking.waits
            approve(here, here.effects()[-1])
        assert asking.wait().startswith(b"HTTP/1.1 200")


def test_what_is_held_can_be_refused_before_the_commit(here: Installation) -> None:  # noqa: F811
    (fork,) = here.history.fork(here.history.create().id)
    asking = Asking(here.box(fork, asking_rule(here)), request())
    here.await_states("held")
    deny(here, here.effects()[0])
    assert asking.wait().startswith(b"HTTP/1.1 403")
    here.commit(fork)
    assert here.shop.requests == []


def test_an_aborted_fork_sends_nothing_though_it_was_approved(here: Installation) -> None:  # noqa: F811
    (fork,) = here.history.fork(here.history.create().id)
    asking = Asking(here.box(fork, asking_rule(here)), request())
    here.await_states("held")
    approve(here, here.effects()[0])
    with ringing(here.place / "gateways"):  # as `kibo abort` does
        here.history.abort(fork.id)
    assert here.states() == ["dropped"]
    page = asking.wait()
    assert page.startswith(b"HTTP/1.1 403")
    assert b"its branch was aborted" in page
    assert here.shop.requests == []


@pytest.mark.parametrize("end", ["approved", "refused", "left", "late"])
def test_nothing_of_a_commit_overtakes_what_waits_for_a_person_however_that_ends(
    here: Installation,  # noqa: F811
    end: str,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    within_s = 1.0 if end == "late" else 60.0
    first = Asking(here.box(fork, asking_rule(here, approve_within_s=within_s)), request("/first"))
    here.await_states("held")
    behind = [Asking(here.box(fork), request("/second")), Asking(here.box(fork), request("/third"))]
    here.await_states("held", "held", "held")
    here.commit(fork)
    if end != "late":
        assert here.states() == ["asking", "released", "released"]
        assert here.shop.requests == []
    if end == "approved":
        approve(here, here.effects()[0])
    elif end == "refused":
        deny(here, here.effects()[0])
    elif end == "left":
        first.leave()
    here.await_states("done" if end == "approved" else "dropped", "done", "done")
    others = sorted(here.shop.paths[-2:])
    assert (others, here.shop.paths[:-2]) == ([b"/second", b"/third"], [b"/first"] * (end == "approved"))
    assert all(each.wait().startswith(b"HTTP/1.1 200") for each in behind)
    if end != "left":
        first.wait()


def test_what_a_root_asks_for_by_itself_waits_for_no_other(here: Installation) -> None:  # noqa: F811
    main = here.history.create()
    box = here.box(main, Allow("shop.example", to=here.shop.address), asking_rule(here, paths=("/pay/*",)))
    asking = [Asking(box, request(f"/pay/{number}")) for number in range(3)]
    here.await_states("asking", "asking", "asking")
    assert ask(box, request("/other")).startswith(b"HTTP/1.1 200")
    last = next(each for each in here.effects() if each.url.endswith("/2"))
    approve(here, last)
    assert asking[2].wait().startswith(b"HTTP/1.1 200")
    assert here.shop.paths == [b"/other", b"/pay/2"]
    for each in asking[:2]:
        assert each.waits
        each.leave()


def test_of_two_that_wait_with_one_key_one_is_sent_and_both_have_its_answer(here: Installation) -> None:  # noqa: F811
    box = here.box(None, asking_rule(here))
    asking = [Asking(box, request("/pay", "Idempotency-Key: k")) for _ in range(2)]
    here.await_states("asking", "asking")
    for effect in here.effects():
        approve(here, effect)
    assert [each.wait()[:12] for each in asking] == [b"HTTP/1.1 200"] * 2
    assert sorted(here.states()) == ["done", "failed"]
    assert len(here.shop.requests) == 1
    assert ask(box, request("/pay", "Idempotency-Key: k")).startswith(b"HTTP/1.1 200")
    assert len(here.shop.requests) == 1


def test_what_is_approved_has_placeholders_and_what_is_sent_has_the_values(here: Installation) -> None:  # noqa: F811
    secret = Secret("PASSWORD", hosts=["shop.example"])
    asked = request("/pay", f"Authorization: Bearer {secret.placeholder}")
    asking = Asking(here.box(None, asking_rule(here), secrets=[secret]), asked)
    here.await_states("asking")
    (effect,) = here.effects()
    digest = here.ledger.get(effect.id).digest
    assert (b"authorization", f"Bearer {secret.placeholder}".encode()) in here.ledger.get(
        effect.id
    ).payload.fields
    approve(here, effect)
    asking.wait()
    assert here.values["PASSWORD"].encode() in here.shop.requests[0]
    assert here.ledger.get(effect.id).digest == digest == effect.digest


def test_a_box_cannot_say_yes_to_itself(here: Installation) -> None:  # noqa: F811
    box = here.box(None, asking_rule(here))
    asking = Asking(box, request())
    here.await_states("asking")
    (effect,) = here.effects()
    said = (
        f"X-Kibo-Approve: {effect.id}", f"Approved-By: ada; digest={effect.digest}",
        f"Idempotency-Key: {effect.id}",
    )  # fmt: skip
    others = [Asking(box, request("/pay", field)) for field in said]
    here.await_states(*["asking"] * 4)
    for name in ("kibo", "localhost", "127.0.0.1", "host.kibo"):
        asked = f"POST http://{name}/effects/{effect.id}/approve HTTP/1.1\r\nHost: {name}\r\ncontent-length: 0\r\n\r\n"
        assert ask(box, asked.encode()).startswith(b"HTTP/1.1 403")
    assert here.states() == ["asking"] * 4
    assert here.shop.requests == []
    for each in (asking, *others):
        each.leave()


def test_what_is_tampered_with_in_the_ledger_after_it_was_approved_is_not_sent(here: Installation) -> None:  # noqa: F811
    (fork,) = here.history.fork(here.history.create().id)
    asking = Asking(here.box(fork, asking_rule(here)), request())
    here.await_states("held")
    approve(here, here.effects()[0])
    connection = here.store._connection()
    connection.execute("UPDATE effects SET body = ?", (b"card=2",))
    connection.commit()
    here.commit(fork)
    assert asking.wait().startswith(b"HTTP/1.1 403")
    assert here.effects()[0].reason == "what is recorded of it is not what was approved"
    assert here.shop.requests == []


def test_what_is_not_opened_and_what_is_too_large_to_be_seen_is_refused(here: Installation) -> None:  # noqa: F811
    closed = Allow("shop.example:443", to=here.shop.address, passthrough=True, effect="read")
    box = here.box(None, closed, Allow("*.example:443", approve=True))
    assert ask(box, b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n").startswith(
        b"HTTP/1.1 403"
    )
    with here.box(None, asking_rule(here)).connect() as connection:
        connection.sendall(request(body=bytes(MAX_EFFECT_BODY_BYTES + 1)))
        assert read_until(connection, b"approved it").startswith(b"HTTP/1.1 413")
    assert here.effects() == []


def test_a_gateway_without_a_ledger_serves_no_box_that_asks(here: Installation) -> None:  # noqa: F811
    with (
        Forwarder.start(here.place / "authority") as gateway,
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(RuntimeLost, match="without a ledger"),
    ):
        gateway.serve(listener.fileno(), [Allow("shop.example", approve=True)], "box")


# -- other processes, and those that die


@pytest.mark.parametrize("crash", ["", "effect.before_approve", "effect.approved"])
def test_another_process_approves_and_where_it_dies_its_word_counts_if_it_is_recorded(
    here: Installation,  # noqa: F811
    crash: str,
) -> None:
    asking = Asking(here.box(None, asking_rule(here)), request())
    here.await_states("asking")
    ended = approve_elsewhere(here, here.effects()[0], crash)
    assert ended == (-signal.SIGKILL if crash else 0)
    if crash == "effect.before_approve":
        assert here.states() == ["asking"]
        approve(here, here.effects()[0])
    assert asking.wait().startswith(b"HTTP/1.1 200")
    assert len(here.shop.requests) == 1


@pytest.mark.parametrize(
    ("crash", "sent", "state", "forked"),
    [
        ("effect.released", 1, "done", False),
        ("effect.before_send", 1, "done", True),
        ("effect.sending", 0, "in_doubt", False),
        ("effect.before_answer", 1, "in_doubt", True),
    ],
)
def test_wherever_a_gateway_dies_what_was_approved_is_sent_once_or_in_doubt(
    here: Installation,  # noqa: F811
    crash: str,
    sent: int,
    state: str,
    forked: bool,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    here.restart(crash)
    asking = Asking(here.box(fork if forked else main, asking_rule(here)), request())
    here.await_states("held" if forked else "asking")
    approve(here, here.effects()[0])
    if forked:
        here.history.commit(fork.id, {"moved": 1})
        here.gateway.settle(fork.id, Asker(main.id, main.id)).close()
    killed(here)
    asking.wait()
    for _ in range(2):
        here.restart()
        here.await_states(state)
        assert len(here.shop.requests) == sent
    assert presence.known(here.place / "gateways") == [here.gateway.gateway]


def test_a_gateway_that_dies_while_it_asks_or_as_it_says_that_it_is_late_sends_nothing(
    here: Installation,  # noqa: F811
) -> None:
    here.restart("effect.before_expire:2")  # the first says when the next is due
    asking = Asking(here.box(None, asking_rule(here, approve_within_s=0.3)), request())
    here.await_states("asking")
    killed(here)
    assert asking.wait() == b""
    here.restart()
    here.await_states("dropped")
    assert "gateway that held it ended" in here.effects()[0].reason
    assert here.shop.requests == []


def test_an_approval_that_is_over_when_the_next_gateway_comes_sends_nothing(here: Installation) -> None:  # noqa: F811
    here.restart("effect.released")
    asking = Asking(here.box(None, asking_rule(here, approve_within_s=0.5)), request())
    here.await_states("asking")
    approve(here, here.effects()[0])
    killed(here)
    asking.wait()
    assert here.states() == ["released"]
    due_s = here.effects()[0].due_s
    assert due_s is not None
    until(lambda: time.time() > due_s)
    here.restart()
    here.await_states("dropped")
    assert here.effects()[0].reason == "its approval was over before it could be sent, after 0.5 s"
    assert here.shop.requests == []


def test_bells_that_nobody_hears_any_more_are_no_obstacle_and_go_with_their_gateway(
    here: Installation,  # noqa: F811
) -> None:
    asking = Asking(here.box(None, asking_rule(here)), request())
    here.await_states("asking")
    os.kill(here.gateway.pid, signal.SIGKILL)
    killed(here)
    asking.wait()
    gateways: Path = here.place / "gateways"
    assert [path.suffix for path in gateways.iterdir()].count(".bell") == 1
    with ringing(gateways):
        pass
    here.restart()
    here.await_states("dropped")
    assert [path.name for path in gateways.iterdir()] == [here.gateway.gateway]


def test_a_gateway_that_waits_for_a_person_does_nothing_meanwhile(here: Installation) -> None:  # noqa: F811
    def times() -> int:
        fields = Path(f"/proc/{here.gateway.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    with contextlib.ExitStack() as left:
        asking = Asking(here.box(None, asking_rule(here)), request())
        left.callback(asking.leave)
        here.await_states("asking")
        with ringing(here.place / "gateways"):
            pass
        waited = Path(f"/proc/{here.gateway.pid}/status")

        def asleep() -> bool:
            return "S (sleeping)" in waited.read_text()

        until(asleep)
        before, later = times(), time.monotonic() + 0.5
        until(lambda: time.monotonic() > later)
        assert (
            times() - before <= 5
        )  # hundredths of a second: a bell that rings for ever would take all of them
