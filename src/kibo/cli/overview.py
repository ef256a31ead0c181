"""What `kibo --help` prints: every command with the first line of its docstring, read without importing it."""

from __future__ import annotations

import ast
import shutil
import textwrap
from pathlib import Path
from typing import Final

from kibo.cli.styles import bold, dim

#: Every command, in the order of the overview. Each is the function of its name in the file of its name, with an
#: underscore where the name has a space.
COMMANDS = {
    "Boxes": ("run", "build", "spawn", "policy check"),
    "Instances": ("ps", "call", "exec", "shell", "logs", "stop"),
    "Branches": (
        "tree",
        "context",
        "diff",
        "commit",
        "merge",
        "abort",
        "apply",
        "checkout",
        "snapshot list",
        "snapshot label",
        "snapshot export",
        "snapshot import",
    ),
    "Runs": ("submit", "runs", "top", "explain", "events", "timeline", "cancel", "answer", "get", "up"),
    "Effects": ("effects", "approve", "deny", "effects show", "effects resolve", "effects undo"),
    "Sessions": ("sessions", "sessions take", "sessions give", "sessions revoke"),
    "Recordings": (
        "recordings",
        "recordings show",
        "recordings export",
        "recordings import",
        "recordings rm",
    ),
    "Mail": ("mail", "mail redeliver", "mail delegations"),
    "This machine": ("doctor", "gc"),
}

#: Where the descriptions begin.
_COLUMN: Final = 11


def overview() -> str:
    """Returns the text. About 5 ms."""
    width = min(shutil.get_terminal_size().columns, 110)
    lines = [
        "Kibo: the runtime layer for AI agents.",
        "",
        f"{bold('Usage:')} kibo COMMAND [ARGUMENTS]        {dim('kibo COMMAND --help tells all of one command')}",
    ]
    for group, names in COMMANDS.items():
        lines += ["", bold(group)]
        for name in names:
            text = textwrap.wrap(summary(name), width - _COLUMN - 2)
            first = f"  {name:{_COLUMN - 2}}"
            # A long name has a line of its own.
            text = [first, *text] if len(first) > _COLUMN else [first + text[0], *text[1:]]
            lines += [text[0], *(" " * _COLUMN + line for line in text[1:])]
    lines += [
        "",
        bold("A box is named by where it is defined:"),
        "  module:Name    path/to/file.py:Name    'file.py:Browser+Account(customer=ada)+Coffee'",
        "",
        bold("Every command takes"),
        "  --json         print JSON, for programs",
        "  --traceback    show where in Python an error arose",
        "",
    ]
    return "\n".join(lines)


def summary(name: str) -> str:
    """Returns the first line of a command's docstring."""
    name = function(name)
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def function(name: str) -> str:
    """Returns the name of a command's function, and of its file."""
    return name.replace(" ", "_")
