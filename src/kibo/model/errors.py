"""Every error that Kibo raises, in families by who must act.

```
KiboError
├── InvalidInput            the caller's program or arguments are wrong
│   ├── InvalidDefinition       a Box or an Env is not well formed
│   ├── CompositionConflict     two sides of a sum define one thing differently
│   ├── UnmetNeed               nothing to the left of a part meets its `use(...)`
│   ├── UnknownAction           the box has no action of that name
│   ├── InvalidArguments        an argument is missing, unknown or of the wrong type
│   ├── PathRefused             a path would leave the box
│   ├── PathTooLong             a path is longer than layers hold one
│   ├── WorkspaceUnreadable     a workspace holds what this user cannot read
│   ├── ArchiveInvalid          an exported snapshot is damaged, or was made to do harm
│   ├── RecordingInvalid        a recording is damaged, or was made to do harm
│   ├── MessageInvalid          the body of a message is none, or too large
│   ├── ContextInvalid          what a context was to take is no entry, or no list of messages
│   ├── SummaryInvalid          a summary covers what its maker was not given
│   ├── RunInvalid              a run, its policy or its limits are not well formed
│   ├── ManifestInvalid         a file that says what is wanted is not well formed
│   ├── RunCycle                runs that would wait for each other
│   └── LockMismatch            a locked build would resolve to something else
├── Denied                  policy forbids it
├── NotFound                what was named is not there
│   ├── InstanceUnknown
│   ├── FileMissing
│   ├── BranchUnknown
│   ├── SnapshotUnknown
│   ├── EffectUnknown
│   ├── ContextEntryUnknown     a context does not have an entry, or not any more
│   ├── CallUnknown             a tool's result has no call that waits for it
│   ├── ProfileUnknown          no session of that name is kept
│   ├── RecordingUnknown
│   ├── MessageUnknown
│   ├── RunUnknown
│   ├── WantedUnknown           nothing of that kind and name is wanted
│   ├── DefinitionUnknown       what a run is to do is defined nowhere that this process can import
│   └── RequestUnknown          a replay was asked for what its recording does not have
├── WrongState              it is there, and not in a state that allows this
│   ├── InstanceEnded
│   ├── StateLocked
│   ├── StateNotForkable        a launch() left what no fork can have
│   ├── NotLive                 a live fork was required, and something stands in its way
│   ├── StoreDamaged            a row of the history is not what it must be
│   ├── BranchClosed            it was committed or aborted
│   ├── BranchTaken             another writer has taken the branch over
│   ├── LeaseEnded              a session's lease has ended, or another holds it now
│   ├── RunTaken                an attempt is not its run's newest any more
│   ├── PlaceTaken              a node or a dispatcher was given up, and another has its lease
│   └── ProfileDamaged          a file of a session is not what it was when it was saved
├── Conflict                two sides changed the same thing; neither is lost
│   ├── BranchStale             a sibling, or the parent itself, moved the parent's head first
│   ├── ReadsChanged            what a branch read has changed since
│   ├── MergeConflict           carries base, ours and theirs of every path
│   ├── RunRepeated             a run of its subject has not ended, or its key names another
│   └── HostDrift               the host's own files changed under a workspace
├── ActionFailed            the action itself went wrong, inside the box
│   ├── ActionRaised            carries the remote type and traceback
│   ├── InvalidResult           the result is not of the declared type
│   ├── ActionTimedOut
│   ├── InDoubt                 an earlier call with its key may have happened
│   └── ActionExited            the process that ran the action is gone
├── Exhausted               a limit was reached
│   ├── MemoryExceeded
│   ├── DiskFull
│   ├── ProcessesExceeded
│   ├── HostDiskFull            the host's disk, not the box's share
│   ├── BudgetSpent             of a tree of branches
│   ├── ProfileTooLarge         more than a session may hold
│   ├── MailboxFull             its instance is too far behind with its messages
│   ├── QueueFull               as many runs wait as may
│   ├── PromptTooLarge          what a prompt must have is more than its budget
│   └── FrameTooLarge
├── Unavailable             lost or too late; another try may find it
│   ├── WorkspaceChanging
│   ├── RuntimeLost
│   ├── StoreUnavailable        the database does not answer
│   ├── SecretUnavailable       the keyring or Vault that has a secret's value does not give it
│   ├── ProfileBusy             another holds a session's lease
│   ├── ReplyTimedOut           nobody answered a message in time
│   ├── PersonTimedOut          a person who was asked did not answer in time
│   ├── RunUnfinished           a run has not ended in the time that was waited for it
│   ├── RecordingLost           nothing was kept of what was to be recorded
│   ├── ServiceFailed       a service of the box did not become ready
│   └── CommandTimedOut
├── ExplorationFailed       no strategy of an exploration succeeded
├── RunFailed               a run has failed, and its policy has nothing more
│   └── RunCancelled
├── BuildFailed             a step that builds an environment or a state failed
├── HostUnsupported         this host cannot give what was asked
├── GuestViolation          the box broke the protocol, and was ended
└── Bug                     Kibo is wrong
```

Every class has a stable dotted ``code`` and says in ``retry`` whether the same call may be made again:

- ``never``: the same call fails the same way;
- ``safe``: nothing happened, call again;
- ``after``: call again once the cause in the hint is gone;
- ``unknown``: it may have happened; find out before calling again.
"""

