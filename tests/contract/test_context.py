"""Contexts over every database: what is found and seen from where, and what goes with its branch."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import delete, func, select

from contexts import context
from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.context.vectors import Embedding
from kibo.model.errors import (
    CallUnknown,
    ContextEntryUnknown,
    ContextInvalid,
    WrongState,
)
from kibo.store.database import Store
from kibo.store.prepared import Prepared
from kibo.store.schema import context_vectors, context_words, entries


def texts(hits: list) -> list[str]:
    return [hit.entry.text for hit in hits]


def rows(store: Store, table) -> int:
    return store.read(lambda tx: tx.row(Prepared(select(func.count()).select_from(table))))[0]


def test_a_search_finds_words_without_case_the_entries_that_have_all_of_them_first(history: History):
    ctx = context(history, history.create().id)
    ctx.user("The checkout fails with a TIMEOUT after 30 s")
    ctx.assistant("I raise the timeout")
    ctx.note("checkout is slow on Mondays")
    ctx.user("nothing of that")
    assert texts(ctx.search("timeout in checkout"))[0] == "The checkout fails with a TIMEOUT after 30 s"
    assert set(texts(ctx.search("timeout in checkout"))) == {
        "The checkout fails with a TIMEOUT after 30 s",
        "I raise the timeout",
        "checkout is slow on Mondays",
    }
    assert texts(ctx.search("Timeout", limit=1)) == ["I raise the timeout"]
    assert texts(ctx.search("elsewhere")) == []


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("a of an in", "OF"),
        ("ÉCOLE primaire", "école"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e 5", "STRASSE"),
        ("日本語の文章です", "文章"),
        ("ключ от двери", "Двери"),
        ("x1 = y2 + 'the'", "the"),
        ("the or and not near", "or and not"),
        ('50% of "it" * ( ) : - +', '50% "it" *'),
        ("w" * 200 + " end", "end"),
        ("hand_written snake_case", "case"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}\N{FULLWIDTH LATIN CAPITAL LETTER B}", "ab"),
    ],
)
def test_words_are_the_same_on_every_database(history: History, said: str, asked: str):
    ctx = context(history, history.create().id)
    ctx.user(said)
    ctx.user("something else")
    assert texts(ctx.search(asked)) == [said]


@pytest.mark.parametrize("query", ["", " ", "!?*", "'\"--;"])
def test_a_query_without_words_is_an_error(history: History, query: str):
    with pytest.raises(ContextInvalid):
        context(history, history.create().id).search(query)


def test_nothing_of_a_sibling_is_found_or_seen_and_all_of_an_ancestor_is(history: History):
    main = history.create().id
    root = context(history, main)
    before = root.user("the shared secret word")
    one, two = (context(history, fork.id) for fork in history.fork(main, 2))
    mine, theirs = one.user("one knows the secret"), two.user("two knows the secret")
    root.user("the parent goes on about the secret")
    assert {hit.entry.id for hit in one.search("secret")} == {before.id, mine.id}
    assert {hit.entry.id for hit in two.search("secret")} == {before.id, theirs.id}
    assert [entry.id for entry in one.entries()] == [before.id, mine.id]
    for attempt in (one.get, one.pin, lambda entry: one.remember("x", source=entry)):
        for known in (theirs, theirs.id):
            with pytest.raises(ContextEntryUnknown):
                attempt(known)


def test_what_a_commit_brings_is_found_and_what_an_abort_ends_is_not(history: History):
    main = history.create().id
    one, two = history.fork(main, 2)
    won = context(history, one.id).remember("oat milk is sold out")
    context(history, two.id).remember("the shop has no oat milk")
    history.commit(one.id, {"n": 1})
    history.abort(two.id)
    assert [hit.entry.id for hit in context(history, main).search("oat milk")] == [won.id]
    assert [memory.id for memory in context(history, main).memories()] == [won.id]


def test_what_a_loser_learned_is_promoted_into_its_parent_alone(history: History):
    main = history.create().id
    one, two = history.fork(main, 2)
    loser = context(history, two.id, parent=main)
    learned = loser.remember("the till closes at five")
    history.commit(one.id, {"n": 1})
    history.abort(two.id)
    promoted = loser.promote(learned)
    assert promoted.source == learned.id
    assert promoted.branch == two.id
    assert [memory.text for memory in context(history, main).memories()] == ["the till closes at five"]
    with pytest.raises(WrongState):
        context(history, main).promote(promoted)


def test_a_memory_that_is_superseded_is_listed_only_where_asked_for(history: History):
    ctx = context(history, history.create().id)
    source = ctx.user("it is six now")
    old = ctx.remember("closes at five")
    new = ctx.remember("closes at six", source=source, supersedes=old)
    assert [memory.id for memory in ctx.memories()] == [new.id]
    assert [memory.id for memory in ctx.memories(superseded=True)] == [old.id, new.id]
    assert ctx.memories()[0].source == source.id
    with pytest.raises(ContextInvalid):
        ctx.remember("x", supersedes=source)


def test_ids_stay_after_a_merge_and_entries_are_found_by_them(history: History):
    main = history.create(world={"n": 0}).id
    context(history, main).user("base")
    (fork,) = history.fork(main)
    child = context(history, fork.id)
    calls = child.assistant("", tool_calls=[{"id": "c", "name": "look", "arguments": {}}])
    answer = child.tool_result("c", "found it")
    context(history, main).user("meanwhile")
    history.snapshot(main, {"n": 1})
    history.snapshot(fork.id, {"n": 2})
    history.record_merge(fork.id, {"n": 3}, (history.get(main).head, history.get(fork.id).head))
    root = context(history, main)
    assert [entry.text for entry in root.entries()] == ["base", "meanwhile", "", "found it"]
    found = root.get(answer)
    assert (found.id, found.origin) == (answer.id, fork.id)
    assert [held.id for held in root.pin(answer).held] == [calls.id, answer.id]


def test_the_index_is_made_again_where_it_was_lost(history: History, store: Store):
    ctx = context(history, history.create().id)
    said = ctx.user("find me")
    assert [hit.entry.id for hit in ctx.search("find")] == [said.id]
    store.write(lambda tx: tx.run(Prepared(delete(context_words))))
    assert [hit.entry.id for hit in ctx.search("find")] == [said.id]
    assert ctx.get(said.id) == said


def test_what_is_derived_goes_with_its_branch(history: History, store: Store):
    main = history.create(world={"n": 0}).id
    context(history, main).user("kept in the root")
    (fork,) = history.fork(main)
    child = context(history, fork.id)
    child.user("gone with the fork")
    seen = Embedding("letters", lambda given: [[float(len(text)), 1.0] for text in given])
    assert len(child.search("fork", embedding=seen)) == 2
    kept = rows(store, entries), rows(store, context_words), rows(store, context_vectors)
    assert kept == (2, 2, 2)
    history.abort(fork.id)
    history.collect(Retention(closed_s=0), names=lambda world: ())
    assert (rows(store, entries), rows(store, context_words), rows(store, context_vectors)) == (1, 1, 1)
    assert texts(context(history, main).search("root fork")) == ["kept in the root"]


def test_vectors_order_by_nearness_and_are_asked_for_once(history: History):
    ctx = context(history, history.create().id)
    asked: list[str] = []

    def embed(given):
        asked.extend(given)
        return [[float(text.count("a")), float(text.count("b"))] for text in given]

    ctx.user("aaa")
    ctx.user("bbb")
    ctx.user("aab")
    seen = Embedding("letters", embed)
    assert texts(ctx.search("a", embedding=seen)) == ["aaa", "aab", "bbb"]
    assert texts(ctx.search("b", 2, embedding=seen)) == ["bbb", "aab"]
    assert sorted(asked) == ["a", "aaa", "aab", "b", "bbb"]
    for bad in ([[1.0]], [[1.0, float("nan")]], [], [[1.0, 2.0, 3.0]]):
        with pytest.raises(ContextInvalid):
            ctx.search("a", embedding=Embedding("letters", lambda given, bad=bad: bad))


def test_several_that_search_at_once_index_each_entry_once(history: History, store: Store):
    main = history.create().id
    ctx = context(history, main)
    ctx.import_([{"role": "user", "content": f"word {number}"} for number in range(1500)], "openai")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(ctx.search("word", 1000)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1000] * 4
    assert rows(store, context_words) == 1500


def test_of_two_results_at_once_one_is_taken(history: History):
    ctx = context(history, history.create().id)
    ctx.assistant("", tool_calls=[{"id": "c", "name": "look", "arguments": {}}])
    ended: list[str] = []

    def answer() -> None:
        try:
            ctx.tool_result("c", "done")
            ended.append("taken")
        except CallUnknown:
            ended.append("refused")

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["refused"] * 3 + ["taken"]


def test_a_prompt_is_the_same_on_every_database(history: History):
    ctx = context(history, history.create().id)
    ctx.system("Be brief.")
    pinned = ctx.user("pinned")
    ctx.import_([{"role": "user", "content": f"message {number}"} for number in range(200)], "openai")
    ctx.pin(pinned)
    ctx.compact(lambda known, before: f"{len(known)} of them", keep_tokens=900)
    made = ctx.prompt(600)
    assert made.tokens <= 600
    # A change of this is a change of all prompts' bytes: no provider's cache would know them.
    assert made.prefix_digest == "466ad6e41ef348abc89d6bcff4cc9dc923423a57a8fa0a5e1048f6bac0b66c2a"
