"""The context of a branch or a snapshot, for coroutines: `kibo.context.context` has the same for plain programs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Literal, Protocol, TypeVar

from kibo.context.compaction import Summarise
from kibo.context.context import KEEP_TOKENS, Context, Named
from kibo.context.entries import (
    Assistant,
    ContextEntry,
    Memory,
    Note,
    Pin,
    Summary,
    System,
    ToolCall,
    ToolResult,
    Unpin,
    User,
)
from kibo.context.parts import Content
from kibo.context.prompt import Oversized, Prompt
from kibo.context.searching import Hit
from kibo.context.tokens import ESTIMATE, Tokenizer
from kibo.context.vectors import Embedding

Result = TypeVar("Result")


class Aside(Protocol):
    """Does what waits for a database in a thread. Cancelled, it is done all the same; the next wait is told."""

    def __call__(self, work: Callable[[], Result], /) -> Coroutine[Any, Any, Result]:
        """See `kibo.runtime.waiting.Waiting.aside`."""


class AsyncContext:
    """A context whose calls are coroutines. What each takes, returns and raises is said at `Context`.

    Cancelled, a call is carried out all the same, and its caller's next wait is told. What the caller gives to be
    called, a summariser or an embedding, is a plain function, and is called in a thread.
    """

    def __init__(self, context: Context, aside: Aside) -> None:
        self._context: Final = context
        self._aside: Final = aside

    def __repr__(self) -> str:
        return f"<aio.{self._context!r}".replace("<aio.<", "<aio.")

    async def system(self, text: Content) -> System:
        """Adds instructions."""
        return await self._aside(lambda: self._context.system(text))

    async def user(self, content: Content) -> User:
        """Adds what a user said."""
        return await self._aside(lambda: self._context.user(content))

    async def assistant(self, content: Content = "", *, tool_calls: Sequence[Any] = ()) -> Assistant:
        """Adds what a model said, and the tools that it called."""
        return await self._aside(lambda: self._context.assistant(content, tool_calls=tool_calls))

    async def tool_call(self, call_id: str, name: str, arguments: Any = "{}") -> ToolCall:
        """Adds one call of a tool."""
        return await self._aside(lambda: self._context.tool_call(call_id, name, arguments))

    async def tool_result(self, call_id: str, content: Content, *, error: bool = False) -> ToolResult:
        """Adds what a tool answered."""
        return await self._aside(lambda: self._context.tool_result(call_id, content, error=error))

    async def note(self, text: Content) -> Note:
        """Adds a remark."""
        return await self._aside(lambda: self._context.note(text))

    async def remember(
        self, text: str, *, source: Named | None = None, supersedes: Named | None = None
    ) -> Memory:
        """Adds something to know later."""
        return await self._aside(lambda: self._context.remember(text, source=source, supersedes=supersedes))

    async def promote(self, memory: Named) -> Memory:
        """Adds a memory of this branch to its parent."""
        return await self._aside(lambda: self._context.promote(memory))

    async def pin(self, entry: Named) -> Pin:
        """Keeps an entry in every prompt."""
        return await self._aside(lambda: self._context.pin(entry))

    async def unpin(self, entry: Named) -> Unpin:
        """Takes a pin away."""
        return await self._aside(lambda: self._context.unpin(entry))

    async def get(self, entry: Named) -> ContextEntry:
        """Returns an entry by its id."""
        return await self._aside(lambda: self._context.get(entry))

    async def entries(
        self,
        limit: int = 100,
        *,
        before: int | None = None,
        after: int | None = None,
        kinds: Sequence[str] = (),
    ) -> list[ContextEntry]:
        """Reads entries, in order."""
        return await self._aside(
            lambda: self._context.entries(limit, before=before, after=after, kinds=kinds)
        )

    async def prompt(
        self,
        budget_tokens: int,
        *,
        format: Literal["anthropic", "openai"] = "anthropic",
        tokenizer: str | Tokenizer = ESTIMATE,
        oversized: Oversized = "error",
    ) -> Prompt:
        """Makes what to give a model."""
        return await self._aside(
            lambda: self._context.prompt(
                budget_tokens, format=format, tokenizer=tokenizer, oversized=oversized
            )
        )

    async def search(self, query: str, limit: int = 10, *, embedding: Embedding | None = None) -> list[Hit]:
        """Finds entries."""
        return await self._aside(lambda: self._context.search(query, limit, embedding=embedding))

    async def memories(self, *, superseded: bool = False) -> list[Memory]:
        """Lists the memories that this branch sees."""
        return await self._aside(lambda: self._context.memories(superseded=superseded))

    async def compact(
        self,
        summarise: Summarise | None = None,
        *,
        keep_tokens: int = KEEP_TOKENS,
        tokenizer: str | Tokenizer = ESTIMATE,
    ) -> Summary | None:
        """Has a summary take the place of all but the newest entries in prompts."""
        return await self._aside(
            lambda: self._context.compact(summarise, keep_tokens=keep_tokens, tokenizer=tokenizer)
        )

    async def import_(
        self,
        messages: Iterable[Any],
        format: Literal["anthropic", "openai", "jsonl"],
        *,
        repair: bool = False,
    ) -> list[ContextEntry]:
        """Adds a list of messages, or the lines of an export."""
        return await self._aside(lambda: self._context.import_(messages, format, repair=repair))

    async def export(self, format: Literal["anthropic", "openai"]) -> list[dict[str, Any]]:
        """Writes all of the context as a provider's list of messages."""
        return await self._aside(lambda: self._context.export(format))

    async def export_lines(self) -> list[str]:
        """Writes all of the context as lines of JSON."""
        return await self._aside(lambda: list(self._context.export_lines()))
