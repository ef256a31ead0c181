"""A client of chat completions, as OpenAI's API and most servers of local models speak it. Standard library only."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

TRIES = 3  # of a request that was refused for the moment; a model's answer can be asked for again
BUSY = (429, 500, 502, 503, 504)


class ChatError(Exception):
    """The endpoint did not answer, or not with a completion."""


@dataclass(frozen=True)
class Reply:
    """What the model said: a message as the API has it, and what it cost."""

    message: dict[str, Any]
    tokens: int

    @property
    def text(self) -> str:
        return self.message.get("content") or ""

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.message.get("tool_calls") or []


@dataclass(frozen=True)
class Chat:
    """A model behind an endpoint. The key, where it needs one, comes from ``OPENAI_API_KEY``."""

    url: str = field(default_factory=lambda: os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"))
    model: str = field(default_factory=lambda: os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"))
    timeout_s: float = 120.0

    def complete(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Reply:
        """Asks for the next message of a conversation."""
        body = json.dumps({"model": self.model, "messages": messages, "tools": tools}).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        answer = self._answer(request)
        try:
            message = answer["choices"][0]["message"]
        except (KeyError, IndexError, TypeError):
            raise ChatError(f"the endpoint's answer holds no message: {str(answer)[:300]}") from None
        return Reply(message, int((answer.get("usage") or {}).get("total_tokens") or 0))

    def _answer(self, request: urllib.request.Request) -> Any:
        for attempt in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode(errors="replace")
                if error.code not in BUSY or attempt == TRIES:
                    raise ChatError(f"the endpoint answered {error.code}: {said}") from None
            except (OSError, ValueError) as error:
                if attempt == TRIES:
                    raise ChatError(f"the endpoint at {self.url} does not answer: {error}") from error
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("the last try returns or raises")
