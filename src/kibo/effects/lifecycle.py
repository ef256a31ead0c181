"""What becomes of an effect, as one table. Pure.

```
hold ─▶ held ──release──▶ released ──send──▶ sending ──answer──▶ done
         │ └─ask─▶ asking ─approve─▶ ┘ │        │                  ▲
         │            │                │        └─lose─▶ in_doubt ─┴─confirm
         └────drop────┴─▶ dropped      ├─fail─▶ failed   │ └─deny─▶ not_done
                                       └─replay─▶ replayed └─repeat─▶ sending
```

`asking` waits for a person, and nothing else. One that is held can be approved already, and stays held. Until it is
sent, a person may `refuse` what a person was asked about, and it may `expire`: both drop it.

`sending` is durable before the first byte leaves, and an answer is recorded before it is passed on. So what is found
`sending` when its gateway has died may have happened or not: it is in doubt, and nothing but an answer from outside
leads out of that. A person gives it, or a later look at the server; or the server itself, to a repetition with its key,
where a rule says that it acts once on that. Nothing leads back to `released`.

What a recording has answered is `replayed`: it was never sent, and nobody was asked to approve it.

The call of an action begins at once, `sending`, and may be undone once it is done:

```
sending ──answer──▶ done ──owe──▶ not_undone ──undo──▶ undoing ──undone──▶ undone
   │                 ▲ └─forget─▶ dropped ▲ └─settle──────│──────────────────▲
   ├─lose─▶ in_doubt─┴─confirm            └─────stick─────┘
   │           └─deny─▶ not_done
   ├─raise─▶ failed
   └─void──▶ dropped
```

`undoing` is durable before what undoes it is called. `void` and `forget` are for calls in a branch that has ended which
can have changed nothing outside: all that they asked for was held.
"""

from typing import Final, Literal, get_args

from kibo.model.errors import WrongState

State = Literal[
    "held", "asking", "released", "sending", "done", "failed", "in_doubt", "not_done", "dropped", "replayed",
    "not_undone", "undoing", "undone",
]  # fmt: skip
Event = Literal[
    "release",
    "ask",
    "approve",
    "refuse",
    "expire",
    "drop",
    "send",
    "fail",
    "answer",
    "lose",
    "confirm",
    "deny",
    "repeat",
    "replay",
]
#: Those of calls alone.
CallEvent = Literal["raise", "void", "forget", "owe", "undo", "undone", "stick", "settle"]

STATES: Final[tuple[State, ...]] = get_args(State)
MOVES: Final[dict[tuple[State, Event], State]] = {
    ("held", "release"): "released",
    ("held", "ask"): "asking",
    ("held", "drop"): "dropped",
    ("held", "approve"): "held",
    ("held", "refuse"): "dropped",
    ("asking", "approve"): "released",
    ("asking", "refuse"): "dropped",
    ("asking", "expire"): "dropped",
    ("asking", "drop"): "dropped",
    ("released", "send"): "sending",
    ("released", "fail"): "failed",
    ("released", "refuse"): "dropped",
    ("released", "expire"): "dropped",
    ("released", "replay"): "replayed",
    ("sending", "answer"): "done",
    ("sending", "lose"): "in_doubt",
    ("in_doubt", "confirm"): "done",
    ("in_doubt", "deny"): "not_done",
    ("in_doubt", "repeat"): "sending",
}
#: What happens to calls besides.
CALL_MOVES: Final[dict[tuple[State, CallEvent], State]] = {
    ("sending", "raise"): "failed",
    ("sending", "void"): "dropped",
    ("done", "forget"): "dropped",
    ("done", "owe"): "not_undone",
    ("not_undone", "undo"): "undoing",
    ("not_undone", "settle"): "undone",
    ("undoing", "undone"): "undone",
    ("undoing", "stick"): "not_undone",
}
_ALL: Final = dict([*MOVES.items(), *CALL_MOVES.items()])
#: Those of which a request with the same key is a repetition: they have happened, or may have, or are as if they had.
SENT: Final[tuple[State, ...]] = ("sending", "done", "in_doubt", "replayed")
#: Those of what has been asked for and may stand or fall with its branch.
STANDING: Final[tuple[State, ...]] = ("held", "asking", "sending", "done", "in_doubt", "replayed")
#: Those that wait for their gateway.
OPEN: Final[tuple[State, ...]] = ("held", "asking", "released", "sending")
#: Those in which nobody has to do anything about one any more.
ENDED: Final[tuple[State, ...]] = ("done", "failed", "not_done", "dropped", "replayed", "undone")


def after(state: State, event: Event | CallEvent) -> State:
    """Returns what an effect becomes.

    Raises:
        WrongState: That cannot happen to it as it is.
    """
    found = _ALL.get((state, event))
    if found is None:
        raise WrongState(
            f"an effect that is {state} cannot {event}",
            hint="`kibo effects` tells how each stands.",
            details={"state": state, "event": event},
        )
    return found


def before(event: Event | CallEvent) -> tuple[State, ...]:
    """Returns the states in which something can happen: what a compare-and-set expects."""
    return tuple(state for state, each in _ALL if each == event)


def reached(event: Event | CallEvent) -> State:
    """Returns the one state that something leads to."""
    (found,) = {after(state, event) for state in before(event)}
    return found
