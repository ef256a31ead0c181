"""`kibo recordings show`."""

from __future__ import annotations

from typing import Any

from kibo.cli.effects_show import named, shown
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_table, print_value, visible
from kibo.effects.recording_file import Recorded, Stored
from kibo.effects.recordings import Recordings
from kibo.model.errors import RequestUnknown
from kibo.model.limits import MAX_READ_BYTES
from kibo.runtime.layers.home import state_home


def recordings_show(recording: str, number: int | None = None, /, *, common: Common = Common()) -> None:  # noqa: B008
    """Show what a recording has: all requests, or one of them to the byte, and verify it.

    Args:
        recording: Its name, or the path of an exported one.
        number: Of a request, as the list has it.
        common: Options of every command.
    """
    with Recordings(state_home()).opened(recording) as stored:
        found = stored.index.exchanges
        if number is not None:
            found = [each for each in found if each.number == number]
            if not found:
                raise RequestUnknown(
                    f"{recording} has no request {number}",
                    hint=f"`kibo recordings show {recording}` lists what it has.",
                )
        if common.json:
            print_json([_document(stored, each, whole=number is not None) for each in found])
        elif number is not None:
            print_value("\n".join(_lines(stored, found[0])))
        else:
            print_table(("NO", "METHOD", "URL", "ANSWER"), [_row(each) for each in found])


def _row(each: Recorded) -> tuple[str, ...]:
    asked = each.question
    return str(each.number), asked.method.decode("latin-1"), asked.url, _outcome(each)


def _outcome(each: Recorded) -> str:
    if each.reply is not None:
        return f"{each.reply.status}{'' if each.reply.whole else ', broken off'}"
    return f"refused: {each.refusal.status}" if each.refusal is not None else f"not kept: {each.left_out}"


def _lines(stored: Stored, each: Recorded) -> list[str]:
    asked, reply = each.question, each.reply
    lines = [f"request   {each.number}, {asked.effect}", f"to        {visible(asked.url)}", ""]
    lines.append(visible(f"{asked.method.decode('latin-1')} {asked.target.decode('latin-1')}"))
    lines += shown(asked.fields, _body(stored, asked.body), whole=True)
    lines += ["", f"answer    {visible(_outcome(each))}"]
    if reply is not None:
        lines += shown(reply.fields, _body(stored, reply.body), whole=reply.whole)
    elif each.refusal is not None:
        lines.append(visible(each.refusal.text))
    return lines


def _document(stored: Stored, each: Recorded, *, whole: bool) -> dict[str, Any]:
    asked, reply, refusal = each.question, each.reply, each.refusal
    facts: dict[str, Any] = {
        "number": each.number,
        "method": asked.method.decode("latin-1"),
        "url": asked.url,
        "class": asked.effect,
        "status": None if reply is None else reply.status,
        "whole": reply is not None and reply.whole,
        "refusal": None if refusal is None else {"status": refusal.status, "text": refusal.text},
        "left_out": each.left_out,
    }
    if whole:
        facts |= {"fields": named(asked.fields), "body": _body(stored, asked.body)}
        if reply is not None:
            facts["answer"] = {"fields": named(reply.fields), "body": _body(stored, reply.body)}
    return facts


def _body(stored: Stored, digest: bytes | None) -> bytes:
    """Reads a body, as far as anybody reads one."""
    return b"" if digest is None else stored.piece(digest, 0, MAX_READ_BYTES)
