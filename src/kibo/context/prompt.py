"""A prompt: what a model is given of a context, decided purely by entries, budget, format and tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kibo.context.entries import Covered
from kibo.context.parts import Format
from kibo.context.rendering import Piece, before_piece, joined, pieces_of, system_piece, tokens_of
from kibo.context.shortening import shortened
from kibo.context.standing import Standing
from kibo.context.tokens import Tokenizer
from kibo.context.units import Grouped, Unit
from kibo.context.window import beginning, filling
from kibo.model.errors import ContextInvalid, PromptTooLarge
from kibo.model.ids import EntryId

#: What to do with an entry, or a call with its results, that is larger than all the room that a prompt has.
Oversized = Literal["error", "drop", "truncate"]
#: Why an entry is not in a prompt, besides being older than what is.
Why = Literal["oversized", "no call"]

MIN_BUDGET: Final = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a prompt is asked to be.

    Attributes:
        budget_tokens: How many tokens it may have.
        format: In whose form.
        tokenizer: What counts them.
        oversized: What to do with what is larger than the room.
    """

    budget_tokens: int
    format: Format
    tokenizer: Tokenizer
    oversized: Oversized = "error"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a prompt does not have, and nothing in it stands for.

    Attributes:
        through: The number of the newest entry that was left out for being too old, with all before it that are not
            pinned; 0 where there is none.
        others: Single entries that were left out, and why.
    """

    through: int = 0
    others: tuple[tuple[EntryId, Why], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.through or self.others)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to give a model.

    Attributes:
        messages: As the provider takes them; OpenAI's begin with the instructions.
        system: Anthropic's instructions, as blocks; empty for OpenAI.
        format: Whose form it has.
        tokens: How many it has: the sum over its lines, each with its role and its JSON, which is more than providers
            count.
        budget_tokens: How many it might have.
        tokenizer: The name of what counted them.
        entries: What is shown, in order.
        dropped: What is not.
        summarised: What a summary stands for; None where none does.
        shortened: Entries of which only the beginning and the end are shown.
        pending: Calls without a result yet, and what follows them: shown once all results are there.
        rendered: All of it as lines of canonical JSON, in the order in which a provider reads: what a provider's cache
            sees the beginning of.
        generation: Names the beginning. While it stays, so do all the bytes that were there.
        prefix_digest: The BLAKE2b-256 of `rendered`.
    """

    messages: list[dict[str, Any]]
    system: list[dict[str, Any]]
    format: Format
    tokens: int
    budget_tokens: int
    tokenizer: str
    entries: tuple[EntryId, ...]
    dropped: Dropped
    summarised: Covered | None
    shortened: tuple[EntryId, ...]
    pending: tuple[EntryId, ...]
    rendered: bytes
    generation: str
    prefix_digest: str


def check_wanted(wanted: Wanted) -> None:
    """Checks what a prompt is asked to be.

    Raises:
        ContextInvalid: The budget is none, or `oversized` is not one of its words.
    """
    if wanted.budget_tokens < MIN_BUDGET:
        raise ContextInvalid(
            f"a budget of {wanted.budget_tokens} tokens",
            hint=f"Give at least {MIN_BUDGET}; models take thousands.",
        )
    if wanted.oversized not in ("error", "drop", "truncate"):
        raise ContextInvalid(f"oversized={wanted.oversized!r}", hint="Use error, drop or truncate.")


