"""Turns what a warden or a guest reports, which is data, into the errors that users catch."""

from __future__ import annotations

from typing import Any

from kibo.model.errors import (
    ActionFailed,
    ActionRaised,
    Bug,
    Exhausted,
    GuestViolation,
    HostDiskFull,
    HostUnsupported,
    InstanceEnded,
    InvalidResult,
    KiboError,
    MemoryExceeded,
    NotFound,
    NotLive,
    PathTooLong,
    Unavailable,
)
from kibo.runtime.remedies import of_exception

_BY_CODE: dict[str, tuple[type[KiboError], str]] = {
    "instance.ended": (InstanceEnded, "Spawn another one."),
    "host.disk_full": (
        HostDiskFull,
        "Run `kibo gc`, or make room on the disk that holds KIBO_HOME; if it has room, memory is what is full.",
    ),
    "host.exhausted": (
        Exhausted,
        "Destroy instances that are not needed, or raise the host's limits (`kibo doctor`).",
    ),
    "host.unsupported": (HostUnsupported, "Run `kibo doctor`: it says what is missing and how to get it."),
    "guest.protocol": (GuestViolation, "Code in the box changed its runner; the instance was destroyed."),
    "fork.busy": (NotLive, "Wait for its programs to end, or end them."),
    "fork.written": (NotLive, "Close the file, or open it in Python, which knows how to open it again."),
    "fork.too_deep": (NotLive, "The kernel nests 32 namespaces; fork with live='prefer' for fresh guests."),
    "fork.unstoppable": (
        Unavailable,
        "Try again once what is named no longer waits for a disk or another machine.",
    ),
    "service.unknown": (NotFound, "Env.services names those of a box."),
    "files.path_too_long": (
        PathTooLong,
        "Remove it in the box, or move it up: `cd` into its directories and use a relative path.",
    ),
    "limit.memory": (MemoryExceeded, "Raise Limits.memory_bytes."),
}


def refusal_error(report: object) -> KiboError:
    """Builds the error for a report. Anything that is not of the agreed form is a violation, and says so."""
    if not isinstance(report, dict):
        return violation("its report of a failure has no form")
    message = str(report.get("message", ""))
    kind = report.get("kind")
    if kind == "raised":
        return raised_error(report)
    if kind == "setup":
        return HostUnsupported(
            f"an instance could not enter its box: {message}",
            hint="Run `kibo doctor`: it says what is missing and how to get it.",
            details={"traceback": str(report.get("traceback", ""))},
        )
    cls, hint = _BY_CODE.get(str(report.get("code")), (Bug, ""))
    details = report.get("details")
    return cls(message, hint=hint, details=details if isinstance(details, dict) else {})


def raised_error(report: dict[str, Any]) -> ActionFailed:
    """Builds the error for an exception in a box, or for a result of it that no message can hold."""
    where, kind = str(report.get("where", "")), str(report.get("type", "?"))
    said, hint = str(report.get("message", "")), str(report.get("hint", ""))
    if report.get("code") == InvalidResult.code:
        return InvalidResult(f"{where + ': ' if where else ''}{said}", hint=hint)
    return ActionRaised(
        f"{where + ': ' if where else ''}{kind}: {said}",
        remote_type=kind,
        remote_traceback=str(report.get("traceback", "")),
        hint=hint or of_exception(kind, said),
    )


def violation(what: str) -> GuestViolation:
    """The error for a guest that broke the protocol; its instance is destroyed."""
    return GuestViolation(
        f"the instance broke the protocol: {what}",
        hint="Code in the box wrote to the runner's own socket. The instance was destroyed; spawn another one.",
    )
