"""Runs as rows: the statements that read and write them, and what a row becomes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, insert, literal, or_, select, update

from kibo.model.clock import Moment
from kibo.model.errors import RunUnknown, StoreDamaged
from kibo.model.ids import ID_HEX_DIGITS, BudgetId, RunId
from kibo.model.limits import MAX_RATE_S
from kibo.schedule.encoding import (
    NEWER,
    packed,
    packed_failure,
    packed_request,
    rates_in,
    read_failure,
    read_request,
)
from kibo.schedule.failing import Progress
from kibo.schedule.gates import Bar, bars_of
from kibo.schedule.lifecycle import ENDED, STATES, State
from kibo.schedule.run import Attempt, Run
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import attempts, moment_row, run_after, run_changes, run_events, runs, tenants

OPEN: Final = tuple(state for state in STATES if state not in ENDED)

_RUN: Final = [
    column for column in runs.columns
    if column.name not in ("work", "result", "key", "reserved_tokens", "reserved_money")
]  # fmt: skip
_IS_OPEN: Final = runs.c.state.in_([literal(state) for state in OPEN])
#: A run with its attempt that has not ended.
_JOINED: Final = select(*_RUN, *attempts.columns).select_from(
    runs.outerjoin(
        attempts,
        and_(attempts.c.run == runs.c.id, attempts.c.epoch == runs.c.epoch, attempts.c.ended.is_(None)),
    )
)
_BY_ID: Final = Prepared(_JOINED.where(runs.c.id == bindparam("id")))
_OPEN: Final = Prepared(_JOINED.where(_IS_OPEN).order_by(runs.c.position))
_TREE: Final = Prepared(_JOINED.where(runs.c.tree == bindparam("tree")).order_by(runs.c.position))
_OF_TENANT: Final = or_(bindparam("all") == 1, runs.c.tenant == bindparam("tenant"))
_NEWEST: Final = Prepared(_JOINED.where(_OF_TENANT).order_by(runs.c.position.desc()).limit(bindparam("most")))
_NEWEST_OPEN: Final = Prepared(
    _JOINED.where(_OF_TENANT, _IS_OPEN).order_by(runs.c.position.desc()).limit(bindparam("most"))
)
#: How many candidates an error shows where a name is not unique.
_SHOWN: Final = 5
_BY_PREFIX: Final = Prepared(
    select(runs.c.id).where(runs.c.id >= bindparam("low"), runs.c.id < bindparam("high")).limit(_SHOWN)
)
_VERSIONS: Final = Prepared(select(runs.c.id, runs.c.version).where(_IS_OPEN).order_by(runs.c.position))
_FORKS: Final = Prepared(
    select(runs.c.id, runs.c.state).where(
        runs.c.tree == bindparam("tree"),
        runs.c.parent == bindparam("parent"),
        runs.c.fork == bindparam("epoch"),
    )
)
_WORK: Final = Prepared(select(runs.c.work).where(runs.c.id == bindparam("id")))
_RESULT: Final = Prepared(
    select(runs.c.state, runs.c.result, runs.c.failure).where(runs.c.id == bindparam("id"))
)
#: Locks a run for whoever decides about it here and now, rather than by its version.
_LOCK: Final = Prepared(select(runs.c.version).where(runs.c.id == bindparam("id")).with_for_update())
_BY_KEY: Final = Prepared(
    select(runs.c.id, runs.c.request, runs.c.work).where(runs.c.key == bindparam("key"))
)
_SUBJECT: Final = Prepared(
    select(runs.c.id)
    .where(runs.c.tenant == bindparam("tenant"), runs.c.subject == bindparam("subject"), _IS_OPEN)
    .order_by(runs.c.position)
)
_INSERT: Final = insertion(runs, "position")
_POSITION: Final = Prepared(select(runs.c.position).where(runs.c.id == bindparam("id")))
_MUTABLE: Final = (
    "state version epoch step tries losses failure snapshot rollback entered entered_up entered_boot pause_s"
).split()
_UPDATE: Final = Prepared(
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.version == bindparam("seen"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_SET_RESULT: Final = Prepared(
    update(runs).where(runs.c.id == bindparam("run")).values(result=bindparam("new_result"))
)
_INSERT_ATTEMPT: Final = insertion(attempts)
_BEGIN_ATTEMPT: Final = Prepared(
    update(attempts)
    .where(attempts.c.run == bindparam("run_id"), attempts.c.epoch == bindparam("held"))
    .values(begun=bindparam("at"), begun_up=bindparam("up"), begun_boot=bindparam("started"))
)
_END_ATTEMPT: Final = Prepared(
    update(attempts)
    .where(attempts.c.run == bindparam("run_id"), attempts.c.epoch == bindparam("held"))
    .values(ended=bindparam("at"), outcome=bindparam("became"))
)
_RECENT: Final = Prepared(
    select(runs.c.id, runs.c.request, attempts.c.placed, attempts.c.placed_up, attempts.c.placed_boot)
    .select_from(attempts.join(runs, runs.c.id == attempts.c.run))
    .where(
        attempts.c.kind == "work",
        or_(
            and_(attempts.c.placed_boot != bindparam("boot"), attempts.c.placed >= bindparam("since")),
            and_(attempts.c.placed_boot == bindparam("boot"), attempts.c.placed_up > bindparam("since_up")),
        ),
    )
)
_INSERT_AFTER: Final = insertion(run_after)
_WAITS: Final = Prepared(
    select(run_after.c.dependency, run_after.c.how, runs.c.state)
    .select_from(run_after.join(runs, runs.c.id == run_after.c.dependency))
    .where(run_after.c.run == bindparam("run"))
    .order_by(run_after.c.dependency)
)
_EVENT: Final = insertion(run_events, "position")
_EVENTS: Final = Prepared(
    select(run_events.c.position, run_events.c.kind, run_events.c.at, run_events.c.body)
    .where(run_events.c.run == bindparam("run"), run_events.c.position > bindparam("since"))
    .order_by(run_events.c.position)
    .limit(bindparam("most"))
)
_RING: Final = Prepared(insert(run_changes).values(run=bindparam("run")))
_RUNG: Final = Prepared(
    select(run_changes.c.position, run_changes.c.run)
    .order_by(run_changes.c.position)
    .limit(bindparam("most"))
)
_SEEN: Final = Prepared(delete(run_changes).where(run_changes.c.position == bindparam("number")))
_TENANT: Final = Prepared(
    select(*tenants.columns).where(tenants.c.name == bindparam("name")).with_for_update()
)
_ALL_TENANTS: Final = Prepared(select(*tenants.columns).order_by(tenants.c.name))
_NEW_TENANT: Final = insertion(tenants)
_COUNT: Final = Prepared(
    update(tenants)
    .where(tenants.c.name == bindparam("tenant"))
    .values(queued=tenants.c.queued + bindparam("more"))
)
_SET_TENANT: Final = Prepared(
    update(tenants)
    .where(tenants.c.name == bindparam("tenant"))
    .values(weight=bindparam("new_weight"), most_queued=bindparam("most"))
)
_PER_STATE: Final = Prepared(select(runs.c.state, func.count()).where(_IS_OPEN).group_by(runs.c.state))


class Wait(NamedTuple):
    """What a run waits for.

    Attributes:
        dependency: The other run.
        how: `done`, if that must have succeeded, or `ended`.
        state: How that stands.
    """

    dependency: RunId
    how: str
    state: State


def read_run(row: Row) -> Run:
    """Makes a run of a row of `_JOINED`.

    Raises:
        StoreDamaged: It cannot be one.
    """
    told = dict(zip((column.name for column in _RUN), row, strict=False))
    if told["state"] not in STATES:
        raise StoreDamaged(
            f"the store is damaged: run {told['id']} is {told['state']!r}",
            hint=NEWER,
            details={"run": told["id"]},
        )
    live = row[len(_RUN) :]
    run = RunId(told["id"])
    return Run(
        id=run,
        position=told["position"],
        tree=RunId(told["tree"]),
        parent=None if told["parent"] is None else RunId(told["parent"]),
        depth=told["depth"],
        fork=told["fork"],
        request=read_request(run, told["request"]),
        state=told["state"],
        version=told["version"],
        epoch=told["epoch"],
        progress=Progress(told["step"], told["tries"], told["losses"]),
        failure=read_failure(run, told["failure"]),
        snapshot=told["snapshot"],
        variation=told["variation"],
        budget=None if told["budget"] is None else BudgetId(told["budget"]),
        rollback=bool(told["rollback"]),
        created=Moment(told["created"], told["created_up"], told["created_boot"]),
        entered=Moment(told["entered"], told["entered_up"], told["entered_boot"]),
        pause_s=told["pause_s"],
        live=None if live[0] is None else _attempt(run, live),
    )


def _attempt(run: RunId, row: Row) -> Attempt:
    _, epoch, kind, node, node_epoch, placed, placed_up, placed_boot, begun, begun_up, begun_boot, *_ = row
    when = None if begun is None else Moment(begun, begun_up, begun_boot)
    return Attempt(run, epoch, kind, node, node_epoch, Moment(placed, placed_up, placed_boot), when)


def find(tx: Transaction, run: str) -> Run:
    """Reads one run.

    Raises:
        RunUnknown: There is none.
        StoreDamaged: It is none.
    """
    row = tx.row(_BY_ID, id=run) if str(run).isascii() else None
    if row is None:
        raise RunUnknown(
            f"there is no run {str(run)[:80]!r}",
            hint="`kibo runs` lists what there is.",
            details={"run": str(run)[:80]},
        )
    return read_run(row)


def called(tx: Transaction, ref: str) -> Run:
    """Finds a run by its id, or the beginning of its id if only one begins so.

    Raises:
        RunUnknown: None is called so, or several are; `details["candidates"]` names these.
    """
    found: list[Any] = [ref] if len(ref) == len(RunId.prefix) + ID_HEX_DIGITS else []
    digits = ref.removeprefix(RunId.prefix)
    if not found and ref != digits and digits and not set(digits) - set("0123456789abcdef"):
        found = [row[0] for row in tx.rows(_BY_PREFIX, low=ref, high=ref + "g")]
    if len(found) != 1:
        raise RunUnknown(
            f"{'several runs are' if found else 'there is no run'} called {ref[:80]!r}",
            hint=f"Give more of the id: {', '.join(found)}." if found else "`kibo runs` lists what there is.",
            details={"run": ref[:80], "candidates": found},
        )
    return find(tx, found[0])


def lock(tx: Transaction, run: str) -> Run:
    """Reads one run, which nobody else changes until the transaction ends.

    Raises:
        RunUnknown, StoreDamaged: See `find`.
    """
    tx.row(_LOCK, id=run)
    return find(tx, run)


def open_runs(tx: Transaction) -> list[Run]:
    """Reads all that have not ended, in order of submission."""
    return [read_run(row) for row in tx.rows(_OPEN)]


def versions(tx: Transaction) -> list[tuple[RunId, int]]:
    """Reads the ids and versions of all that have not ended, in order of submission."""
    return [(RunId(run), version) for run, version in tx.rows(_VERSIONS)]


def waits(tx: Transaction, run: str) -> list[Wait]:
    """Reads what a run waits for, and how that stands."""
    return [Wait(RunId(each), how, state) for each, how, state in tx.rows(_WAITS, run=run)]


def forks(tx: Transaction, run: Run) -> list[tuple[RunId, State]]:
    """Reads the runs that one goes on as, and how they stand."""
    found = tx.rows(_FORKS, tree=run.tree, parent=run.id, epoch=run.epoch)
    return [(RunId(each), state) for each, state in found]


def weights(tx: Transaction) -> dict[str, float]:
    """Reads how much each tenant counts."""
    return {row[0]: row[1] for row in tx.rows(_ALL_TENANTS)}


def recent(tx: Transaction, now: Moment) -> list[tuple[float, tuple[Bar, ...]]]:
    """Reads what any rate may still count; see `kibo.schedule.register.Register.recent`."""
    found = tx.rows(_RECENT, since=now.at_s - MAX_RATE_S, since_up=now.up_s - MAX_RATE_S, boot=now.boot)
    ago = [
        (
            max(0.0, now.up_s - up if boot == now.boot else now.at_s - at),
            tuple(bar for bar in bars_of(read_request(run, request)) if bar.kind == "rate"),
        )
        for run, request, at, up, boot in found
        if rates_in(request)
    ]
    return sorted((each for each in ago if each[1]), key=lambda each: -each[0])


def of_tree(tx: Transaction, tree: str) -> list[Run]:
    """Reads all that belong together, in order of submission."""
    return [read_run(row) for row in tx.rows(_TREE, tree=tree)]


def insert_run(tx: Transaction, run: Run, work: bytes, key: str | None) -> None:
    """Writes a new run; its position is the database's."""
    tx.run(
        _INSERT,
        id=run.id, key=key, tree=run.tree, parent=run.parent, depth=run.depth, fork=run.fork,
        tenant=run.request.tenant, subject=run.request.subject, request=packed_request(run.request),
        work=work, result=None, variation=run.variation, budget=run.budget,
        reserved_tokens=0, reserved_money=0, **moment_row("created", run.created), **_mutable(run),
    )  # fmt: skip


