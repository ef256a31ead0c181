"""`kibo effects show`."""

from __future__ import annotations

import time
from typing import Any

from kibo.cli.branches import counted, records
from kibo.cli.effects import document
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_value, visible
from kibo.effects.recorder import unpacked
from kibo.effects.records import Called, Effect, Exact, Fields


def effects_show(effect: str, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Show the exact payload of an effect, with placeholders where secrets go, and the answer to it.

    Of an action's call: its arguments, and what it returned.

    Args:
        effect: Its id, or the beginning of its id.
        common: Options of every command.
    """
    with records() as here:
        exact = here.ledger.get(effect)
    if isinstance(exact.payload, Called):
        if common.json:
            print_json(document(exact.effect) | _call(exact))
        else:
            print_value("\n".join([*facts(exact), *_called(exact)]))
        return
    if not common.json:
        print_value("\n".join([*facts(exact), "", *payload(exact), *_answered(exact)]))
        return
    outcome = exact.outcome
    print_json(
        document(exact.effect)
        | {
            "fields": named(exact.request.fields),
            "body": exact.body,
            "body_whole": exact.whole,
            "trailers": named(exact.request.trailers),
            "answer": None
            if outcome is None
            else {
                "status": outcome.status,
                "fields": named(outcome.fields),
                "body": outcome.body,
                "body_whole": outcome.whole,
            },
        }
    )


def facts(exact: Exact) -> list[str]:
    """Returns what Kibo says of an effect, as lines."""
    effect = exact.effect
    branch = effect.branch if effect.branch == effect.origin else f"{effect.branch}, from {effect.origin}"
    return [
        f"{effect.id}: {effect.state}{f', {visible(effect.reason)}' if effect.reason else ''}",
        f"class     {effect.effect}",
        f"instance  {effect.instance}",
        f"branch    {branch or '-'}",
        f"asked     {duration(time.time() - effect.created_s)} ago",
        *_approval(effect),
        f"digest    {effect.digest}",
        *([f"part of   {effect.within}"] if effect.within else []),
        *([] if effect.action else [f"to        {visible(effect.url)}"]),
    ]


def payload(exact: Exact) -> list[str]:
    """Returns what an effect sends, as lines that are harmless to a terminal."""
    sent = exact.request
    lines = [
        visible(f"{exact.effect.method} {sent.target.decode('latin-1')}"),
        *shown(sent.fields, exact.body, whole=exact.whole),
    ]
    if sent.trailers:
        lines += ["", *(visible(f"{name}: {value}") for name, value in named(sent.trailers))]
    return lines


def _answered(exact: Exact) -> list[str]:
    outcome = exact.outcome
    if outcome is None:
        return []
    return ["", f"answer    {outcome.status}", *shown(outcome.fields, outcome.body, whole=outcome.whole)]


def _approval(effect: Effect) -> list[str]:
    now = time.time()
    if effect.approved_s is not None:
        return [f"approved  by {visible(effect.approver)}, {duration(max(0, now - effect.approved_s))} ago"]
    if effect.state == "asking" and effect.due_s is not None:
        return [f"approval  is asked for, for {duration(max(0, effect.due_s - now))} more"]
    return ["approval  is asked for"] if effect.waits_for_person else []


def _call(exact: Exact) -> dict[str, Any]:
    outcome = exact.outcome
    known = outcome is not None and outcome.whole
    return {
        "arguments": unpacked(exact.body),
        "result": unpacked(outcome.body) if outcome is not None and known else None,
        "result_known": known,
    }


def _called(exact: Exact) -> list[str]:
    facts, effect = _call(exact), exact.effect
    arguments = ", ".join(f"{name}={value!r}" for name, value in facts["arguments"].items())
    lines = [f"undone by {effect.undo}()"] if effect.undo else []
    lines += ["", visible(f"{effect.action}({arguments})")]
    return [*lines, "", f"returned  {visible(repr(facts['result']))}"] if facts["result_known"] else lines


def shown(fields: Fields, body: bytes, *, whole: bool) -> list[str]:
    """Writes fields and a body as people read them."""
    lines = [visible(f"{name}: {value}") for name, value in named(fields)]
    try:
        text = body.decode()
    except UnicodeDecodeError:
        lines += ["", f"({counted(len(body), 'byte', 'bytes')} that are no text; --json has them)"]
    else:
        lines += ["", visible(text, keep="\n\t")] if text else []
    return lines if whole else [*lines, "(it was longer, and the rest was not kept)"]


def named(fields: Fields) -> list[tuple[str, str]]:
    """Returns fields as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
