"""An agent: a model that calls a box's actions until it has an answer."""

from __future__ import annotations

import json
from typing import Any, Protocol

import kibo
from examples.agent.chat import Chat, Reply
from kibo import Budget, KiboError

MOST_TURNS = 30
MOST_OUTPUT = 8_000  # characters of a tool's result that the model gets to read

EXEC = {
    "type": "function",
    "function": {
        "name": "exec",
        "description": "Run a shell command in the box and return its exit status and output.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    },
}


class ToolBox(Protocol):
    """What the agent needs of an instance: its actions by name, `tools` and `exec`."""

    def tools(self, format: Any = "openai") -> list[dict[str, Any]]: ...

    def exec(self, command: str, *, timeout_s: float | None = None) -> Any: ...


class NoAnswer(Exception):
    """The model made its last turn without an answer."""


def work(box: ToolBox, chat: Chat, task: str, *, system: str, budget: Budget | None = None) -> str:
    """Has a model work on a task with a box's actions and `exec`, and returns its answer.

    Args:
        box: An instance.
        chat: The model.
        task: What the user wants.
        system: How to go about it.
        budget: Charged with the tokens of each turn.

    Raises:
        NoAnswer: It needed more than `MOST_TURNS` turns.
        ChatError: The endpoint failed.
        BudgetSpent: No tokens are left.
        WrongState: The box has ended: another agent has won.
    """
    tools = [*box.tools("openai"), EXEC]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": task},
    ]
    for _ in range(MOST_TURNS):
        reply = chat.complete(messages, tools)
        if budget is not None:
            budget.spend(tokens=reply.tokens)
        messages.append(reply.message)
        if not reply.calls:
            return reply.text
        messages.extend(answers(box, reply))
    raise NoAnswer(f"no answer after {MOST_TURNS} turns")


def answers(box: ToolBox, reply: Reply) -> list[dict[str, Any]]:
    """Makes the calls that a model asked for, and returns a message for each."""
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": _called(box, call["function"])[:MOST_OUTPUT]}
        for call in reply.calls
    ]


def _called(box: ToolBox, function: dict[str, Any]) -> str:
    name = str(function.get("name"))
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError as error:
        return f"error: the arguments are not JSON: {error}"
    if not isinstance(arguments, dict):
        return "error: the arguments are not an object"
    kibo.note(f"{name}({', '.join(f'{key}={value!r:.30}' for key, value in arguments.items())})")
    offered = {tool["function"]["name"] for tool in box.tools("openai")}
    try:
        if name == "exec":
            done = box.exec(str(arguments.get("command", "")), timeout_s=60)
            return f"exit status {done.returncode}\n{_text(done.stdout)}{_text(done.stderr)}"
        if name not in offered:
            return f"error: there is no tool {name!r}; there are exec, {', '.join(sorted(offered))}"
        return json.dumps(getattr(box, name)(**arguments), default=str)
    except KiboError as error:
        if error.code in ENDED:
            raise  # the world is gone, and with it the reason to go on
        return f"error: {error.message}"  # the model reads it, and may do better


#: Codes of errors after which there is no box to go on with.
ENDED = ("instance.ended", "branch.closed", "branch.stale", "runtime.lost")


def _text(output: str | bytes) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output
