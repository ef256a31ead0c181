"""Contexts of a history without boxes, for tests."""

from __future__ import annotations

import itertools
from typing import Any

from kibo.branch.history import History
from kibo.context.context import Context, Place
from kibo.context.writing import Writer


def context(history: History, of: str, parent: str | None = None) -> Context:
    """The context of a branch, written without a claim; that of a snapshot can only be read."""
    if not of.startswith("br_"):
        return Context(Place(history.log, of))
    writer = Writer(history.log, of, None, lambda: None)
    above = None if parent is None else lambda: context(history, parent)
    return Context(Place(history.log, of, writer, above))


def lines(rendered: bytes) -> list[str]:
    return rendered.decode().splitlines()


def checked_messages(prompt: Any) -> None:
    """Asserts that a prompt keeps its provider's rules."""
    if prompt.format == "openai":
        _check_openai(prompt.messages)
    else:
        _check_anthropic(prompt.messages)


def _check_anthropic(messages: list[dict[str, Any]]) -> None:
    roles = [message["role"] for message in messages]
    assert roles[:1] in ([], ["user"])
    assert all(one != two for one, two in itertools.pairwise(roles)), roles
    for index, message in enumerate(messages):
        kinds = [block["type"] for block in message["content"]]
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        assert kinds[: len(results)] == ["tool_result"] * len(results), kinds
        asked = messages[index - 1]["content"] if index else []
        assert [b["id"] for b in asked if b["type"] == "tool_use"] == results
        if "tool_use" in kinds:
            assert index + 1 < len(messages)
        assert all(block["text"].strip() for block in message["content"] if block["type"] == "text")


def _check_openai(messages: list[dict[str, Any]]) -> None:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert not waiting
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
    assert not waiting