def assemble(standing: Standing, grouped: Grouped, wanted: Wanted, *, whole: bool) -> Prompt | None:
    """Makes a prompt.

    Args:
        standing: What every prompt has.
        grouped: The newest of what comes after the standing summary.
        wanted: What it is to be.
        whole: Whether that is all of it.

    Returns:
        The prompt; None where it might begin with what was not given.

    Raises:
        PromptTooLarge: What it must have is more than its budget, or one entry is more than the room that is left.
    """
    fixed = _Fixed.of(standing, wanted)
    room = wanted.budget_tokens - fixed.size
    units = _Sized(grouped.units, {unit.id for unit in standing.pinned}, room, wanted)
    first = filling(units.sizes, room)
    if first == 0 and not whole:
        return None
    units.check_before(first, wanted)
    start = beginning(units.sizes, [unit.seq for unit in units.units], room)
    kept = [unit for unit in units.units[start:] if unit.id not in units.left_out]
    here = {unit.id for unit in kept}
    front = [unit for unit in standing.pinned if unit.id not in here]
    shown = [*(pieces_of(unit, wanted.format) for unit in (*front, *kept))]
    lead = [*fixed.summary, *(piece for pieces in shown[: len(front)] for piece in pieces)]
    body = [piece for pieces in shown[len(front) :] for piece in pieces]
    if wanted.format == "anthropic" and [*lead, *body][:1] and [*lead, *body][0].role != "user":
        lead.insert(0, before_piece())
    through = units.units[start - 1].last.seq if start else 0
    begins = kept[0].id if kept and start else ""
    if any(unit.id in units.cut or unit.id in units.left_out for unit in units.units[start:]):
        begins += f" {room}"  # how much is cut depends on it, and another pin takes of it
    return _made(
        wanted,
        fixed.system,
        lead,
        body,
        begins,
        entries=tuple(
            entry.id
            for unit in ([Unit((each,)) for each in standing.shown], front, kept)
            for each in unit
            for entry in each.entries
        ),
        dropped=Dropped(
            through,
            (
                *(
                    (entry.id, "oversized")
                    for unit in units.units[start:]
                    if unit.id in units.left_out
                    for entry in unit.entries
                ),
                *((entry.id, "no call") for entry in grouped.astray if entry.seq > through),
            ),
        ),
        summarised=None if standing.summary is None else standing.summary.covers,
        shortened=tuple(entry.id for unit in kept if unit.id in units.cut for entry in unit.entries),
        pending=tuple(entry.id for entry in grouped.pending),
    )


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What a prompt has in any case."""

    system: list[Piece]
    summary: list[Piece]
    size: int

    @classmethod
    def of(cls, standing: Standing, wanted: Wanted) -> _Fixed:
        count, form = wanted.tokenizer, wanted.format
        system = [system_piece(entry, form) for entry in standing.systems]
        summary = [] if standing.summary is None else pieces_of(Unit((standing.summary,)), form)
        sizes = {
            "system": tokens_of(system, count),
            "summary": tokens_of(summary, count),
            "pinned": sum(tokens_of(pieces_of(unit, form), count) for unit in standing.pinned),
            "beginning": before_piece().size(count) if form == "anthropic" else 0,
        }
        size = sum(sizes.values())
        if size > wanted.budget_tokens:
            pins = {unit.id: tokens_of(pieces_of(unit, form), count) for unit in standing.pinned}
            raise PromptTooLarge(
                f"what the prompt must have is {size:,} tokens, of a budget of {wanted.budget_tokens:,}: "
                + ", ".join(f"{name} {value:,}" for name, value in sizes.items() if value),
                hint="Give a larger budget_tokens, or unpin(...) the largest.",
                details={"budget_tokens": wanted.budget_tokens, "tokens": sizes, "pinned": pins},
            )
        return cls(system, summary, size)


class _Sized:
    """The newest units with their sizes in tokens, back to the first that leaves the room; too large ones as asked."""

    def __init__(self, units: Sequence[Unit], pinned: set[EntryId], room: int, wanted: Wanted) -> None:
        self.units: list[Unit] = []
        self.sizes: list[int] = []
        self.left_out: set[EntryId] = set()
        self.cut: set[EntryId] = set()
        self._room = room
        total = 0
        for unit in reversed(units):
            if total > room:
                break
            taken = unit
            # What is pinned has its room already.
            size = 0 if unit.id in pinned else tokens_of(pieces_of(unit, wanted.format), wanted.tokenizer)
            if size > room and wanted.oversized != "error":
                taken, size = self._reduced(unit, wanted)
            total += size
            self.units.append(taken)
            self.sizes.append(size)
        self.units.reverse()
        self.sizes.reverse()

    def _reduced(self, unit: Unit, wanted: Wanted) -> tuple[Unit, int]:
        cut = None
        if wanted.oversized == "truncate":
            cut = shortened(unit, self._room // 2, wanted.format, wanted.tokenizer)
        if cut is None:
            self.left_out.add(unit.id)
            return unit, 0
        self.cut.add(unit.id)
        return cut, tokens_of(pieces_of(cut, wanted.format), wanted.tokenizer)

    def check_before(self, first: int, wanted: Wanted) -> None:
        """Refuses a unit that is too large, where what comes after it is too little to be all that a prompt has."""
        if first == 0 or self.sizes[first - 1] <= self._room or 2 * sum(self.sizes[first:]) >= self._room:
            return
        unit, size = self.units[first - 1], self.sizes[first - 1]
        raise PromptTooLarge(
            f"entry {unit.id} is {size:,} tokens with what belongs to it, and there is room for {self._room:,}",
            hint='Use oversized="truncate" to show its beginning and its end, oversized="drop" to leave it out, '
            "or a larger budget_tokens.",
            details={
                "entry": unit.id,
                "tokens": size,
                "room_tokens": self._room,
                "budget_tokens": wanted.budget_tokens,
            },
        )


def _made(
    wanted: Wanted, system: list[Piece], lead: list[Piece], body: list[Piece], begins: str, **known: Any
) -> Prompt:
    anthropic = wanted.format == "anthropic"
    pieces = [*system, *lead, *body]
    rendered = _bytes(pieces)
    generation = hashlib.blake2b(_bytes([*system, *lead]) + begins.encode(), digest_size=16).hexdigest()
    return Prompt(
        messages=joined(pieces if not anthropic else [*lead, *body], wanted.format),
        system=[piece.value for piece in system] if anthropic else [],
        format=wanted.format,
        tokens=tokens_of(pieces, wanted.tokenizer),
        budget_tokens=wanted.budget_tokens,
        tokenizer=wanted.tokenizer.name,
        rendered=rendered,
        generation=generation,
        prefix_digest=hashlib.blake2b(rendered, digest_size=32).hexdigest(),
        **known,
    )


def _bytes(pieces: Sequence[Piece]) -> bytes:
    return "".join(f"{piece.line}\n" for piece in pieces).encode()
