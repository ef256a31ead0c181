"""The command line's frame: finds the command, runs it, and turns whatever goes wrong into a message and a status."""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError

from kibo import __version__
from kibo.cli.failures import EXIT_INTERRUPTED, EXIT_USAGE, bug, report, report_text, unreadable
from kibo.cli.overview import COMMANDS, function, summary
from kibo.model.errors import KiboError

#: What commands that share a word are about.
_GROUPS = {
    "effects": "What boxes have asked the outside world to change.",
    "sessions": "Profiles by which boxes are signed in: who has each, and what waits for a person.",
    "mail": "What the instances of a branch have sent each other.",
    "policy": "Look at what boxes may do outside.",
    "recordings": "What boxes were answered, kept to be answered again.",
    "snapshot": "List and name snapshots; bring them to other machines, and into this one.",
}


def application(wanted: str = "") -> App:
    """Makes the application. Each command's file is imported when the command is called.

    Args:
        wanted: The first word of the command line. Where it names commands, these alone are there: telling what all
            of them are reads all of their files. A command that others begin with is there only where it is that.
    """
    text = "Kibo: the runtime layer for AI agents."
    app = App(name="kibo", version=__version__, help=text, suppress_keyboard_interrupt=False)
    every = [name for names in COMMANDS.values() for name in names]
    for name in [name for name in every if name.split()[0] == wanted] or every:
        *groups, last = name.split()
        called = function(name)
        if name not in _GROUPS:
            _group(app, groups).command(f"kibo.cli.{called}:{called}", name=last, help=summary(name))
        elif name == wanted:
            _group(app, [name]).default(getattr(import_module(f"kibo.cli.{called}"), called))
        else:
            _group(app, [name])
    return app


def _group(app: App, names: list[str]) -> App:
    """Returns the application of commands that share the beginning of their names."""
    for name in names:
        if name not in app:
            app.command(App(name=name, help=_GROUPS[name]))
        app = app[name]
    return app


def execute(arguments: list[str]) -> int:
    """Runs a command line and returns its exit status."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json, with_traceback = "--json" in ours, "--traceback" in ours
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    try:
        status: Any = application(ours[0] if ours else "")(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except CycloptsError as error:
        known = {name for names in COMMANDS.values() for name in names}
        command = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in known), "")
        hint = (
            f"`kibo {command} --help` tells what it takes."
            if command
            else "`kibo --help` lists the commands."
        )
        facts = {
            "code": "usage",
            "message": str(error).strip(),
            "retry": "never",
            "hint": hint,
            "details": {},
        }
        return report_text(facts, EXIT_USAGE, as_json=as_json)
    except KeyboardInterrupt:
        if with_traceback:
            traceback.print_exc()
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; nothing must be written at exit either.
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except KiboError as error:
        if with_traceback:
            traceback.print_exc()
        return report(error, as_json=as_json)
    except OSError as error:
        if with_traceback:
            traceback.print_exc()
        return report(unreadable(error), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the program ends here; the message says that it is our fault
        if with_traceback:
            traceback.print_exc()
        return report(bug(error), as_json=as_json)


def _leave(signum: int, frame: FrameType | None) -> None:
    """Ends the program the way an exception does, so that instances and builds end with it."""
    raise SystemExit(128 + signum)