def update_run(tx: Transaction, before: Run, run: Run) -> bool:
    """Writes what a run is now, if it is still what it was decided from. Returns whether it was."""
    values = {f"new_{name}": value for name, value in _mutable(run).items()}
    return tx.run(_UPDATE, run=run.id, seen=before.version, **values) == 1


def insert_attempt(tx: Transaction, attempt: Attempt) -> None:
    """Writes a new attempt."""
    tx.run(
        _INSERT_ATTEMPT,
        run=attempt.run, epoch=attempt.epoch, kind=attempt.kind, node=attempt.node,
        node_epoch=attempt.node_epoch, ended=None, outcome=None,
        begun=None, begun_up=None, begun_boot=None, **moment_row("placed", attempt.placed),
    )  # fmt: skip


def write_event(tx: Transaction, run: str, kind: str, at_s: float, told: Any) -> None:
    """Writes one event of a run's timeline."""
    tx.run(_EVENT, run=run, kind=kind, at=at_s, body=packed(told))


def tenant(tx: Transaction, name: str, most_queued: int) -> tuple[int, int]:
    """Locks a tenant, who is made where there is none. Returns how many runs wait, and how many may."""
    row = tx.row(_TENANT, name=name)
    if row is None:
        tx.run(_NEW_TENANT, name=name, weight=1.0, most_queued=most_queued, queued=0)
        return 0, most_queued
    return row[3], row[2]


def count(tx: Transaction, name: str, more: int) -> None:
    """Counts how many more of a tenant's runs wait."""
    if more:
        tx.run(_COUNT, tenant=name, more=more)


def ring(tx: Transaction, run: str) -> None:
    """Lets the dispatcher know that a run is not what it was."""
    tx.run(_RING, run=run)


def _mutable(run: Run) -> dict[str, Any]:
    return {
        "state": run.state,
        "version": run.version,
        "epoch": run.epoch,
        "step": run.progress.step,
        "tries": run.progress.tries,
        "losses": run.progress.losses,
        "failure": packed_failure(run.failure),
        "snapshot": run.snapshot,
        "rollback": int(run.rollback),
        **moment_row("entered", run.entered),
        "pause_s": run.pause_s,
    }
