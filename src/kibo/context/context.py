"""The context of a branch or a snapshot, as a plain program holds it. `kibo.aio` has the same for coroutines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kibo.context import compaction, finding, importing, searching, vectors, writing
from kibo.context.canonical import checked_text
from kibo.context.compaction import Summarise
from kibo.context.entries import (
    KIND,
    Assistant,
    ContextEntry,
    EntryT,
    Memory,
    Note,
    Pin,
    Summary,
    System,
    ToolCall,
    ToolResult,
    Unpin,
    User,
    kind_of,
    read,
)
from kibo.context.exporting import entries_from, lines_of, messages_of
from kibo.context.extracting import extract
from kibo.context.index import catch_up, named_in
from kibo.context.parts import Content, called, checked_calls, checked_format, checked_parts
from kibo.context.prompt import Oversized, Prompt, Wanted, check_wanted
from kibo.context.reading import prompt_in
from kibo.context.searching import Hit
from kibo.context.tokens import ESTIMATE, Tokenizer, tokenizer
from kibo.context.vectors import Embedding
from kibo.context.writing import Writer
from kibo.model.errors import ContextInvalid, WrongState
from kibo.model.ids import BranchId, EntryId
from kibo.store.database import Transaction
from kibo.store.log import MAX_PAGE, Log, following_in, newest_in, of_kinds_in

#: Any entry, or its id.
Named = ContextEntry | str
#: Tokens of the newest entries that a compaction leaves as they are, by default.
KEEP_TOKENS: Final = 2000
_EXPORTED: Final = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a context is, and what may be done there.

    Attributes:
        log: The store's.
        of: The branch or snapshot whose context it is.
        writer: Who writes into it; None where it can only be read.
        above: Finds the context that a memory is promoted into; raises where there is none.
    """

    log: Log
    of: str
    writer: Writer | None = None
    above: Callable[[], Context] | None = None