from typing import Any, ClassVar, Literal, NamedTuple

Retry = Literal["never", "safe", "after", "unknown"]


class KiboError(Exception):
    """The root of every error that Kibo raises on purpose.

    Args:
        message: What went wrong, in one sentence that names the thing.
        hint: What to do next, as one sentence; by default what the class says.
        details: The facts behind the message (path, id, expected, actual), as values that JSON can hold.
    """

    code: ClassVar[str] = "kibo.error"
    retry: ClassVar[Retry] = "never"
    #: What to do next, where that is the same for every error of the class.
    remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.remedy
        self.details: dict[str, Any] = details or {}

    def __str__(self) -> str:
        """The message and its hint, so that a bare traceback already says what to do."""
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by class and state: `Exception` would call the class with the message alone."""
        return (type(self).__new__, (type(self), *self.args), self.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """Describes the error for `--json` and for every remote surface: code, message, retry, hint, details."""
        return {
            "code": self.code,
            "message": self.message,
            "retry": self.retry,
            "hint": self.hint,
            "details": self.details,
        }


class InvalidInput(KiboError):
    """The caller's program or arguments are wrong; the same call fails again."""

    code = "input.invalid"


class InvalidDefinition(InvalidInput):
    """A Box, an Env or a parameter is not well formed."""

    code = "box.definition"


class CompositionConflict(InvalidInput):
    """Two sides of a sum define the same action, service, file or setting differently."""

    code = "box.conflict"


class UnmetNeed(InvalidInput):
    """A part uses a Box that nothing to its left is an instance of."""

    code = "box.unmet_need"


class UnknownAction(InvalidInput):
    """The box has no action of that name."""

    code = "action.unknown"


class InvalidArguments(InvalidInput):
    """An argument of an action is missing, unknown, or not of the declared type. The action did not start."""

    code = "action.arguments"


class PathRefused(InvalidInput):
    """A path would leave the box's root, or is not one."""

    code = "files.path"


class PathTooLong(InvalidInput):
    """A file lies so deep that its path is longer than Kibo handles one, although the kernel can reach it."""

    code = "files.path_too_long"


class WorkspaceUnreadable(InvalidInput):
    """Something in a host directory, or in what a box left, cannot be read by this user: no part of it is left out."""

    code = "workspace.unreadable"


class ArchiveInvalid(InvalidInput):
    """An exported file is damaged, or claims what no export would; nothing of it was kept."""

    code = "archive.invalid"
    remedy = "Get the file again from where it was exported; nothing of it was kept."


class RecordingInvalid(InvalidInput):
    """A recording is damaged, cut short, or none: nothing of it is replayed, or was imported."""

    code = "recording.invalid"
    remedy = "Get the file again, or record again."


