"""Writes docs/reference/ from the docstrings of what users call: Python, command line and errors.

Run it to write the pages anew; `make docs` fails where they are not what it would write.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "reference"
MADE = "<!-- Written by docs/reference.py from the source; change the docstrings there. -->\n"
#: What users hold, beside the names of `kibo` itself.
HELD = {
    "What running boxes are": "kibo.runtime.instance: Instance RunningBox Files Popen Forks",
    "What their calls return": "kibo.runtime.commandline: Completed Terminal"
    " | kibo.runtime.handle: Change | kibo.runtime.files: FileInfo FileChange",
    "Pools": "kibo.runtime.pool: Pool",
    "Branches": "kibo.branch.branch: Branch | kibo.branch.comparing: Comparison Difference MessageDifference",
    "Contexts": "kibo.context.context: Context | kibo.context.prompt: Prompt Dropped | kibo.context.parts: Opaque Call"
    " | kibo.context.compaction: Summarised | kibo.context.searching: Hit | kibo.context.vectors: Embedding"
    " | kibo.context.tokens: Tokenizer",
    "Mail": "kibo.runtime.mailing: Receipt Mailbox | kibo.model.message: Message Delivery DeadLetter Progress Posting"
    " | kibo.branch.mail_faces: Delegated BranchMail BranchBoard",
    "Runs": "kibo.schedule.handle: Run | kibo.schedule.submitting: Happened | kibo.schedule.failing: Failure"
    " | kibo.schedule.explaining: Explanation | kibo.schedule.placement: Reason"
    " | kibo.schedule.timeline: Timeline Span Mark",
    "Sessions": "kibo.wiring.sessions: Profile Lease | kibo.effects.sessions.leasing: Saved"
    " | kibo.effects.sessions.versions: Version",
}
SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Raises": "Raises",
    "Yields": "Yields",
}

AIO = """## `kibo.aio`

The same for asyncio and trio: `await aio.spawn(box)` or `async with aio.spawn(box) as instance`, and every call of an
instance, its files and its branches is a coroutine. `aio.branch`, `aio.checkout`, `aio.compare`, `aio.explore`,
`aio.approve`, `aio.deny`, `aio.submit`, `aio.get_run` and `aio.runs` are those of `kibo`.
"""
ERRORS = """# Errors

Every error is a `kibo.KiboError` with `code`, `message`, `hint`, `retry` and `details`. Those that stand further in are
kinds of the one above them.

`retry` says whether the same call may be made again: `never`, `safe` (nothing happened), `after` (once the cause that
the hint names is gone), `unknown` (it may have happened).
"""


def markdown(text: str) -> str:
    """Turns a docstring's sections into lists, and its double back quotes into single ones."""
    lines, section = [], ""
    for line in inspect.cleandoc(text).replace("``", "`").splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            section = line.removesuffix(":")
            lines.append(f"**{SECTIONS[section]}**\n")
        elif (
            section
            and (item := re.match(r"    (\S.*?): (.*)", line))
            and section not in ("Returns", "Yields")
        ):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}" if lines[-1].startswith(("- ", "  ")) else line.strip())
        else:
            section = section if not line else ""
            lines.append(line)
    return "\n".join(lines).strip() + "\n"


def signature(call: Callable[..., Any]) -> str:
    """Shows what a call takes: names and defaults."""
    shown = [
        str(parameter.replace(annotation=parameter.empty))
        for parameter in inspect.signature(call).parameters.values()
        if parameter.name != "self"
    ]
    named = [
        p.kind is p.KEYWORD_ONLY for p in inspect.signature(call).parameters.values() if p.name != "self"
    ]
    if True in named and not any(text.startswith("*") for text in shown):
        shown.insert(named.index(True), "*")
    return ", ".join(shown)


def members(cls: type, shown: str) -> Iterator[str]:
    """Describes the calls and properties that a class itself defines, as those of what is called so."""
    for name, member in vars(cls).items():
        text = inspect.getdoc(member) or ""
        if name.startswith("_") or not text or text.startswith("See `Policy`"):
            continue
        if isinstance(member, property):
            yield f"#### `{shown}.{name}`\n\n{markdown(text)}"
        elif inspect.isfunction(member):
            yield f"#### `{shown}.{name}({signature(member)})`\n\n{markdown(text)}"


def described(name: str, thing: Any) -> str:
    if not inspect.isclass(thing) and callable(thing):
        return f"### `{name}({signature(thing)})`\n\n{markdown(thing.__doc__ or '')}"
    cls = thing if inspect.isclass(thing) else type(thing)
    return "\n".join([f"### `{name}`\n\n{markdown(thing.__doc__ or '')}", *members(cls, name)])


def python_page() -> str:
    import kibo

    things = {
        name: getattr(kibo, name)
        for name in sorted(kibo.__all__)
        if name not in ("__version__", "branch", "me")
    }
    things["branch"] = importlib.import_module("kibo.wiring.branches").branch
    text = [MADE, "# Python\n\nThe names of `kibo`, then what their calls give.\n", "## `kibo`\n"]
    text += [described(f"kibo.{name}", thing) for name, thing in sorted(things.items())]
    for title, places in HELD.items():
        text.append(f"## {title}\n")
        for place in places.split(" | "):
            module, names = place.split(": ")
            text += [
                described(name, getattr(importlib.import_module(module), name)) for name in names.split()
            ]
    text += called_out()
    text.append(AIO)
    return "\n".join(text)


def called_out() -> Iterator[str]:
    """Describes what code in a box calls."""
    from kibo import me

    yield f"## `kibo.me`\n\n{markdown(me.__doc__ or '')}"
    for name in sorted(set(me.__all__) - {"branch"}):
        yield described(f"me.{name}", getattr(me, name))
    yield described("me.branch", type(me.branch).__call__)


def command_page() -> str:
    from kibo.cli.overview import COMMANDS, function

    text = [MADE, "# Command line\n\nEvery command takes `--json`, for programs, and `--traceback`.\n"]
    for group, names in COMMANDS.items():
        text.append(f"## {group}\n")
        for name in names:
            called = function(name)
            command = getattr(importlib.import_module(f"kibo.cli.{called}"), called)
            text.append(f"### `kibo {name}`\n\n{markdown(command.__doc__ or '')}")
    return "\n".join(text).replace("- `common`: Options of every command.\n", "")


def error_page() -> str:
    from kibo.model import errors

    def family(cls: type[errors.KiboError], depth: int = 0) -> Iterator[str]:
        meaning = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0].replace("``", "`")
        status = errors.surface(cls("")).exit_code
        yield f"| {'&nbsp;' * 4 * depth}`{cls.__name__}` | `{cls.code}` | {cls.retry} | {status} | {meaning} |"
        for below in cls.__subclasses__():
            if below.__module__ == errors.__name__:
                yield from family(below, depth + 1)

    table = [
        "| class of `kibo.model.errors` | code | retry | exit status | meaning |",
        "|---|---|---|--:|---|",
    ]
    return "\n".join([MADE, ERRORS, *table, *family(errors.KiboError), ""])


def runs_page() -> str:
    from kibo.schedule.lifecycle import page

    return MADE + "\n" + "\n".join(page())


def pages() -> dict[Path, str]:
    """Every page, as it would be written now."""
    made = {"python.md": python_page(), "command-line.md": command_page(), "errors.md": error_page()}
    made["runs.md"] = runs_page()
    return {PAGES / name: text for name, text in made.items()}


def outdated() -> list[Path]:
    """The pages that are not what the source says."""
    return [path for path, text in pages().items() if not path.exists() or path.read_text() != text]


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
    sys.exit(0)
