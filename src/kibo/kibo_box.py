"""``kibo-box``: what a box may ask of Kibo, for programs of any kind in it.

It is run by the guest's own Python, which every box has at ``/opt/kibo/python``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from kibo import me
from kibo.model.errors import InvalidInput, KiboError, surface

_HELP: Final = """\
kibo-box: ask Kibo for what this box has a right to.

  kibo-box me                        who this box is, its branch, its rights and its quota
  kibo-box call VERB [--json ARGS]   ask for anything: VERB with its arguments as a JSON object;
                                     `--json -` reads them from standard input
  kibo-box progress VALUE            say how far it is: JSON, or else text
  kibo-box send TO BODY              send a message to an instance of this box's branch; prints its id
  kibo-box publish EVENT [DATA]      publish an event; prints its id
  kibo-box receive [SECONDS]         take the next message, or wait for one so long; prints nothing, and ends with 75,
                                     where there is none. `kibo-box done ID` once it is handled
  kibo-box done ID                   say that a message has been handled
  kibo-box subscribe PATTERN         have events come to `receive`; prints what `call unsubscribe` takes
  kibo-box post BODY                 write on the board
  kibo-box board [AFTER]             read the board, one entry a line
BODY, DATA and VALUE are JSON, or else text.

Answers are JSON on standard output, one line each. On an error, one line of JSON is on standard error,
and the exit status says of which kind it is: 77 denied, 65 bad arguments, 66 not there, 73 over the quota,
75 not now, 1 the action failed, 70 a defect.
"""


_EXAMPLE: Final = """As in --json '{"box": "Worker"}'."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns its exit status."""
    try:
        return _run(list(arguments))
    except KiboError as error:
        print(json.dumps(error.to_dict(), default=str), file=sys.stderr)
        return surface(error).exit_code


def _run(arguments: list[str]) -> int:
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            print(_HELP, end="")
            return 0 if arguments else 64
        case ["me"]:
            _print(me.ask("who"))
        case ["progress", text]:
            me.progress(_json_or_text(text))
        case ["send", to, body]:
            _print(me.send_message(to, _json_or_text(body)))
        case ["publish", event, *data] if len(data) < 2:
            _print(me.publish_event(event, _json_or_text(data[0]) if data else None))
        case ["receive", *seconds] if len(seconds) < 2:
            return _receive(_number(seconds[0]) if seconds else 0.0)
        case ["done", message]:
            me.done(message)
        case ["subscribe", pattern]:
            _print(me.subscribe(pattern))
        case ["post", body]:
            me.board.post(_json_or_text(body))
        case ["board", *after] if len(after) < 2:
            for entry in me.board.read(after=int(_number(after[0])) if after else 0):
                _print(entry.as_dict())
        case ["call", verb]:
            _call(verb, {})
        case ["call", verb, "--json", text]:
            _call(verb, _object(sys.stdin.read() if text == "-" else text))
        case _:
            raise InvalidInput(
                f"kibo-box cannot {' '.join(arguments)[:200]!r}", hint="`kibo-box --help` says what it can."
            )
    return 0


def _call(verb: str, arguments: dict[str, Any]) -> None:
    answers = me._answers(verb, arguments)
    while True:
        try:
            _print(next(answers))
        except StopIteration as end:
            _print(end.value)
            return


def _receive(timeout_s: float) -> int:
    message = me.receive(timeout_s=timeout_s)
    if message is None:
        return 75
    _print(message.as_dict())
    return 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{text[:80]!r} is no number", hint="Seconds, or a position.") from None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"the arguments are not JSON: {error}", hint=_EXAMPLE) from None
    if not isinstance(found, dict):
        raise InvalidInput("the arguments are no JSON object", hint=_EXAMPLE)
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, default=_text), flush=True)


def _text(value: Any) -> str:
    """Shows bytes, such as what a command has printed, as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
