"""The tables, as SQLAlchemy Core describes them. Migrations make them; this module is what the code reads.

Every column is of a type that all drivers give and take as it is (text, bytes, int, float): statements run on the
driver's own cursor, without conversion. How long text may be and how it compares on each database is the migrations' to
say: here it would bring along SQLAlchemy's knowledge of all of them, at each start. Ids are text with their visible
prefix; the log names a segment by a number that is made of the id of the snapshot that seals it, see
`kibo.store.lineage`.

No foreign key ties a branch to its snapshots: they would need an index on every column that names one, which each
fork would pay for. The collector takes row locks instead, see `kibo.branch.retention`.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from kibo.model.clock import Moment
from kibo.model.ids import (
    ID_HEX_DIGITS,
    BranchId,
    BudgetId,
    CopyId,
    HomeId,
    Id,
    LeaseId,
    ProfileId,
    RunId,
    SnapshotId,
)
from kibo.store.checking import HOLDS
from kibo.store.lineage import is_list

#: The migration that this code reads and writes. A store that names one unknown here was written by a newer Kibo.
REVISION: Final = "0012"

metadata: Final = MetaData()

#: Kinds of entries that are few, and looked for among all that a branch sees.
RARE_KINDS: Final = tuple(f"context.{word}" for word in ("memory", "pin", "summary", "system", "unpin"))
#: The same as a condition: SQLite uses an index of some rows where a statement has it word for word.
RARE: Final = f"kind IN ({', '.join(map(repr, RARE_KINDS))})"


def _text(length: int) -> Any:
    return String(length)


def _key() -> Any:
    """An id or a word of ours. What a caller gives as one may be any text."""
    return String(40)


def _id_of(kind: type[Id]) -> dict[str, Any]:
    return {HOLDS: re.compile(f"{kind.prefix}[0-9a-f]{{{ID_HEX_DIGITS}}}").fullmatch}


def _one_of(*words: str) -> dict[str, Any]:
    return {HOLDS: frozenset(words).__contains__}


#: What columns hold besides being of their type, see `kibo.store.checking`.
_BRANCH: Final = _id_of(BranchId)
_SNAPSHOT: Final = _id_of(SnapshotId)
_PROFILE: Final = _id_of(ProfileId)
_LEASE: Final = _id_of(LeaseId)
_COPY: Final = _id_of(CopyId)
_RUN: Final = _id_of(RunId)
_BUDGET: Final = _id_of(BudgetId)
#: More entries than any disk holds; sums of two of these are still numbers of every database.
_COUNT: Final[dict[str, Any]] = {HOLDS: range(1 << 53).__contains__}
_TIME: Final[dict[str, Any]] = {HOLDS: math.isfinite}


def _position() -> Any:
    """SQLite numbers rows by itself only where the key is a plain INTEGER."""
    return BigInteger().with_variant(Integer(), "sqlite")


def _moment(name: str, *, nullable: bool = False) -> tuple[Column[Any], Column[Any], Column[Any]]:
    """A point in time by three clocks, see `kibo.model.clock`."""
    return (
        Column(name, Double, nullable=nullable, info=_TIME),
        Column(f"{name}_up", Double, nullable=nullable, info=_TIME),
        Column(f"{name}_boot", _key(), nullable=nullable),
    )


def moment_row(name: str, moment: Moment) -> dict[str, Any]:
    """Returns a point in time as the columns of `_moment` hold it."""
    return {name: moment.at_s, f"{name}_up": moment.up_s, f"{name}_boot": moment.boot}


#: One line of execution. `next` is the id of the snapshot that will seal the open segment.
branches: Final = Table(
    "branches",
    metadata,
    Column("id", _key(), primary_key=True, info=_BRANCH),
    Column("tree", _key(), nullable=False, info=_BRANCH),
    Column("parent", _key(), info=_BRANCH),
    Column("name", _text(200), nullable=False),
    Column("goal", Text, nullable=False),
    # stale is derived
    Column("status", _key(), nullable=False, info=_one_of("open", "committed", "aborted")),
    Column(
        "epoch", BigInteger, nullable=False, info=_COUNT
    ),  # the writer that holds it; an older one is refused
    Column("head", _key(), nullable=False, info=_SNAPSHOT),
    Column("sealed", BigInteger, nullable=False, info=_COUNT),  # the head's last sequence number
    Column("next", _key(), nullable=False, info=_SNAPSHOT),
    # the last sequence number; above `sealed`: unsealed entries
    Column("tail", BigInteger, nullable=False, info=_COUNT),
    Column("base", _key(), info=_SNAPSHOT),  # the parent's head at the fork
    Column("base_seq", BigInteger, nullable=False, info=_COUNT),
    Column("result", _key(), info=_SNAPSHOT),  # what committing it made the parent's head
    Column("created", Double, nullable=False, info=_TIME),
    Column("closed", Double, info=_TIME),
    Index("ix_branches_tree", "tree"),
    Index("ix_branches_parent", "parent"),
)

#: One sealed point. `near` packs the nearest non-empty segments of its lineage, see `kibo.store.lineage`.
snapshots: Final = Table(
    "snapshots",
    metadata,
    Column("id", _key(), primary_key=True, info=_SNAPSHOT),
    Column("tree", _key(), nullable=False, info=_BRANCH),
    Column("branch", _key(), nullable=False, info=_BRANCH),
    Column("kind", _key(), nullable=False, info=_one_of("root", "turn", "merge", "overwrite", "import")),
    Column("parent", _key(), info=_SNAPSHOT),
    Column("other", _key(), info=_SNAPSHOT),  # of a merge: theirs; of an overwrite: what was overwritten
    Column("world", Text),  # null: thinned
    Column("entries", BigInteger, nullable=False, info=_COUNT),
    Column("seq", BigInteger, nullable=False, info=_COUNT),
    Column("near", LargeBinary, nullable=False, info={HOLDS: is_list}),
    # whole; thinned or lost: only its log is left; doomed: being collected
    Column("state", _key(), nullable=False, info=_one_of("whole", "thinned", "lost", "doomed")),
    Column("created", Double, nullable=False, info=_TIME),
    Index("ix_snapshots_tree", "tree"),
)

#: The log. `position` grows over the whole store, `seq` along a lineage.
entries: Final = Table(
    "entries",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("segment", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False, info=_COUNT),
    Column("kind", _text(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", Double, nullable=False, info=_TIME),
    Column("origin", _key(), info=_BRANCH),  # the branch it was written in, where a merge brought it here
    UniqueConstraint("segment", "seq", name="uq_entries_segment_seq"),
    # what is rare, found in a long history; on MariaDB, which has no indexes of some rows, of all of them
    Index("ix_entries_kind", "segment", "kind", "seq", sqlite_where=text(RARE)),
    sqlite_autoincrement=True,  # a collected position is never given again
)

#: What a search finds entries of contexts by, as words: derived from the log, and made again where it is not there. It
#: goes with its entry. Full-text indexes are the database's own, see `kibo.store.dialects`.
context_words: Final = Table(
    "context_words",
    metadata,
    Column(
        "position",
        _position(),
        ForeignKey("entries.position", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("segment", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False, info=_COUNT),
    Column("entry", _key(), nullable=False),  # the id within its body; '' for what is no entry of a context
    Column("words", Text, nullable=False),
    UniqueConstraint("segment", "seq", name="uq_context_words_segment_seq"),
    Index("ix_context_words_entry", "entry"),
)

#: Vectors of entries, by the model that made them; they go with their entries.
context_vectors: Final = Table(
    "context_vectors",
    metadata,
    Column(
        "position",
        _position(),
        ForeignKey("entries.position", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("model", _text(200), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
)

#: Names of snapshots, one of each a tree; they move.
labels: Final = Table(
    "labels",
    metadata,
    Column("tree", _key(), primary_key=True, info=_BRANCH),
    Column("label", _text(200), primary_key=True),
    Column("snapshot", _key(), ForeignKey("snapshots.id"), nullable=False, index=True, info=_SNAPSHOT),
)

#: What keeps a snapshot from being collected, besides branches and labels.
pins: Final = Table(
    "pins",
    metadata,
    Column("snapshot", _key(), ForeignKey("snapshots.id"), primary_key=True, info=_SNAPSHOT),
    Column("holder", _text(200), primary_key=True),
    Column("expires", Double, info=_TIME),
)

#: Snapshots whose files are not on the disk yet, with the host and its boot at which they were made.
unflushed: Final = Table(
    "unflushed",
    metadata,
    Column("snapshot", _key(), primary_key=True, info=_SNAPSHOT),
    Column("host", _text(200), nullable=False),
    Column("boot", _key(), nullable=False),
)

#: What no world names any more and nobody has removed yet.
garbage: Final = Table("garbage", metadata, Column("resource", _text(200), primary_key=True))

#: The ledger: what boxes have asked the outside world for, in order of `position`. Values of secrets are nowhere in it.
effects: Final = Table(
    "effects",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("id", _key(), nullable=False, unique=True),
    Column("state", _key(), nullable=False),  # see `kibo.effects.lifecycle`
    Column("reason", Text, nullable=False),
    Column(
        "branch", _key(), nullable=False
    ),  # where it stands: its parent's once that is committed; '' for none
    Column("origin", _key(), nullable=False),  # where it was asked for
    Column("instance", _key(), nullable=False),
    Column("gateway", _key(), nullable=False),  # who sends it
    Column(
        "scope", _key(), nullable=False
    ),  # within which a client's key names one intent: a tree, or an instance
    Column("key", _text(64)),  # the digest of that key, or null
    Column("class", _key(), nullable=False),
    Column("rule", LargeBinary, nullable=False),  # what allows it, to be sent by
    Column("secrets", LargeBinary, nullable=False),  # their names and hosts
    Column("method", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("digest", _text(64), nullable=False),  # of the payload
    Column("head", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("whole", Integer, nullable=False),  # 0: the body was longer, and was sent as it came
    Column("created", Double, nullable=False, info=_TIME),
    Column("released", Double, info=_TIME),
    Column("sent", Double, info=_TIME),
    Column("ended", Double, info=_TIME),
    Column("status", Integer),
    Column("answer_head", LargeBinary),
    Column("answer_body", LargeBinary),
    Column("answer_whole", Integer),
    Column(
        "approval_s", Double, info=_TIME
    ),  # how long a person has, and an approval holds; null: nobody is asked
    *_moment("due", nullable=True),  # until when
    Column("approved", Double, info=_TIME),
    Column("approver", _text(200), nullable=False, server_default=""),
    Column("approved_digest", _text(64)),  # of the payload that was approved
    Column("action", _text(200)),  # of a call, its class and its name; null for a request
    Column("undo", _text(200)),  # of a call that can be undone, the action that does it
    Column("within", _key()),  # of a request, the recorded call that it was part of
    Index("ix_effects_branch", "branch", "state"),
    Index("ix_effects_origin", "origin"),
    Index("ix_effects_gateway", "gateway", "state"),
    Index("ix_effects_key", "scope", "key"),
    Index("ix_effects_within", "within"),
    sqlite_autoincrement=True,
)

#: Keys of calls that were ever made, by the digest of scope and key: what those who call with one key lock, one by one.
call_keys: Final = Table("call_keys", metadata, Column("name", _text(64), primary_key=True))

#: Sessions: profiles by name. `epoch` grows with each lease that is given; an older holder's save is refused.
profiles: Final = Table(
    "profiles",
    metadata,
    Column("id", _key(), primary_key=True, info=_PROFILE),
    Column("name", _text(200), nullable=False, unique=True),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),
    Column("version", BigInteger, nullable=False, info=_COUNT),  # the newest; 0 for none
    Column("created", Double, nullable=False, info=_TIME),
)

#: What a profile's files were, the newest versions of it.
profile_versions: Final = Table(
    "profile_versions",
    metadata,
    Column("profile", _key(), primary_key=True, info=_PROFILE),
    Column("version", BigInteger, primary_key=True, autoincrement=False, info=_COUNT),
    Column("files", LargeBinary, nullable=False),
    Column("author", _text(200), nullable=False),
    Column("created", Double, nullable=False, info=_TIME),
)

#: Who holds a profile, and who waits for it, in order of `position`. The first may have it.
profile_leases: Final = Table(
    "profile_leases",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("id", _key(), nullable=False, unique=True, info=_LEASE),
    Column("profile", _key(), nullable=False, info=_PROFILE),
    # asked: for a person; taken: by one
    Column("state", _key(), nullable=False, info=_one_of("waiting", "held", "asked", "taken")),
    Column("holder", _text(200), nullable=False),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),  # 0 while it waits
    Column("since", Double, nullable=False, info=_TIME),
    Column("idle_s", Double, nullable=False, info=_TIME),  # how long it may do nothing where others wait
    Column(
        "expires", Double, nullable=False, info=_TIME
    ),  # by the clock that runs since the host's start; so is `until`
    Column("why", Text, nullable=False),  # what a person is to do
    Column("until", Double, info=_TIME),
    Column("copy", _key(), info=_COPY),  # the person's
    Index("ix_profile_leases_profile", "profile"),
    sqlite_autoincrement=True,
)

#: What forks have saved: part of the profile once they are committed into a root.
profile_saves: Final = Table(
    "profile_saves",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("profile", _key(), nullable=False, info=_PROFILE),
    Column(
        "branch", _key(), nullable=False, info=_BRANCH
    ),  # where it waits: the parent's once its branch is committed
    Column("origin", _key(), nullable=False, info=_BRANCH),  # where it was saved
    Column("instance", _text(200), nullable=False),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),
    Column(
        "released", Integer, nullable=False, info=_COUNT
    ),  # 1: to be merged into the profile by whoever uses it next
    Column("base", LargeBinary, nullable=False),
    Column("files", LargeBinary, nullable=False),
    Column("author", _text(200), nullable=False),
    Column("created", Double, nullable=False, info=_TIME),
    Index("ix_profile_saves_profile", "profile"),
    Index("ix_profile_saves_branch", "branch"),
    sqlite_autoincrement=True,
)

#: Profiles in directories of people's: what they were when they were taken.
profile_copies: Final = Table(
    "profile_copies",
    metadata,
    Column("id", _key(), primary_key=True, info=_COPY),
    Column("profile", _key(), nullable=False, info=_PROFILE),
    Column("lease", _key(), nullable=False, info=_LEASE),
    Column("directory", LargeBinary, nullable=False),
    Column("person", _text(200), nullable=False),
    Column("files", LargeBinary, nullable=False),
    Column("created", Double, nullable=False, info=_TIME),
    Index("ix_profile_copies_profile", "profile"),
)

#: Trees of branches into whose boxes a profile was loaded: their files are not exported unasked.
profile_trees: Final = Table(
    "profile_trees",
    metadata,
    Column("tree", _key(), primary_key=True, info=_BRANCH),
    Column("profile", _key(), primary_key=True, info=_PROFILE),
)

#: The boards of trees of branches: what one has found out for all others. Beside the log, which a fork does not share.
board: Final = Table(
    "board",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("tree", _key(), nullable=False, info=_BRANCH),
    Column("origin", _key(), nullable=False, info=_BRANCH),
    Column("author", _text(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", Double, nullable=False, info=_TIME),
    Index("ix_board_tree", "tree"),
    sqlite_autoincrement=True,
)

#: The state directory whose history this is, where that is not in the directory itself. One row, whose number is 1.
state_directory: Final = Table(
    "state_directory",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", _key(), nullable=False, info=_id_of(HomeId)),
)

#: Runs, in order of `position`. `version` grows with every change, `epoch` with every attempt.
runs: Final = Table(
    "runs",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("id", _key(), nullable=False, unique=True, info=_RUN),
    Column("key", _text(64), unique=True),  # the digest of tenant and submission key, or null
    Column("tree", _key(), nullable=False, info=_RUN),  # the first of those that belong together
    Column("parent", _key(), info=_RUN),
    Column("depth", Integer, nullable=False, info=_COUNT),
    # as one of several that its parent goes on as, the parent's epoch then; else 0
    Column("fork", BigInteger, nullable=False, info=_COUNT),
    Column("tenant", _text(200), nullable=False),
    Column("subject", _text(200)),
    Column("state", _key(), nullable=False),  # see `kibo.schedule.lifecycle`
    Column("version", BigInteger, nullable=False, info=_COUNT),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),
    Column("step", Integer, nullable=False, info=_COUNT),  # of its policy, which is within `request`
    Column("tries", Integer, nullable=False, info=_COUNT),
    Column("losses", Integer, nullable=False, info=_COUNT),
    Column("failure", LargeBinary),  # the newest
    Column("snapshot", _text(200)),  # the last good one, as its attempts have named it
    Column("variation", Text, nullable=False),
    Column("budget", _key(), info=_BUDGET),
    Column("rollback", Integer, nullable=False, info=_COUNT),  # 1: once stopped, what it did is undone
    *_moment("created"),
    *_moment("entered"),  # its state
    Column("pause_s", Double, nullable=False, info=_TIME),  # how long it stays there by itself
    Column("request", LargeBinary, nullable=False),
    Column("work", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    # what a step that is under way may use at most
    Column("reserved_tokens", BigInteger, nullable=False, info=_COUNT),
    Column("reserved_money", BigInteger, nullable=False, info=_COUNT),
    Index("ix_runs_state", "state"),
    Index("ix_runs_tree", "tree"),
    Index("ix_runs_subject", "tenant", "subject"),
    sqlite_autoincrement=True,
)

#: What a run waits for.
run_after: Final = Table(
    "run_after",
    metadata,
    Column("run", _key(), primary_key=True, info=_RUN),
    Column("dependency", _key(), primary_key=True, info=_RUN),
    # done: it must have succeeded; ended: in any way
    Column("how", _key(), nullable=False, info=_one_of("done", "ended")),
    Index("ix_run_after_dependency", "dependency"),
)

#: Attempts of runs, by the run's epoch. One has ended, or is the run's newest.
attempts: Final = Table(
    "attempts",
    metadata,
    Column("run", _key(), primary_key=True, info=_RUN),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False, info=_COUNT),
    Column("kind", _key(), nullable=False, info=_one_of("work", "undo")),
    Column("node", _text(200), nullable=False),
    Column("node_epoch", BigInteger, nullable=False, info=_COUNT),
    *_moment("placed"),
    *_moment("begun", nullable=True),
    Column("ended", Double, info=_TIME),
    Column("outcome", _key()),
    Index("ix_attempts_placed", "placed"),
)

#: The timeline of each run.
run_events: Final = Table(
    "run_events",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("run", _key(), nullable=False, info=_RUN),
    Column("kind", _key(), nullable=False),
    Column("at", Double, nullable=False, info=_TIME),
    Column("body", LargeBinary, nullable=False),
    Index("ix_run_events_run", "run", "position"),
    sqlite_autoincrement=True,
)

#: Runs that others than the dispatcher have changed, until it has seen that.
run_changes: Final = Table(
    "run_changes",
    metadata,
    Column("position", _position(), primary_key=True, autoincrement=True),
    Column("run", _key(), nullable=False, info=_RUN),
    sqlite_autoincrement=True,
)

#: What a tree of runs may use together, and has. Money is in millionths.
budgets: Final = Table(
    "budgets",
    metadata,
    Column("id", _key(), primary_key=True, info=_BUDGET),
    Column("seconds", Double, info=_TIME),
    Column("branches", BigInteger, info=_COUNT),
    Column("tokens", BigInteger, info=_COUNT),
    Column("money", BigInteger, info=_COUNT),
    Column("used_branches", BigInteger, nullable=False, info=_COUNT),
    Column("used_tokens", BigInteger, nullable=False, info=_COUNT),
    Column("used_money", BigInteger, nullable=False, info=_COUNT),
    Column("reserved_tokens", BigInteger, nullable=False, info=_COUNT),
    Column("reserved_money", BigInteger, nullable=False, info=_COUNT),
    *_moment("began", nullable=True),
)

#: Who shares, and how many of their runs wait.
tenants: Final = Table(
    "tenants",
    metadata,
    Column("name", _text(200), primary_key=True),
    Column("weight", Double, nullable=False, info=_TIME),
    Column("most_queued", BigInteger, nullable=False, info=_COUNT),
    Column("queued", BigInteger, nullable=False, info=_COUNT),
)

#: Who acts as what: a node, or the dispatcher. Whoever counts `beat` up holds it; see decision 0033.
leases: Final = Table(
    "leases",
    metadata,
    Column("name", _text(200), primary_key=True),
    Column("holder", _text(200), nullable=False),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),
    Column("beat", BigInteger, nullable=False, info=_COUNT),
)

#: What is to be there, or to happen; `spec` says it, see `kibo.schedule.wanted`.
wanted: Final = Table(
    "wanted",
    metadata,
    Column("kind", _key(), primary_key=True),
    Column("name", _text(63), primary_key=True),
    Column("spec", LargeBinary, nullable=False),
    Column("work", LargeBinary, nullable=False),
    Column("applied", Double, nullable=False, info=_TIME),
    # of a schedule, the newest tick that is settled, in seconds since 1970; of a topic, the position in the log above
    # which it hears
    Column("done", BigInteger, nullable=False, info=_COUNT),
    Column("run", _key(), info=_RUN),  # the newest that it has started
    Column("problem", Text, nullable=False),  # why it could not start the newest; empty where it could
)

#: One row, whose number is 1: whoever changes any of `wanted` or `heard` locks it first.
wanted_state: Final = Table(
    "wanted_state",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
)

#: Up to where triggers have heard what is said in a root branch, and what its head was then. What it was `born` with,
#: as one that was imported is, they do not hear.
heard: Final = Table(
    "heard",
    metadata,
    Column("root", _key(), primary_key=True, info=_BRANCH),
    Column("born", BigInteger, nullable=False, info=_COUNT),
    Column("head", _key(), nullable=False, info=_SNAPSHOT),
    Column("seq", BigInteger, nullable=False, info=_COUNT),
)

#: The nodes that the dispatcher works with, as it knows them: for whoever explains from outside what it decides.
nodes: Final = Table(
    "nodes",
    metadata,
    Column("name", _text(200), primary_key=True),
    Column("epoch", BigInteger, nullable=False, info=_COUNT),  # of the node's lease
    Column("dispatcher", BigInteger, nullable=False, info=_COUNT),  # the epoch of whoever has written it
    Column("body", LargeBinary, nullable=False),  # see `kibo.schedule.roster`
)
