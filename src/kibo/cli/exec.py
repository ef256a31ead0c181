"""`kibo exec`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kibo.cli.instances import open_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json
from kibo.cli.piping import exit_status, run_piped
from kibo.cli.terminal import run_on_terminal
from kibo.model.errors import InvalidInput


def exec(
    instance: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    terminal: Annotated[bool, Parameter(name=["--terminal", "-t"], negative="")] = False,
    cwd: Annotated[str | None, Parameter(name=["--cwd", "-C"])] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Run a command in an instance: its standard streams, signals and exit status are this program's.

    Args:
        instance: Its id, the first digits of its id, or its name.
        command: The program and its arguments, after `--`.
        terminal: Give the command a terminal of its own.
        cwd: Directory in the box; /work by default.
        common: Options of every command. With --json the output comes as one document, and nothing is read.
    """
    if not command:
        raise InvalidInput("no command is given", hint="kibo exec INSTANCE -- ls -l")
    box = open_instance(instance)
    if common.json:
        done = box.exec(list(command), cwd=cwd)
        print_json({"stdout": done.stdout, "stderr": done.stderr, "returncode": done.returncode})
        return exit_status(done.returncode)
    if terminal:
        return run_on_terminal(box, list(command) if cwd is None else ["env", "-C", cwd, *command])
    return run_piped(box, list(command), cwd)
