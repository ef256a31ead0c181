"""`kibo shell`."""

from __future__ import annotations

from kibo.cli.instances import open_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json
from kibo.cli.progress import BuildDisplay
from kibo.cli.references import load_box
from kibo.cli.terminal import SHELL, run_on_terminal
from kibo.wiring import runtime


def shell(target: str, /, *, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Open a shell in an instance, or in a new one that is destroyed when the shell ends.

    Args:
        target: An instance (id, first digits or name), or where a box is defined, such as file.py:Name.
        common: Options of every command. With --json, the exit status is printed at the end.
    """
    if ":" in target:
        definition = load_box(target)
        with BuildDisplay() as display:
            instance = runtime().spawn(definition, progress=display)
        with instance:
            status = run_on_terminal(instance, SHELL)
    else:
        status = run_on_terminal(open_instance(target), SHELL)
    if common.json:
        print_json({"returncode": status})
    return status
