"""What becomes of a run, as one table. Pure; `docs/reference/runs.md` is written from it.

An attempt of a run exists in `starting`, `running`, `stopping` and `cancelling`; where its effects are undone, in
`compensating` and `rolling_back`. From `cancelling` and `rolling_back` nothing leads anywhere but to `cancelled`.
"""

from collections.abc import Iterator
from typing import Final, Literal, get_args

from kibo.model.errors import WrongState

State = Literal[
    "waiting", "queued", "starting", "running", "stopping", "backing_off", "forked", "compensating", "asking",
    "cancelling", "rolling_back", "done", "failed", "abandoned", "cancelled",
]  # fmt: skip
Event = Literal[
    "ready", "place", "begin", "succeed", "stop", "stopped", "requeue", "retry", "fork", "compensate", "ask",
    "abandon", "fail", "cancel", "roll_back",
]  # fmt: skip

#: What is told of an attempt on its way, and leads to no other state.
Note = Literal["hold", "commit"]

EVENTS: Final[tuple[Event, ...]] = get_args(Event)
NOTES: Final[tuple[Note, ...]] = get_args(Note)

STATES: Final[tuple[State, ...]] = get_args(State)

MEANING: Final[dict[State, str]] = {
    "waiting": "what it comes after has not ended",
    "queued": "it may be started, once there is room",
    "starting": "an attempt has a node, and its box is being made",
    "running": "its action runs",
    "stopping": "an attempt took too long, or its budget is spent, and is being stopped; then its policy decides",
    "backing_off": "it is tried again after a pause",
    "forked": "it has failed, and goes on as several runs; the first that succeeds counts",
    "compensating": "it has failed, and what it has done outside is being undone; then its policy goes on",
    "asking": "it has failed, and a person is to say what is next",
    "cancelling": "it was cancelled, and its attempt is being stopped",
    "rolling_back": "it was cancelled, and what it has done outside is being undone",
    "done": "it has succeeded",
    "failed": "it has failed, and its policy has nothing more; its branch can be looked at",
    "abandoned": "it was given up, and its branch with it",
    "cancelled": "it was cancelled; nothing of it runs",
}

#: What a policy may say of a run that has failed, without another attempt and with.
_END: Final[dict[Event, State]] = {"compensate": "compensating", "abandon": "abandoned", "fail": "failed"}
_FAILED: Final[dict[Event, State]] = {
    "retry": "backing_off", "fork": "forked", "ask": "asking", **_END,
}  # fmt: skip
#: Without an attempt there is nothing to stop.
_CANCEL: Final[dict[Event, State]] = {"cancel": "cancelled", "roll_back": "rolling_back"}

MOVES: Final[dict[State, dict[Event, State]]] = {
    "waiting": {"ready": "queued", "abandon": "abandoned", "fail": "failed", "cancel": "cancelled"},
    "queued": {"place": "starting", **_END, **_CANCEL},
    # A short action may have ended before anybody has heard that it began.
    "starting": {
        "begin": "running", "succeed": "done", "stop": "stopping", "requeue": "queued", **_FAILED,
        "cancel": "cancelling",
    },
    "running": {
        "succeed": "done", "stop": "stopping", "requeue": "queued", **_FAILED, "cancel": "cancelling",
    },
    "stopping": {"succeed": "done", **_FAILED, "cancel": "cancelling"},
    "backing_off": {"requeue": "queued", **_END, **_CANCEL},
    "forked": {"succeed": "done", **_FAILED, **_CANCEL},
    "compensating": {"place": "compensating", **_FAILED, "cancel": "rolling_back"},
    "asking": {**_FAILED, **_CANCEL},
    "cancelling": {"stopped": "cancelled", "roll_back": "rolling_back"},
    "rolling_back": {"place": "rolling_back", "stopped": "cancelled"},
    "done": {},
    "failed": {},
    "abandoned": {},
    "cancelled": {},
}  # fmt: skip

#: Those that nothing leads out of.
ENDED: Final[frozenset[State]] = frozenset(state for state in STATES if not MOVES[state])
#: Those in which a run takes a place in its tenant's queue.
WAITING: Final[frozenset[State]] = frozenset({"waiting", "queued", "backing_off"})
#: Those in which a run has what it was placed with: its keys, and while an attempt lives, its node's room.
HOLDING: Final[frozenset[State]] = frozenset(
    {"starting", "running", "stopping", "cancelling", "compensating", "rolling_back"}
)
#: Those of which an attempt may begin something, and those of which it may still end what it has begun.
STARTED: Final[frozenset[State]] = frozenset({"starting", "running"})
WRITING: Final[frozenset[State]] = STARTED | {"stopping"}
#: Those in which what it has done is undone.
UNDOING: Final[frozenset[State]] = frozenset({"compensating", "rolling_back"})
#: Those in which a cancellation has been asked for already.
CANCELLED: Final[frozenset[State]] = frozenset({"cancelling", "rolling_back", "cancelled"})


def after(state: State, event: Event) -> State:
    """Returns what a run becomes.

    Raises:
        WrongState: That cannot happen to it as it is.
    """
    found = MOVES[state].get(event)
    if found is None:
        raise WrongState(
            f"a run that is {state} cannot {event}",
            hint="Read the run again: it has gone on meanwhile.",
            details={"state": state, "event": event},
        )
    return found


def page() -> Iterator[str]:
    """Writes the table as a page of Markdown, a line at a time."""
    yield "# Runs: states, and what leads from one to another\n"
    yield "| state | meaning | what may happen to it, and what it is then |"
    yield "|---|---|---|"
    for state, moves in MOVES.items():
        told = " · ".join(f"{event} → `{then}`" for event, then in moves.items()) or "nothing: it has ended"
        yield f"| `{state}` | {MEANING[state]} | {told} |"
    yield ""
    yield "Two events lead nowhere, and tell of an attempt on its way. `hold`: all that it calls waits for effects that"
    yield "its fork holds. `commit`: the fork is committed: what it did can be seen, and what it asked for may happen."
    yield ""