class Context:
    """What an agent knows in one branch: a log of entries, which forks, commits and aborts with everything else of it.

    Entries are never changed and never removed while something can see them. Thread-safe; any number of processes.
    """

    def __init__(self, place: Place) -> None:
        self._place: Final = place
        self._log: Final = place.log

    def __repr__(self) -> str:
        return f"<Context of {self._place.of}>"

    # -- writing

    def system(self, text: Content) -> System:
        """Adds instructions: every prompt has them, at its very beginning. Errors as `user`.

        More of them later change the first bytes of every prompt: begin a new generation.
        """
        return self._add(System(id=EntryId.new(), parts=checked_parts(text, "instructions")))

    def user(self, content: Content) -> User:
        """Adds what a user said. On the disk when it returns; about 0.4 ms on SQLite.

        Args:
            content: Text, or a list of texts and `Opaque` parts, such as images.

        Raises:
            ContextInvalid: It says nothing, or has half a character. Never retry.
            WrongState: This is a snapshot's context.
            BranchClosed, BranchStale, BranchTaken: The branch cannot be written to any more.
            StoreUnavailable: The database does not answer.
        """
        return self._add(User(id=EntryId.new(), parts=checked_parts(content, "a message")))

    def assistant(self, content: Content = "", *, tool_calls: Sequence[Any] = ()) -> Assistant:
        """Adds what a model said. Calls that still wait are given up. Errors as `user`.

        Args:
            content: As for `user`; may be empty where it calls tools.
            tool_calls: What it called: `Call`, or dictionaries with ``id``, ``name`` and ``arguments``, JSON or a text
                of it.
        """
        calls = checked_calls(tool_calls)
        parts = checked_parts(content, "a message", empty=bool(calls)) if content or not calls else ()
        return self._add(Assistant(id=EntryId.new(), parts=parts, calls=calls))

    def tool_call(self, call_id: str, name: str, arguments: Any = "{}") -> ToolCall:
        """Adds one call of a tool, which a model made. Errors as `user`.

        Raises:
            ContextInvalid: A call of that id waits for its result already.
        """
        entry = ToolCall(id=EntryId.new(), call=called(call_id, name, arguments))
        writer = self._writer()
        return writer.append(entry, lambda tx: writing.check_call(tx, writer.branch, entry))

    def tool_result(self, call_id: str, content: Content, *, error: bool = False) -> ToolResult:
        """Adds what a tool answered. Errors as `user`.

        Args:
            call_id: The id of a call that waits for it.
            content: As for `user`; may be empty.
            error: Whether the tool failed.

        Raises:
            CallUnknown: No call of that id waits; nothing was written.
        """
        parts = checked_parts(content, "a result", empty=True)
        entry = ToolResult(
            id=EntryId.new(), parts=parts, call_id=checked_text(call_id, "a call's id"), error=error
        )
        writer = self._writer()
        return writer.append(entry, lambda tx: writing.check_result(tx, writer.branch, entry))

    def note(self, text: Content) -> Note:
        """Adds a remark, which a model is shown where it stands, marked as one. Errors as `user`."""
        return self._add(Note(id=EntryId.new(), parts=checked_parts(text, "a note")))

    def remember(self, text: str, *, source: Named | None = None, supersedes: Named | None = None) -> Memory:
        """Adds something to know later. Errors as `user`.

        A model is shown it where it stands; later, `memories` and `search` find it, and `pin` keeps it in prompts. It
        is of this branch: what a losing branch has learned is not in its parent, unless it is promoted.

        Args:
            text: What to know.
            source: The entry that it comes from.
            supersedes: The memory that it takes the place of, which stays readable.

        Raises:
            ContextEntryUnknown: The source, or the memory, cannot be seen from here.
            ContextInvalid: What it supersedes is no memory.
        """
        old = None if supersedes is None else self.get(supersedes)
        if old is not None and not isinstance(old, Memory):
            raise ContextInvalid(f"{old.id} is no memory, but a {old.word}", hint="Give it as the source.")
        writer = self._writer()
        return writer.append(
            Memory(
                id=EntryId.new(),
                parts=checked_parts(text, "a memory"),
                source=None if source is None else self.get(source).id,
                supersedes=None if old is None else old.id,
                branch=BranchId(writer.branch),
            )
        )

    def promote(self, memory: Named) -> Memory:
        """Adds a memory of this branch to its parent, however this branch ends. Errors as `user`, of the parent.

        Do so after the commit of another fork, or with a `merge` to come: a parent that goes on makes its forks stale.

        Args:
            memory: A memory that can be seen from here.

        Returns:
            The memory in the parent; its `source` is this one, and its `branch` the one that learned it.

        Raises:
            WrongState: The branch is a root.
            ContextInvalid: It is no memory.
        """
        found = self.get(memory)
        if not isinstance(found, Memory):
            raise ContextInvalid(
                f"{found.id} is no memory, but a {found.word}", hint="remember(...) makes one of it."
            )
        if self._place.above is None:
            raise WrongState("a root has no parent to promote a memory into", hint="It is there already.")
        above = self._place.above()
        return above._add(Memory(id=EntryId.new(), parts=found.parts, source=found.id, branch=found.branch))

    def pin(self, entry: Named) -> Pin:
        """Keeps an entry in every prompt, with its call and results where it belongs to a call. Errors as `user`.

        Raises:
            ContextEntryUnknown: It cannot be seen from here.
            WrongState: It belongs to a call that has no result yet.
        """
        found = self.get(entry)
        if isinstance(found, Pin | Unpin):
            raise ContextInvalid(f"{found.id} is a {found.word}", hint="Pin what was said.")
        unit = self._log.store.read(lambda tx: finding.unit_in(tx, self._place.of, found))
        return self._add(Pin(id=EntryId.new(), entry=found.id, held=unit.entries))

    def unpin(self, entry: Named) -> Unpin:
        """Takes a pin away, of the entry or of what was pinned with it. Errors as `pin`."""
        return self._add(Unpin(id=EntryId.new(), entry=self.get(entry).id))

    # -- reading

    def get(self, entry: Named) -> ContextEntry:
        """Returns an entry by its id.

        Raises:
            ContextEntryUnknown: It cannot be seen from here.
        """
        of, name = self._place.of, entry.id if isinstance(entry, ContextEntry) else str(entry)
        if isinstance(entry, ContextEntry):
            found = self._log.store.read(lambda tx: finding.at_in(tx, of, entry.seq))
            if found is not None and found.id == name:
                return found
        segments = catch_up(self._log.store, of)
        row = self._log.store.read(lambda tx: named_in(tx, segments, name))
        made = None if row is None else read(row)
        if made is None:
            raise finding.unknown(name, of)
        return made

    def entries(
        self,
        limit: int = 100,
        *,
        before: int | None = None,
        after: int | None = None,
        kinds: Sequence[str] = (),
    ) -> list[ContextEntry]:
        """Reads entries, in order: the newest, or those before or after a number.

        Args:
            limit: How many at most, 1 to 10,000.
            before: Only entries with a lower number.
            after: The next ones after a number, instead of the newest; 0 for the first.
            kinds: Only these, such as ``["user", "memory"]``.

        Raises:
            InvalidInput: The limit is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ContextInvalid(f"a page of {limit} entries", hint=f"Ask for 1 to {MAX_PAGE:,} at a time.")
        if before is not None and after is not None:
            raise ContextInvalid("both before and after are given", hint="Give one of them.")
        of, words = self._place.of, tuple(f"{KIND}.{kind}" for kind in kinds) or (KIND,)

        def work(tx: Transaction) -> list[ContextEntry]:
            if after is not None:
                found = following_in(tx, of, after, limit, words)
            else:
                found = newest_in(tx, of, limit, before, words)
            return [made for entry in found if (made := read(entry)) is not None]

        return self._log.store.read(work)

    def prompt(
        self,
        budget_tokens: int,
        *,
        format: Literal["anthropic", "openai"] = "anthropic",
        tokenizer: str | Tokenizer = ESTIMATE,
        oversized: Oversized = "error",
    ) -> Prompt:
        """Makes what to give a model: the newest of the context, with the instructions and what is pinned.

        The same entries, budget, format and tokenizer give the same bytes, in every process and every fork. What was in
        a prompt stays in it, byte for byte, while the context grows, until a new generation begins: see
        `kibo.context.window`. Cost is in what it shows: 8,000 tokens of 100,000 entries take some milliseconds.

        Args:
            budget_tokens: How many tokens it may have.
            format: Whose form.
            tokenizer: What counts: ``"kibo-estimate-2"``, ``"tiktoken:o200k_base"``, or one of your own.
            oversized: What to do with an entry that is larger than the room for all of them: raise, leave it out, or
                show its beginning and its end.

        Raises:
            PromptTooLarge: What it must have is more than the budget, or an entry is larger than the room.
            ContextInvalid: The budget, the format or the tokenizer is none.
        """
        counting = _tokenizer(tokenizer)
        wanted = Wanted(budget_tokens, checked_format(format), counting, oversized)
        check_wanted(wanted)
        return self._log.store.read(lambda tx: prompt_in(tx, self._place.of, wanted))

    def search(self, query: str, limit: int = 10, *, embedding: Embedding | None = None) -> list[Hit]:
        """Finds entries that this branch sees, by their words, or by what an embedding says is near.

        By words: those that have all of them first, without regard to case; of the newest 1,000 that match. What is
        new is indexed first, about 0.2 ms an entry. By an embedding: all entries are compared, 10 us each.

        Args:
            query: What to look for.
            limit: How many at most, 1 to 1,000.
            embedding: What makes vectors of texts. Those of entries are kept, under its name.

        Returns:
            The best first.

        Raises:
            ContextInvalid: The query has no word, or a vector is none.
        """
        checked_text(query, "a query")
        if embedding is not None:
            return vectors.search(self._log.store, self._place.of, query, limit, embedding)
        return searching.search(self._log.store, self._place.of, query, limit)

    def memories(self, *, superseded: bool = False) -> list[Memory]:
        """Lists the memories that this branch sees, in order.

        Args:
            superseded: Whether to list those, too, that another took the place of.
        """
        kinds = (kind_of(Memory),)
        found = self._log.store.read(lambda tx: of_kinds_in(tx, self._place.of, kinds))
        made = [entry for each in found if isinstance(entry := read(each), Memory)]
        gone = {entry.supersedes for entry in made}
        return [entry for entry in made if superseded or entry.id not in gone]

    # -- compaction

    def compact(
        self,
        summarise: Summarise | None = None,
        *,
        keep_tokens: int = KEEP_TOKENS,
        tokenizer: str | Tokenizer = ESTIMATE,
    ) -> Summary | None:
        """Has a summary take the place of all but the newest entries in prompts. The entries stay readable.

        Args:
            summarise: Given the entries and the summary before them, or None, returns the text for both, or
                `Summarised` where it has not come to the end. By default sentences are picked, without a model.
            keep_tokens: How much of the newest is left as it is.
            tokenizer: What counts that.

        Returns:
            The summary, of 10,000 entries more at most; None where there is nothing to summarise.

        Raises:
            SummaryInvalid: The summariser claims to cover what it was not given. Nothing was written.
            Conflict: Another summary was written meanwhile. Call again.
            Exception: What the summariser raises, as it is. Nothing was written.
        """
        writer, counting = self._writer(), _tokenizer(tokenizer)
        stretch = self._log.store.read(
            lambda tx: compaction.stretch_in(tx, self._place.of, keep_tokens, counting)
        )
        if not stretch.units:
            return None
        made = compaction.summarised(stretch, summarise or extract, self._place.of)
        return writer.append(made, lambda tx: compaction.check_unmoved(tx, writer.branch, stretch.previous))

    # -- exchange

    def import_(
        self,
        messages: Iterable[Any],
        format: Literal["anthropic", "openai", "jsonl"],
        *,
        repair: bool = False,
    ) -> list[ContextEntry]:
        """Adds a list of messages, or the lines of an export, all or nothing. Errors as `user`.

        Args:
            messages: Messages; or lines of text, for ``"jsonl"``.
            format: Whose they are.
            repair: Whether halves of characters become U+FFFD, instead of an error.

        Raises:
            ContextInvalid: One is malformed; the error names its index.
            CallUnknown: A result has no call before it.
        """
        writer = self._writer()
        if format == "jsonl":
            lines = list(messages)
            empty = not self.entries(1)
            return writer.extend(lambda start: entries_from(lines, start, empty=empty))
        drafts = importing.entries_of(messages, checked_format(format), repair=repair)
        return writer.extend(lambda _start: drafts)

    def export(self, format: Literal["anthropic", "openai"]) -> list[dict[str, Any]]:
        """Writes all of the context as a provider's list of messages. See `export_lines` for what keeps all of it.

        Instructions are messages whose role is ``system``, the first ones. Notes and memories are a user's messages,
        marked; calls that wait for a result are left out.
        """
        return messages_of(self._all(), checked_format(format))

    def export_lines(self) -> Iterator[str]:
        """Writes all of the context as lines of JSON, from which ``import_(lines, "jsonl")`` makes the same again."""
        return lines_of(self._all())

    def _all(self) -> Iterator[ContextEntry]:
        after = 0
        while page := self.entries(_EXPORTED, after=after):
            yield from page
            after = page[-1].seq

    # -- inside

    def _add(self, entry: EntryT) -> EntryT:
        return self._writer().append(entry)

    def _writer(self) -> Writer:
        if self._place.writer is None:
            raise WrongState(
                f"the context of {self._place.of} can only be read",
                hint="Check the snapshot out as a branch: its context goes on from there.",
                details={"of": self._place.of},
            )
        return self._place.writer


#: The method of that name takes an argument of that name.
_tokenizer = tokenizer