class MessageInvalid(InvalidInput):
    """The body of a message is no value of JSON and no bytes, or is too large. Nothing was sent."""

    code = "message.invalid"
    remedy = "Send str, int, float, bool, None, list, dict or bytes; put what is large into a file, and send its name."


class ContextInvalid(InvalidInput):
    """What was to be written into a context is no entry or no list of messages; nothing of it was written."""

    code = "context.invalid"


class SummaryInvalid(InvalidInput):
    """A summariser claims to cover entries that it was not given; nothing was written."""

    code = "context.summary"


class RunInvalid(InvalidInput):
    """A run, its policy or one of its limits is not well formed; nothing was submitted."""

    code = "run.invalid"


class ManifestInvalid(InvalidInput):
    """A file that says what is wanted is not well formed: `details` has its `file`, `line` and `column`.

    Nothing of it was applied.
    """

    code = "manifest.invalid"


class RunCycle(InvalidInput):
    """Runs would wait for each other; `details["cycle"]` names them in order. Nothing was submitted."""

    code = "run.cycle"
    remedy = "Take one of the `after=` away that lead round."


class LockMismatch(InvalidInput):
    """A locked build would resolve to something other than what `kibo.lock` records."""

    code = "build.locked"


class Denied(KiboError):
    """Policy forbids it."""

    code = "policy.denied"


class NotFound(KiboError):
    """What was named is not there."""

    code = "missing"


class InstanceUnknown(NotFound):
    """No instance has that id."""

    code = "instance.unknown"


class FileMissing(NotFound):
    """There is no such file or program in the box, or no such file on the host."""

    code = "files.missing"


class BranchUnknown(NotFound):
    """No branch has that id or name."""

    code = "branch.unknown"


class SnapshotUnknown(NotFound):
    """No snapshot has that id or label."""

    code = "snapshot.unknown"


class EffectUnknown(NotFound):
    """There is no such effect in the ledger."""

    code = "effect.unknown"


class ContextEntryUnknown(NotFound):
    """The context has no such entry that can be seen from here."""

    code = "context.entry_unknown"


class CallUnknown(NotFound):
    """A tool's result belongs to no call that waits for one; nothing was written."""

    code = "context.call_unknown"


class ProfileUnknown(NotFound):
    """No session of that name is kept in this state directory."""

    code = "session.unknown"


class RecordingUnknown(NotFound):
    """There is no recording of that name."""

    code = "recording.unknown"
    remedy = "`kibo recordings` lists what there is; a file is named by its path."


class MessageUnknown(NotFound):
    """The branch knows no such message, or not any more."""

    code = "message.unknown"
    remedy = "`kibo mail` lists those that a branch has."


class RunUnknown(NotFound):
    """There is no such run, or not any more."""

    code = "run.unknown"
    remedy = "See that the id is whole; what ended long ago may have been removed."


class WantedUnknown(NotFound):
    """Nothing of that kind and name is wanted."""

    code = "wanted.unknown"
    remedy = "`kibo get` lists what is."


class DefinitionUnknown(NotFound):
    """The definition that a run was submitted with is not where it was, or is another by now. Nothing was done."""

    code = "run.definition"
    remedy = (
        "Submit again from the program that defines it; define boxes at the top level of a module or script."
    )


class RequestUnknown(NotFound):
    """A box that replays asked for what its recording does not have; `details["requests"]` says for what, and why."""

    code = "replay.unknown_request"
    remedy = "Record again if the program asks for other things now; else find out why it does."


class WrongState(KiboError):
    """It is there, and not in a state that allows this."""

    code = "state.wrong"


class StoreDamaged(WrongState):
    """A row of the history's database cannot be what it is; what rests on it is refused, everything else goes on."""

    code = "store.damaged"
    remedy = (
        "Put the database back from a copy; or, with no Kibo running, mend or delete the row that is named. For "
        "history.db: `sqlite3 history.db 'PRAGMA integrity_check'` tells whether the file itself is whole."
    )


class InstanceEnded(WrongState):
    """The instance has been destroyed, or its processes have ended."""

    code = "instance.ended"


class StateLocked(WrongState):
    """Another process holds what this call needs."""

    code = "state.locked"
    retry = "after"


