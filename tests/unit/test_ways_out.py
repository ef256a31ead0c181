"""What this process knows of the gateways that it has had."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from kibo.box.policy import Rule, Secret
from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import RuntimeLost
from kibo.runtime.egress import Egress


class Gateway:
    """One that lives until it is told otherwise."""

    def __init__(self, name: str) -> None:
        self.gateway, self.alive = name, True

    def check(self, secrets: Sequence[Secret]) -> None:
        pass

    def certificate(self) -> bytes:
        if not self.alive:
            raise RuntimeLost("it has ended")
        return b""

    def serve(
        self,
        listening_fd: int,
        rules: Sequence[Rule],
        box_id: str,
        secrets: Sequence[Secret],
        *,
        asker: Asker,
        pidfd: int,
    ) -> None:
        raise AssertionError("no box is made")

    def settle(self, branch: str, asker: Asker) -> socket.socket:
        raise AssertionError("nothing is committed")

    def close(self) -> None:
        self.alive = False


def test_a_gateway_that_has_died_is_known_for_dead_also_once_there_is_another() -> None:
    made: list[Gateway] = []

    def make() -> Gateway:
        made.append(Gateway(f"gw_{len(made) + 1}"))
        return made[-1]

    egress = Egress(make)
    assert egress.lost() == []
    for number in range(2):
        egress.door("inst_1", [], [], NOBODY).close()
        assert len(egress.lost()) == number
        made[-1].alive = False
        assert egress.lost() == ["gw_1", "gw_2"][: number + 1]


def test_of_threads_that_need_one_at_once_one_makes_it_for_all() -> None:
    made: list[Gateway] = []
    found: list[object] = []
    other = threading.Thread(target=lambda: found.append(egress.forwarding()))

    def make() -> Gateway:
        made.append(Gateway(f"gw_{len(made) + 1}"))
        if len(made) == 1:
            other.start()
            other.join(0.1)  # it comes while this is being made, and waits for it
        return made[-1]

    egress = Egress(make)
    found.append(egress.forwarding())
    other.join()
    assert found == made * 2
