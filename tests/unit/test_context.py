"""Prompts and messages, value by value: providers' rules, what is refused, and what a summariser may claim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contexts import checked_messages, context
from kibo.branch.history import History
from kibo.context.compaction import Summarised
from kibo.context.context import Context
from kibo.context.entries import Summary
from kibo.context.estimating import estimate
from kibo.context.parts import Opaque
from kibo.context.rendering import BEFORE, NO_RESULT
from kibo.context.tokens import Tokenizer
from kibo.model.errors import (
    CallUnknown,
    Conflict,
    ContextEntryUnknown,
    ContextInvalid,
    KiboError,
    PromptTooLarge,
    StoreDamaged,
    SummaryInvalid,
    WrongState,
)
from kibo.store.database import Store

CALL = {"id": "c1", "name": "look", "arguments": {"at": "door"}}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('contexts') / 'history.db'}") as store:
        yield History(store)


@pytest.fixture
def ctx(history: History) -> Context:
    return context(history, history.create().id)


# -- providers' rules


def test_anthropic_has_instructions_apart_and_results_first_in_the_next_turn(ctx: Context):
    ctx.system("Be brief.")
    ctx.user("look")
    ctx.assistant("I look", tool_calls=[CALL])
    ctx.note("a remark while it waits")
    ctx.tool_result("c1", "a door")
    ctx.user("and?")
    made = ctx.prompt(1000)
    checked_messages(made)
    assert made.system == [{"type": "text", "text": "Be brief."}]
    assert made.messages[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "door"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "a door"},
                {"type": "text", "text": "<note>\na remark while it waits\n</note>"},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_openai_has_each_result_after_the_message_that_called(ctx: Context):
    ctx.system("Be brief.")
    ctx.assistant("", tool_calls=[CALL, {"id": "c2", "name": "look"}])
    ctx.tool_result("c2", "two", error=True)
    ctx.tool_result("c1", "one")
    made = ctx.prompt(1000, format="openai")
    checked_messages(made)
    assert [message["role"] for message in made.messages] == ["system", "assistant", "tool", "tool"]
    assert made.messages[1]["content"] is None
    assert [message["content"] for message in made.messages[2:]] == ["one", "two"]
    assert made.messages[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"door"}'}


def test_a_conversation_that_a_model_begins_is_begun_for_anthropic(ctx: Context):
    ctx.assistant("hello")
    assert ctx.prompt(100).messages[0] == {"role": "user", "content": [{"type": "text", "text": BEFORE}]}
    assert ctx.prompt(100, format="openai").messages == [{"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize("format", ["anthropic", "openai"])
def test_a_call_is_not_shown_before_its_results_and_given_up_when_somebody_goes_on(ctx: Context, format: Any):
    ctx.user("look")
    before = ctx.prompt(1000, format=format)
    call = ctx.assistant("", tool_calls=[CALL])
    waiting = ctx.prompt(1000, format=format)
    assert waiting.rendered == before.rendered
    assert waiting.pending == (call.id,)
    ctx.user("never mind")
    after = ctx.prompt(1000, format=format)
    checked_messages(after)
    assert NO_RESULT in after.rendered.decode()
    assert after.rendered.startswith(before.rendered)
    with pytest.raises(CallUnknown) as refused:
        ctx.tool_result("c1", "too late")
    assert refused.value.details["waiting"] == []
    assert ctx.prompt(1000, format=format).rendered == after.rendered


def test_a_part_of_one_provider_is_carried_and_named_to_the_other(ctx: Context):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9000}}
    ctx.user(["what is this?", Opaque("anthropic", image, tokens=500)])
    made = ctx.prompt(1000)
    assert made.messages[0]["content"][1] == image
    assert 500 < made.tokens < 700
    told = ctx.prompt(1000, format="openai").messages[0]["content"]
    assert told == "what is this?[image of anthropic's format]"


@pytest.mark.parametrize(
    "arguments",
    [
        "{broken",
        '{"x": NaN}',
        '{"x": 1e999}',
        r'{"x": "\ud83d"}',
        "[" * 100_000,
        '{"x":' * 99 + "1" + "}" * 99,
    ],
    ids=["broken", "no number", "endless", "half a character", "deep and broken", "deep"],
)
def test_arguments_that_are_no_json_are_kept_as_they_came(ctx: Context, arguments: str):
    ctx.assistant("", tool_calls=[{"id": "c", "name": "f", "arguments": arguments}])
    ctx.tool_result("c", "no")
    assert ctx.prompt(500_000).messages[1]["content"][0]["input"] == {"arguments": arguments}
    assert ctx.export("anthropic")[0]["content"][0]["input"] == {"arguments": arguments}
    assert ctx.export("openai")[0]["tool_calls"][0]["function"]["arguments"] == arguments


# -- budgets


def test_pins_that_are_more_than_the_budget_are_an_error_with_their_sizes(ctx: Context):
    pinned = ctx.user("word " * 400)
    ctx.user("later")
    ctx.pin(pinned)
    with pytest.raises(PromptTooLarge) as refused:
        ctx.prompt(200)
    assert refused.value.details["pinned"] == {pinned.id: refused.value.details["tokens"]["pinned"]}
    assert refused.value.hint
    ctx.unpin(pinned)
    assert pinned.id not in ctx.prompt(200, oversized="drop").entries


def test_an_entry_larger_than_the_room_is_an_error_or_what_was_asked_for(ctx: Context):
    ctx.user("first")
    large = ctx.user("begin " + "word " * 2000 + " end")
    ctx.assistant("last")
    with pytest.raises(PromptTooLarge) as refused:
        ctx.prompt(400)
    assert refused.value.details["entry"] == large.id
    dropped = ctx.prompt(400, oversized="drop")
    assert dropped.dropped.others == ((large.id, "oversized"),)
    assert "first" in dropped.rendered.decode()
    cut = ctx.prompt(400, oversized="truncate")
    text = cut.messages[0]["content"][1]["text"]
    assert cut.shortened == (large.id,)
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "characters are left out here" in text
    assert ctx.get(large).text == large.text


def test_what_is_dropped_is_told_and_can_be_read(ctx: Context):
    for number in range(60):
        ctx.user(f"message {number}")
    made = ctx.prompt(300)
    left = ctx.entries(before=made.dropped.through + 1)
    assert [entry.id for entry in [*left]] + list(made.entries) == [entry.id for entry in ctx.entries()]


@pytest.mark.parametrize(
    "asked",
    [
        {"budget_tokens": 0},
        {"budget_tokens": 100, "format": "gemini"},
        {"budget_tokens": 100, "tokenizer": "none"},
        {"budget_tokens": 100, "oversized": "hide"},
    ],
)
def test_a_prompt_that_cannot_be_is_an_error(ctx: Context, asked: dict[str, Any]):
    with pytest.raises(ContextInvalid):
        ctx.prompt(**asked)


def test_a_tokenizer_of_ones_own_counts_and_is_named(ctx: Context):
    ctx.user("one two three")
    made = ctx.prompt(16, tokenizer=Tokenizer("blanks", lambda text: text.count(" ") + 1))
    assert (made.tokens, made.tokenizer) == (3, "blanks")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("word", 1),
        ("words", 2),
        ("a b", 2),
        ("1234", 2),
        ("a\n\n", 2),
        ("é", 1),
        ("日", 2),
        ("{}", 2),
    ],
)
def test_the_estimate_is_what_it_says(text: str, tokens: int):
    assert estimate(text) == tokens


# -- what is refused


@pytest.mark.parametrize("text", ["", "  \n", "half \ud800 a character", b"bytes", None, 5])
def test_a_message_that_says_nothing_or_is_no_text_is_refused(ctx: Context, text: Any):
    for add in (ctx.user, ctx.system, ctx.note, ctx.remember, ctx.assistant):
        with pytest.raises(ContextInvalid) as refused:
            add(text)
        assert refused.value.hint
    assert ctx.entries() == []


def test_half_a_character_is_repaired_where_that_is_asked_for(ctx: Context):
    message = {"role": "user", "content": "half \ud800"}
    with pytest.raises(ContextInvalid, match="message 0"):
        ctx.import_([message], "openai")
    assert ctx.import_([message], "openai", repair=True)[0].text == "half \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "calls",
    [
        [CALL, CALL],
        [{"name": "f"}],
        [{"id": "", "name": "f"}],
        [{"id": "c", "name": "x" * 1000}],
        [{"id": "c", "name": "f", "arguments": {"a": float("nan")}}],
        [{"id": "c", "name": "f", "arguments": {"a": object()}}],
        [{"id": "c", "name": "f", "extra": 1}],
        ["f"],
    ],
)
def test_calls_that_are_none_are_refused(ctx: Context, calls: Any):
    with pytest.raises(ContextInvalid):
        ctx.assistant("x", tool_calls=calls)
    assert ctx.entries() == []


def test_arguments_nested_without_end_are_refused(ctx: Context):
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ContextInvalid, match="nested"):
        ctx.tool_call("c", "f", deep)


def test_a_second_call_of_one_id_is_refused_while_the_first_waits(ctx: Context):
    ctx.tool_call("c", "f")
    with pytest.raises(ContextInvalid):
        ctx.tool_call("c", "f")
    ctx.tool_result("c", "done")
    ctx.tool_call("c", "f")


@pytest.mark.parametrize(
    ("format", "messages", "code"),
    [
        ("openai", [{"role": "tool", "tool_call_id": "c", "content": "x"}], "context.call_unknown"),
        ("openai", [{"role": "user"}], "context.invalid"),
        ("openai", [{"role": "robot", "content": "x"}], "context.invalid"),
        ("openai", ["x"], "context.invalid"),
        ("openai", "x", "context.invalid"),
        ("openai", [{"role": "user", "content": "x", "name": "ada"}], "context.invalid"),
        ("openai", [{"role": "assistant", "content": None}], "context.invalid"),
        ("openai", [{"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}], "context.invalid"),
        ("openai", [{"role": "user", "content": [{"text": "x"}]}], "context.invalid"),
        ("anthropic", [{"role": "user", "content": []}], "context.invalid"),
        ("anthropic", [{"role": "user", "content": [{"type": "text", "text": 5}]}], "context.invalid"),
        (
            "anthropic",
            [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]}],
            "context.call_unknown",
        ),
        (
            "anthropic",
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "c", "name": "f", "input": {}},
                        {"type": "text", "text": "after"},
                    ],
                }
            ],
            "context.invalid",
        ),
        (
            "anthropic",
            [{"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": "x"}]}],
            "context.invalid",
        ),
        ("jsonl", ["{"], "context.invalid"),
        ("jsonl", ['{"kind":"user"}'], "context.invalid"),
        ("jsonl", ['{"kibo":"context","version":1}', '{"kind":"user","seq":1,"body":{}}'], "context.invalid"),
        (
            "jsonl",
            [
                '{"kibo":"context","version":1}',
                '{"kind":"unpin","seq":1,"body":{"id":"ctx_00","entry":"ctx_01"}}',
            ],
            "context.invalid",
        ),
    ],
)
def test_a_malformed_import_says_where_and_what_to_do_and_writes_nothing(
    ctx: Context, format: Any, messages: Any, code: str
):
    good: list[Any] = (
        [] if format == "jsonl" or isinstance(messages, str) else [{"role": "user", "content": "good"}]
    )
    with pytest.raises(KiboError) as refused:
        ctx.import_(messages if isinstance(messages, str) else good + messages, format)
    assert refused.value.code == code
    assert refused.value.hint
    assert ctx.entries() == []
    if good:
        assert refused.value.details["index"] == 1


def test_where_to_cache_is_not_kept_and_other_blocks_are(ctx: Context):
    blocks = [
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
        {"type": "document", "title": "t"},
    ]
    ctx.import_([{"role": "user", "content": blocks}], "anthropic")
    assert ctx.export("anthropic")[0]["content"] == [
        {"type": "text", "text": "x"},
        {"type": "document", "title": "t"},
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"id":"ctx_0","parts":["half \\ud800"]}',
        b'{"id":"ctx_0","parts":[{"format":"openai","value":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}",
        {"id": "ctx_0", "parts": [{"format": "x"}]},
        {"id": "br_0", "parts": ["x"]},
        {"id": "ctx_0", "parts": "x"},
        {"id": "ctx_0", "parts": [5]},
        5,
    ],
)
def test_a_row_that_is_no_entry_is_told_as_damage(history: History, ctx: Context, body: Any):
    of = ctx._place.of
    history.log.append(of, "context.user", body)
    for attempt in (lambda: ctx.prompt(100), ctx.entries):
        with pytest.raises(StoreDamaged):
            attempt()
    assert ctx.search("anything") == []


def test_an_entry_of_a_kind_that_a_later_version_wrote_is_passed_over(history: History, ctx: Context):
    history.log.append(ctx._place.of, "context.unheard_of", b"\xff")
    said = ctx.user("x")
    assert ctx.entries() == [said]
    assert ctx.prompt(100).entries == (said.id,)


def test_an_entry_that_is_not_there_and_a_snapshot_that_is_written(history: History, ctx: Context):
    with pytest.raises(ContextEntryUnknown):
        ctx.get("ctx_0123")
    said = ctx.user("x")
    sealed = context(history, history.snapshot(ctx._place.of, {"n": 1}).id)
    assert sealed.prompt(100).entries == (said.id,)
    for attempt in (lambda: sealed.user("y"), sealed.compact, lambda: sealed.pin(said)):
        with pytest.raises(WrongState):
            attempt()


def test_a_call_without_a_result_cannot_be_pinned_and_one_with_is_pinned_whole(ctx: Context):
    call = ctx.assistant("", tool_calls=[CALL])
    with pytest.raises(WrongState):
        ctx.pin(call)
    result = ctx.tool_result("c1", "a door")
    ctx.pin(result)
    for number in range(100):
        ctx.user(f"message {number}")
    made = ctx.prompt(400)
    assert made.entries[:2] == (call.id, result.id)
    checked_messages(made)


# -- summaries


def filled(ctx: Context, count: int = 20) -> list[str]:
    return [ctx.user(f"message {number}").id for number in range(count)]


def test_a_summary_stands_for_what_it_covers_which_stays_readable(ctx: Context):
    known = filled(ctx)
    made = ctx.compact(lambda entries, before: f"{len(entries)} things", keep_tokens=60)
    assert made is not None
    assert made.covers.first == known[0]
    covered = known[: made.covers.count]
    shown = ctx.prompt(1000)
    assert shown.summarised == made.covers
    assert shown.entries == (made.id, *known[made.covers.count :])
    assert "things" in shown.rendered.decode()
    assert [ctx.get(entry).id for entry in covered] == covered
    again = ctx.compact(lambda entries, before: f"{before.text if before else ''} and more", keep_tokens=0)
    assert again is not None
    assert (again.covers.first, again.covers.count) == (known[0], 20)
    assert ctx.prompt(1000).entries == (again.id,)
    assert ctx.compact(keep_tokens=0) is None


@pytest.mark.parametrize("lie", ["more", "other", "middle", "none", "half a call"])
def test_a_summariser_that_lies_about_its_coverage_changes_nothing(ctx: Context, lie: str):
    ctx.assistant("", tool_calls=[CALL])
    ctx.tool_result("c1", "a door")
    filled(ctx)

    def summarise(entries: Any, before: Any) -> Summarised:
        given = [entry.id for entry in entries]
        claimed = {
            "more": [*given, "ctx_00"],
            "other": ["ctx_00"],
            "middle": given[3:5],
            "none": [],
            "half a call": given[:1],
        }[lie]
        return Summarised("a summary", claimed)

    before = ctx.prompt(2000)
    with pytest.raises(SummaryInvalid):
        ctx.compact(summarise, keep_tokens=60)
    assert ctx.entries(kinds=["summary"]) == []
    assert ctx.prompt(2000).rendered == before.rendered


@pytest.mark.parametrize("text", ["", " ", None, 5, "\ud800"])
def test_a_summary_that_is_no_text_changes_nothing(ctx: Context, text: Any):
    filled(ctx)
    with pytest.raises(SummaryInvalid):
        ctx.compact(lambda entries, before: text, keep_tokens=0)
    assert ctx.entries(kinds=["summary"]) == []


def test_what_a_summariser_raises_is_told_and_changes_nothing(ctx: Context):
    filled(ctx)
    with pytest.raises(ZeroDivisionError):
        ctx.compact(lambda entries, before: str(1 // 0), keep_tokens=0)
    assert ctx.entries(kinds=["summary"]) == []


def test_of_two_summaries_at_once_the_second_is_refused(ctx: Context):
    filled(ctx)

    def slow(entries: Any, before: Summary | None) -> str:
        ctx.compact(lambda entries, before: "the first", keep_tokens=0)
        return "the second"

    with pytest.raises(Conflict):
        ctx.compact(slow, keep_tokens=0)
    assert [entry.text for entry in ctx.entries(kinds=["summary"])] == ["the first"]


def test_a_summariser_may_stop_early_and_the_next_goes_on_from_there(ctx: Context):
    known = filled(ctx)
    made = ctx.compact(
        lambda entries, _: Summarised("five", [entry.id for entry in entries[:5]]), keep_tokens=0
    )
    assert made is not None
    assert ctx.prompt(1000).entries == (made.id, *known[5:])
    seen: list[str] = []
    ctx.compact(lambda entries, before: seen.extend(entry.id for entry in entries) or "rest", keep_tokens=0)
    assert seen == known[5:]


def test_the_summary_that_needs_no_model_is_the_same_each_time_and_bounded(ctx: Context):
    for number in range(300):
        ctx.user(f"The checkout fails with error {number % 7}. " + "It happens on Mondays. " * 3)
    sizes = []
    for _ in range(2):
        made = ctx.compact(keep_tokens=0)
        if made is None:
            break
        sizes.append(estimate(made.text))
        assert "checkout" in made.text
    assert sizes
    assert max(sizes) <= 600


def test_instructions_and_notes_written_while_a_call_waits_survive_a_summary(ctx: Context):
    ctx.system("Be brief.")
    filled(ctx, 3)
    ctx.assistant("", tool_calls=[CALL])
    note = ctx.note("while it waits")
    ctx.compact(lambda entries, before: "before", keep_tokens=0)
    ctx.tool_result("c1", "a door")
    made = ctx.prompt(1000)
    assert "Be brief." in str(made.system)
    assert note.id in made.entries
    checked_messages(made)


def test_lines_of_a_context_make_the_same_prompts_elsewhere(history: History, ctx: Context, tmp_path: Path):
    ctx.system("Be brief.")
    known = filled(ctx)
    ctx.pin(known[2])
    ctx.remember("a fact", source=known[0])
    ctx.compact(lambda entries, before: "before", keep_tokens=80)
    file = tmp_path / "context.jsonl"
    file.write_text("\n".join(ctx.export_lines()))
    other = context(history, history.create().id)
    other.import_(file.read_text().splitlines(), "jsonl")
    assert other.prompt(1000).rendered == ctx.prompt(1000).rendered
    assert not {entry.id for entry in other.entries()} & {entry.id for entry in ctx.entries()}
    with pytest.raises(ContextInvalid):  # the summary would stand for what is there
        other.import_(file.read_text().splitlines(), "jsonl")