class StateNotForkable(WrongState):
    """A state cannot be kept for forking: its launch() left threads behind."""

    code = "state.not_forkable"


class NotLive(WrongState):
    """A live fork was required, and something in the instance cannot be forked live; `details["reasons"]` names it."""

    code = "fork.not_live"


class BranchClosed(WrongState):
    """The branch was committed or aborted: it can be read, and no longer changed."""

    code = "branch.closed"


class BranchTaken(WrongState):
    """Another writer has taken the branch over since this one did: nothing of what it asked has happened."""

    code = "branch.taken"


class LeaseEnded(WrongState):
    """A session's lease has ended, was revoked, or another holds it since: nothing of what was asked has happened."""

    code = "session.lease_ended"
    remedy = "Take a new lease, load, and do again what this one was for."


class RunTaken(WrongState):
    """The attempt is not its run's newest, or the run has ended: nothing of what was asked has happened."""

    code = "run.taken"
    remedy = "Stop this attempt: what it would write belongs to nobody."


class PlaceTaken(WrongState):
    """A node or a dispatcher was silent for too long and was given up: nothing of what was asked has happened."""

    code = "run.place_taken"
    remedy = "Stop all that it runs, and take a new lease."


class ProfileDamaged(WrongState):
    """A file of a session is missing, or is not what it was when it was saved; nothing was loaded or merged."""

    code = "session.damaged"
    retry = "after"


class Conflict(KiboError):
    """Two sides changed the same thing. Neither is lost: both can be read, and another verb may join them."""

    code = "conflict"
    retry: ClassVar[Retry] = "after"


class BranchStale(Conflict):
    """The parent's head has moved since the branch was forked: a sibling committed first, or the parent went on."""

    code = "branch.stale"


class ReadsChanged(Conflict):
    """What the branch read, or may have read, has changed in its parent since; `details["paths"]` names it."""

    code = "branch.reads_changed"


