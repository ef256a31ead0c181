"""`kibo context`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kibo.cli.branches import counted, records
from kibo.cli.options import Common
from kibo.cli.output import duration, excerpt, print_json, print_table, print_value, visible
from kibo.context.context import Context
from kibo.context.entries import ContextEntry
from kibo.context.parts import Format
from kibo.context.prompt import Prompt
from kibo.model.errors import InvalidInput
from kibo.wiring.contexts import readable

#: Characters of an entry that a line of a table has.
_SHOWN = 80


def context(
    ref: str,
    /,
    *,
    limit: int = 50,
    prompt: Annotated[bool, Parameter(negative="")] = False,
    budget: int = 8000,
    format: Format = "anthropic",
    search: str | None = None,
    export: Literal["anthropic", "openai", "jsonl"] | None = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show what an agent knows in a branch: its newest entries, a prompt of them, what a search finds, or an export.

    A branch's is as it has been written up to now, in whatever process; a snapshot's as it was sealed.

    Args:
        ref: A branch, a snapshot or a label.
        limit: How many entries to list or to find at most.
        prompt: Print the prompt that a model would be given, with what it leaves out.
        budget: Tokens that the prompt may have, by Kibo's own estimate.
        format: Whose form the prompt has.
        search: Find entries that have these words.
        export: Print all of it: a provider's list of messages as JSON, or lines that `import_` takes.
        common: Options of every command.
    """
    if prompt + (search is not None) + (export is not None) > 1:
        raise InvalidInput("--prompt, --search and --export are three things", hint="Take one of them.")
    with records() as here:
        known = readable(here.history, ref)
        if prompt:
            _show_prompt(known.prompt(budget, format=format, oversized="truncate"), as_json=common.json)
        elif search is not None:
            found = known.search(search, limit)
            if common.json:
                print_json([document(hit.entry) | {"score": hit.score} for hit in found])
            else:
                _show([hit.entry for hit in found], "nothing has these words")
        elif export is not None:
            _export(known, export)
        elif common.json:
            print_json([document(entry) for entry in known.entries(limit)])
        else:
            _show(known.entries(limit), "nothing has been said there")


def _show(entries: Sequence[ContextEntry], nothing: str) -> None:
    if not entries:
        print_value(nothing)
        return
    rows = [
        (
            entry.id,
            str(entry.seq),
            entry.word,
            duration(time.time() - entry.at_s),
            excerpt(entry.text, _SHOWN),
        )
        for entry in entries
    ]
    print_table(("ID", "NUMBER", "KIND", "AGE", "TEXT"), rows)


def _show_prompt(made: Prompt, *, as_json: bool) -> None:
    if as_json:
        own = {name: value for name, value in asdict(made).items() if name != "rendered"}
        print_json(own)
        return
    for message in [*made.system, *made.messages]:
        content = message.get("content", message.get("text"))
        for block in content if isinstance(content, list) else [content]:
            said = block.get("text", block) if isinstance(block, dict) else block
            calls = f" {message['tool_calls']}" if message.get("tool_calls") else ""
            sys.stdout.write(visible(f"{message.get('role', 'system')}: {said or ''}{calls}", "\n\t") + "\n")
    told = [f"{made.tokens:,} of {made.budget_tokens:,} tokens by {made.tokenizer}"]
    if made.dropped.through:
        told.append(f"entries up to number {made.dropped.through} are left out")
    if made.dropped.others:
        told.append(f"{counted(len(made.dropped.others), 'other is', 'others are')} left out")
    if made.summarised is not None:
        told.append(f"a summary stands for {made.summarised.count}")
    if made.shortened:
        told.append(f"{counted(len(made.shortened), 'is', 'are')} shortened")
    if made.pending:
        told.append(f"{counted(len(made.pending), 'waits', 'wait')} for results")
    sys.stderr.write("; ".join(told) + "\n")


def _export(known: Context, format: Literal["anthropic", "openai", "jsonl"]) -> None:
    if format == "jsonl":
        for line in known.export_lines():
            sys.stdout.write(line + "\n")
        return
    print_json(known.export(format))


def document(entry: ContextEntry) -> dict[str, Any]:
    """Returns an entry as JSON has it."""
    head = {
        "id": entry.id,
        "number": entry.seq,
        "kind": entry.word,
        "at_s": entry.at_s,
        "origin": entry.origin,
    }
    return head | {"text": entry.text, "body": entry.body()}
