"""What tests of the ledger record."""

from __future__ import annotations

from kibo.effects.records import PACK, Called, Draft, Payload, key_digest
from kibo.model.ids import EffectId


def draft(
    branch: str = "",
    *,
    body: bytes = b"{}",
    key: bytes | None = None,
    scope: str = "scope",
    approve_within_s: float | None = None,
    within: str | None = None,
) -> Draft:
    payload = Payload(
        True, "shop.example", 443, b"POST", b"/pay?x=1", [(b"host", b"shop.example")], [], True, False, False
    )
    return Draft(
        EffectId.new(),
        "irreversible",
        branch,
        "inst_1",
        scope,
        key and key_digest(key),
        b"rule",
        b"secrets",
        payload,
        body,
        True,
        approve_within_s,
        within=within,
    )


def call(
    branch: str = "", *, key: str | None = None, scope: str = "", undo: str | None = "free", room: str = "1"
) -> Draft:
    return Draft(
        EffectId.new(),
        "reversible" if undo else "irreversible",
        branch,
        "inst_1",
        scope,
        key and key_digest(key.encode()),
        b"",
        b"",
        Called("b2:0", 0, "Inn.take"),
        PACK.encode({"room": room}),
        True,
        undo=undo,
    )