class MergeConflict(Conflict):
    """Both sides changed the same paths or records, and no resolver joined them.

    Args:
        message: What could not be joined, in one sentence.
        conflicts: One for each path or record, with base, ours and theirs.
        hint: See KiboError.
        details: See KiboError.
    """

    code = "branch.merge_conflict"

    def __init__(
        self,
        message: str,
        *,
        conflicts: tuple[Any, ...] = (),
        hint: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.conflicts = conflicts


class RunRepeated(Conflict):
    """A run of the same subject has not ended yet, or the same key was given to another run; nothing was submitted."""

    code = "run.repeated"


class HostDrift(Conflict):
    """Files of the host that were to be written have changed since the workspace was frozen; nothing was written."""

    code = "workspace.drift"


class ActionFailed(KiboError):
    """The action went wrong inside the box; what it did before that has happened."""

    code = "action.failed"
    retry = "unknown"


class ActionRaised(ActionFailed):
    """The action raised an exception; the traceback is the box's own text and is never evaluated.

    Args:
        message: What went wrong, in one sentence.
        remote_type: The exception's class as the box names it, such as ``builtins.ValueError``.
        remote_traceback: The traceback as text.
        hint: See KiboError.
        details: See KiboError.
    """

    code = "action.raised"
    remedy = "Code in the box raised it: the traceback says where."

    def __init__(
        self,
        message: str,
        *,
        remote_type: str = "",
        remote_traceback: str = "",
        hint: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        """The message with the remote traceback below it."""
        text = super().__str__()
        return f"{text}\n\n{self.remote_traceback.rstrip()}" if self.remote_traceback else text

    def to_dict(self) -> dict[str, Any]:
        """As KiboError, with the remote type and traceback."""
        remote = {"type": self.remote_type, "traceback": self.remote_traceback}
        return {**super().to_dict(), "remote": remote}


class InvalidResult(ActionFailed):
    """The action returned something that is not of its declared type."""

    code = "action.result"


class ActionTimedOut(ActionFailed):
    """The action ran past its time limit and was stopped; `details["traceback"]` says where it was."""

    code = "action.timeout"


class ActionExited(ActionFailed):
    """The process that ran the action exited or was killed during it; the instance is over."""

    code = "action.exited"


class InDoubt(ActionFailed):
    """A call with the same key was made before, and nobody knows whether it has happened; it is not made again."""

    code = "effect.in_doubt"


class ExplorationFailed(KiboError):
    """No strategy of an exploration succeeded; `details["attempts"]` says of each how it ended."""

    code = "explore.failed"


class RunFailed(KiboError):
    """A run has failed, or was given up; `details["failure"]` is the code of its last failure."""

    code = "run.failed"
    remedy = "`kibo events RUN` tells what has happened to it."


class RunCancelled(RunFailed):
    """A run was cancelled."""

    code = "run.cancelled"


class Exhausted(KiboError):
    """A limit was reached."""

    code = "limit"
    retry: ClassVar[Retry] = "after"


class MemoryExceeded(Exhausted):
    """The box reached its memory limit."""

    code = "limit.memory"


class DiskFull(Exhausted):
    """The box reached its disk limit."""

    code = "limit.disk"


class ProcessesExceeded(Exhausted):
    """The box reached its limit of processes and threads."""

    code = "limit.pids"


class HostDiskFull(Exhausted):
    """The file system of the state directory is full."""

    code = "host.disk_full"


class BudgetSpent(Exhausted):
    """A budget that a tree of branches shares is used up."""

    code = "limit.budget"


class MailboxFull(Exhausted):
    """An instance is too far behind with its messages to take another; nothing was sent."""

    code = "limit.mailbox"
    retry = "after"
    remedy = "Send again once it has handled some, or give send_message(wait_s=...), which waits for that."


class QueueFull(Exhausted):
    """As many runs of this tenant wait as may; nothing was submitted."""

    code = "limit.queue"
    remedy = "Submit again once some have ended, or give the tenant a longer queue."


class ProfileTooLarge(Exhausted):
    """A session would hold more files or bytes than one may; nothing of it was kept."""

    code = "limit.session"
    retry = "never"


class PromptTooLarge(Exhausted):
    """What a prompt must have does not fit into its budget; `details` has the sizes in tokens."""

    code = "context.prompt_too_large"


class FrameTooLarge(Exhausted):
    """A message to or from a box is larger than a frame may be."""

    code = "guest.frame_too_large"
    retry = "never"


class Unavailable(KiboError):
    """Lost, or too late; another try may find it."""

    code = "unavailable"
    retry: ClassVar[Retry] = "unknown"


class RuntimeLost(Unavailable):
    """The warden ended; every instance it held ended with it."""

    code = "runtime.lost"
    remedy = "Spawn again: another runtime starts with that. What ran in the lost one has ended."


class StoreUnavailable(Unavailable):
    """The store of history does not answer. What was asked has happened entirely or not at all."""

    code = "store.unavailable"


class SecretUnavailable(Unavailable):
    """Whoever has the value of a secret does not give it at the moment; nothing was sent."""

    code = "secret.unavailable"
    retry = "after"
    remedy = "See that what has the value answers: `kibo doctor` asks each."


class RunUnfinished(Unavailable):
    """A run has not ended in the time that was waited for it. It goes on."""

    code = "run.unfinished"
    retry = "safe"
    remedy = "Wait again, or cancel it. `kibo runs` tells how it stands."


class RecordingLost(Unavailable):
    """Nothing was kept of what was to be recorded: what wrote it ended."""

    code = "recording.lost"
    remedy = "Record again."


class WorkspaceChanging(Unavailable):
    """A file of a host directory was written again and again while it was being copied; nothing was kept."""

    code = "workspace.changing"
    retry = "safe"


class ProfileBusy(Unavailable):
    """Others held a session's lease for as long as this call waited; `details` say who, and since when."""

    code = "session.busy"
    retry = "safe"


class ReplyTimedOut(Unavailable):
    """Nobody has answered a message in time. It may be handled all the same, and its answer goes nowhere."""

    code = "message.reply_timeout"
    retry = "unknown"


class PersonTimedOut(Unavailable):
    """A person who was asked has not given a session back in time. The lease is the program's again."""

    code = "session.person_timeout"
    retry = "safe"


class ServiceFailed(Unavailable):
    """A service of the box ended, or was not ready in time; the instance was not made."""

    code = "service.failed"
    retry = "after"


class CommandTimedOut(Unavailable):
    """A command run with `exec` passed its time limit and was killed with its process group."""

    code = "exec.timeout"


class BuildFailed(KiboError):
    """A step that builds an environment or launches a state failed; nothing of it is kept.

    Args:
        message: What failed, in one sentence.
        step: The step as the definition gives it, such as ``apt: chromium``.
        log_tail: The last lines the step printed.
        log_path: The file that has all it printed; empty where there is none.
        hint: See KiboError.
        details: See KiboError.
    """

    code = "build.failed"
    retry = "after"

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        log_tail: str = "",
        log_path: str = "",
        hint: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.step = step
        self.log_tail = log_tail
        self.log_path = log_path

    def __str__(self) -> str:
        """The message, then the end of the step's log and where the rest of it is."""
        text = super().__str__()
        if self.log_tail:
            text += f"\n\n{self.log_tail.rstrip()}"
        if self.log_path:
            text += f"\n(the whole log: {self.log_path})"
        return text

    def to_dict(self) -> dict[str, Any]:
        """As KiboError, with the step and its log."""
        build = {"step": self.step, "log_tail": self.log_tail, "log_path": self.log_path}
        return {**super().to_dict(), "build": build}


class HostUnsupported(KiboError):
    """This host cannot give what was asked; `details["missing"]` names it and the hint is the remedy."""

    code = "host.unsupported"
    retry = "after"


class GuestViolation(KiboError):
    """The box sent something that the protocol does not allow, and was ended for it."""

    code = "guest.protocol"
    retry = "unknown"
    remedy = "Code in the box changed its runner, and the instance was destroyed; spawn another one."


class Bug(KiboError):
    """Kibo is wrong; please report it with the details."""

    code = "kibo.bug"
    retry = "unknown"
    remedy = "Please report this, with what you did."


def error_of(told: dict[str, Any]) -> KiboError:
    """Rebuilds an error that `KiboError.to_dict` has told, or the nearest to it that a message is enough for."""
    code, kinds = told.get("code"), [KiboError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = next((kind for kind in kinds if kind.code == code), KiboError)
    return found(
        str(told.get("message", "")), hint=str(told.get("hint", "")), details=dict(told.get("details") or {})
    )


class Surface(NamedTuple):
    """How one family of errors looks from outside."""

    http: int
    exit_code: int
    json_rpc: int


#: The one table from error to HTTP status, exit code and JSON-RPC code. The nearest ancestor in it decides.
#: Exit codes follow sysexits.h where it has a word for the family.
ERROR_SURFACES: dict[type[KiboError], Surface] = {
    KiboError: Surface(500, 70, -32603),
    InvalidInput: Surface(422, 65, -32602),
    UnknownAction: Surface(404, 64, -32601),
    CompositionConflict: Surface(409, 65, -32602),
    Denied: Surface(403, 77, -32001),
    NotFound: Surface(404, 66, -32004),
    WrongState: Surface(409, 75, -32009),
    Conflict: Surface(409, 75, -32009),
    ActionFailed: Surface(502, 1, -32010),
    ActionTimedOut: Surface(504, 124, -32011),
    ExplorationFailed: Surface(502, 1, -32010),
    RunFailed: Surface(502, 1, -32010),
    Exhausted: Surface(507, 73, -32013),
    FrameTooLarge: Surface(413, 65, -32013),
    Unavailable: Surface(503, 75, -32014),
    CommandTimedOut: Surface(504, 124, -32011),
    BuildFailed: Surface(424, 74, -32015),
    HostUnsupported: Surface(501, 69, -32016),
    GuestViolation: Surface(502, 76, -32017),
    Bug: Surface(500, 70, -32603),
}


def surface(error: KiboError) -> Surface:
    """Returns how `error` looks from outside, by the nearest of its classes in the table."""
    return next(ERROR_SURFACES[cls] for cls in type(error).__mro__ if cls in ERROR_SURFACES)
