"""How errors look on the command line: a message, what to do next, a code, and an exit status by family."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from kibo.cli.output import visible
from kibo.cli.styles import bold, dim, red
from kibo.model.errors import Bug, HostUnsupported, KiboError, surface

#: What may lay text out that came from a box.
_LINES = "\n\t"
#: As shells give it for a program that Ctrl-C ended.
EXIT_INTERRUPTED: Final = 130
#: EX_USAGE of sysexits.h.
EXIT_USAGE: Final = 64


class Reported(KiboError):
    """An error of a process that works for this one, to be shown as it came.

    Args:
        facts: What `KiboError.to_dict` said there.
        exit_code: What that process would exit with.
    """

    def __init__(self, facts: dict[str, Any], exit_code: int) -> None:
        super().__init__(str(facts["message"]), hint=str(facts["hint"]), details=dict(facts["details"]))
        self.facts = facts
        self.exit_code = exit_code

    def to_dict(self) -> dict[str, Any]:
        """As it came."""
        return self.facts


def exit_code(error: KiboError) -> int:
    """Returns the exit status of an error, by its family."""
    return error.exit_code if isinstance(error, Reported) else surface(error).exit_code


def report(error: KiboError, *, as_json: bool) -> int:
    """Shows an error and returns the exit status."""
    return report_text(error.to_dict(), exit_code(error), as_json=as_json)


def report_text(facts: dict[str, Any], status: int, *, as_json: bool) -> int:
    """Shows an error by its facts: on standard output as JSON, or on standard error for people."""
    if as_json:
        sys.stdout.write(json.dumps({"error": facts}, default=str) + "\n")
        return status
    out = sys.stderr
    sys.stdout.flush()
    build, remote = facts.get("build", {}), facts.get("remote", {})
    if remote.get("traceback"):
        out.write(dim(visible(remote["traceback"].rstrip(), _LINES), out) + "\n")
    if build.get("log_tail"):
        out.write(dim(visible(build["log_tail"].rstrip(), _LINES), out) + "\n")
    out.write(f"{red('error:', out)} {visible(facts['message'], _LINES)}\n")
    if build.get("log_path"):
        out.write(f"{bold('log:', out)} {build['log_path']}\n")
    if facts["hint"]:
        out.write(f"{bold('hint:', out)} {visible(facts['hint'], _LINES)}\n")
    out.write(dim(f"code: {facts['code']}", out) + "\n")
    return status


def unreadable(error: OSError) -> KiboError:
    """The error for what the system refuses this program itself, such as its state directory."""
    return HostUnsupported(
        str(error),
        hint="Can this user read and write it, and is there room? KIBO_HOME names another state directory.",
        details={"errno": error.errno, "path": str(error.filename or "")},
    )


def bug(error: Exception) -> KiboError:
    """The error for what should not happen."""
    return Bug(
        f"{type(error).__name__}: {error}",
        hint="Please report this, with what --traceback shows in addition.",
    )
