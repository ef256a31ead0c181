"""What a person says of effects that wait for one, from a program."""

from __future__ import annotations

from kibo.effects.records import Effect
from kibo.wiring import runtime


def approve(effect: str, *, digest: str) -> Effect:
    """Approves the exact payload of an effect that waits for a person, of any process of this state directory.

    It is sent at once or, where it is held in a branch, when that is committed. An approval holds for as long as the
    rule's `approve_within_s` says. Who runs this process is recorded as who has approved.

    Args:
        effect: Its id, or the beginning of its id, as `kibo effects` and `branch.effects()` have it.
        digest: That of the payload that you have looked at: its `digest`. Another payload is not approved.

    Returns:
        The effect: released, or held as before.

    Raises:
        EffectUnknown: None is called so, or several are.
        WrongState: It has another digest, waits no more, was approved already, or needs no approval. Never retry.
        StoreUnavailable: The ledger does not answer. Retry.
    """
    return runtime().records().approve(effect, digest)


def deny(effect: str, *, why: str = "") -> Effect:
    """Refuses an effect that waits for a person, or that was approved and is not sent yet. It is never sent.

    Args:
        effect: As for `approve`.
        why: What the program in the box is told, with who has refused it; up to 1,000 characters.

    Returns:
        The effect, dropped.

    Raises:
        EffectUnknown: None is called so, or several are.
        InvalidInput: The reason is too long.
        WrongState: It has been sent or has ended already, or needs no approval. Never retry.
        StoreUnavailable: The ledger does not answer. Retry.
    """
    return runtime().records().deny(effect, why)
