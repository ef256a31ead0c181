"""What `kibo --help` prints: every command with the first line of its docstring, read without importing it."""

from __future__ import annotations

import ast
import shutil
import textwrap
from pathlib import Path

from kibo.cli.styles import bold, dim

#: Every command, in the order of the overview. Each is the function of its name in the file of its name.
COMMANDS = {
    "Boxes": ("run", "build", "spawn"),
    "Instances": ("ps", "exec", "shell", "logs", "diff", "stop"),
    "This machine": ("doctor", "gc"),
}


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
            text = textwrap.wrap(summary(name), width - 12)
            lines += [f"  {name:8}{text[0]}", *(" " * 10 + line for line in text[1:])]
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
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
