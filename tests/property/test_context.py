"""Prompts over random histories with forks, tools, pins, merges and compactions: what never changes in them."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

import databases
from contexts import checked_messages, context, lines
from kibo.branch.history import History
from kibo.context.context import Context
from kibo.context.estimating import estimate
from kibo.context.prompt import Prompt
from kibo.context.tokens import tokenizer
from kibo.context.window import beginning, filling, level
from kibo.model.errors import CallUnknown, PromptTooLarge, WrongState
from kibo.store.database import Store
from prompter import Ask, prompter

FORMATS = st.sampled_from(["anthropic", "openai"])
BUDGETS = st.sampled_from([300, 900, 4000])
TEXTS = st.text("ab cé日\n", min_size=1, max_size=120).filter(str.strip)


@pytest.fixture(scope="module", autouse=True)
def _elsewhere() -> Iterator[None]:
    """Another process, which each prompt of this one is held against."""
    with prompter() as Contexts.elsewhere:
        yield


def is_part(early: Prompt, late: Prompt) -> bool:
    return late.rendered.startswith(early.rendered)


class Contexts(RuleBasedStateMachine):
    """Branches whose contexts are written, forked, compacted and merged; each prompt is held against all before."""

    branches = Bundle("branches")
    elsewhere: ClassVar[Ask]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-context-"))
        self.url = databases.new_history(self.place)
        self.history = History(Store.open(self.url))
        #: By what was asked for: the prompts of a branch, its ancestors' before the fork included.
        self.made: dict[str, dict[Any, list[Prompt]]] = {}
        self.waiting: dict[str, list[str]] = {}
        self.numbers = itertools.count()

    def teardown(self) -> None:
        self.history.store.close()
        shutil.rmtree(self.place)

    def of(self, branch: str) -> Context:
        return context(self.history, branch)

    @rule(target=branches)
    def create(self) -> str:
        branch = self.history.create().id
        self.made[branch], self.waiting[branch] = {}, []
        self.of(branch).system("Be brief.")
        return branch

    @rule(target=branches, parent=branches)
    def fork(self, parent: str) -> str:
        (made,) = self.history.fork(parent)
        self.made[made.id] = {key: list(known) for key, known in self.made[parent].items()}
        self.waiting[made.id] = list(self.waiting[parent])
        return made.id

    @rule(branch=branches, text=TEXTS, times=st.integers(1, 6))
    def say(self, branch: str, text: str, times: int) -> None:
        for _ in range(times):
            self.of(branch).user(text)
        self.waiting[branch] = []

    @rule(branch=branches, text=TEXTS, count=st.integers(0, 3))
    def answer(self, branch: str, text: str, count: int) -> None:
        calls = [
            {"id": f"c{next(self.numbers)}", "name": "look", "arguments": {"at": text}} for _ in range(count)
        ]
        self.of(branch).assistant(text, tool_calls=calls)
        self.waiting[branch] = [call["id"] for call in calls]

    @rule(branch=branches, text=TEXTS)
    def call(self, branch: str, text: str) -> None:
        called = f"c{next(self.numbers)}"
        self.of(branch).tool_call(called, "look", {"at": text})
        self.waiting[branch].append(called)

    @rule(branch=branches, text=TEXTS, last=st.booleans())
    def result(self, branch: str, text: str, last: bool) -> None:
        if not self.waiting[branch]:
            with pytest.raises(CallUnknown):
                self.of(branch).tool_result("c0", text)
            return
        self.of(branch).tool_result(self.waiting[branch].pop(-1 if last else 0), text)

    @rule(branch=branches, text=TEXTS, kind=st.sampled_from(["note", "remember"]))
    def remark(self, branch: str, text: str, kind: str) -> None:
        getattr(self.of(branch), kind)(text)

    @rule(branch=branches, other=st.binary(max_size=9))
    def write_elsewhere(self, branch: str, other: bytes) -> None:
        self.history.log.extend(branch, [("message", other)] * (1 + len(other)))

    @rule(branch=branches, back=st.integers(0, 9))
    def pin(self, branch: str, back: int) -> None:
        found = self.of(branch).entries(10, kinds=["user", "assistant", "tool_result", "note"])
        if found:
            with contextlib.suppress(WrongState):  # it belongs to a call that has no result yet
                self.of(branch).pin(found[back % len(found)])

    @rule(branch=branches)
    def unpin(self, branch: str) -> None:
        for pin in self.of(branch).entries(1, kinds=["pin"]):
            self.of(branch).unpin(pin.entry)  # type: ignore[attr-defined]

    @rule(branch=branches, keep=st.sampled_from([0, 50, 400]))
    def compact(self, branch: str, keep: int) -> None:
        before = [entry.id for entry in self.of(branch).entries(10_000)]
        self.of(branch).compact(lambda entries, previous: f"{len(entries)} more", keep_tokens=keep)
        assert [entry.id for entry in self.of(branch).entries(10_000)][: len(before)] == before

    @rule(branch=branches)
    def merge(self, branch: str) -> None:
        record = self.history.get(branch)
        if record.parent is None or record.status in ("committed", "aborted"):
            return
        (child,) = self.history.fork(branch)
        self.of(child.id).user("a merged word")
        self.of(branch).note("meanwhile")
        self.history.snapshot(branch, {"n": next(self.numbers)})
        self.history.snapshot(child.id, {"n": next(self.numbers)})
        heads = (self.history.get(branch).head, self.history.get(child.id).head)
        self.history.record_merge(child.id, {"n": next(self.numbers)}, heads)
        self.waiting[branch] = []

    @rule(branch=branches, format=FORMATS, budget=BUDGETS, how=st.sampled_from(["drop", "truncate"]))
    def prompt(self, branch: str, format: Any, budget: int, how: Any) -> None:
        known = self.made[branch].setdefault((format, budget, how), [])
        told = type(self).elsewhere(self.url, branch, budget, format, how)
        try:
            made = self.of(branch).prompt(budget, format=format, oversized=how)
        except PromptTooLarge:
            assert told == ["", PromptTooLarge.code]
            known.clear()
            return
        assert told == [made.rendered.decode(), made.generation], "another process makes another prompt"
        checked_messages(made)
        assert made.tokens <= budget
        assert made.tokens == sum(estimate(line) for line in lines(made.rendered))
        again = self.of(branch).prompt(budget, format=format, oversized=how)
        assert again.rendered == made.rendered
        for early in known:
            if early.generation == made.generation:
                assert is_part(early, made), "a prompt of one generation is no beginning of a later one"
            else:
                first = lines(early.rendered)[:1], lines(made.rendered)[:1]
                assert first[0] == first[1], "a new generation has other instructions"
        self.pinned_is_there(branch, made)
        known.append(made)

    def pinned_is_there(self, branch: str, made: Prompt) -> None:
        pinned: dict[str, set[str]] = {}
        for entry in self.of(branch).entries(10_000, kinds=["pin", "unpin"]):
            if entry.word == "pin":
                pinned[entry.entry] = {held.id for held in entry.held}  # type: ignore[attr-defined]
            else:
                pinned = {k: v for k, v in pinned.items() if entry.entry not in v}  # type: ignore[attr-defined]
        assert set().union(*pinned.values()) <= set(made.entries)


Contexts.TestCase.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)
TestContexts = Contexts.TestCase


@given(st.lists(st.integers(1, 40), min_size=1, max_size=300), st.integers(40, 200))
@settings(max_examples=60)
def test_the_beginning_moves_forward_only_seldom_and_never_leaves_less_than_half(sizes: list[int], room: int):
    seqs = [2 * number + 1 for number in range(len(sizes))]
    last, moves = 0, 0
    for end in range(1, len(sizes) + 1):
        start = beginning(sizes[:end], seqs[:end], room)
        assert sum(sizes[start:end]) <= room
        assert start >= last
        if start:
            assert 2 * sum(sizes[start:end]) >= room or start == filling(sizes[:end], room)
        moves += start != last
        last = start
    assert moves <= 4 + 6 * sum(sizes) / room


@given(st.lists(st.integers(1, 1 << 40), min_size=2, max_size=50, unique=True))
def test_exactly_one_of_any_neighbours_has_the_highest_level(numbers: list[int]):
    numbers.sort()
    levels = [level(a, b) for a, b in itertools.pairwise(numbers)]
    assert levels.count(max(levels)) == 1


@given(st.lists(TEXTS, min_size=1, max_size=60), BUDGETS, FORMATS)
@settings(max_examples=12)
def test_a_fork_has_all_the_bytes_of_its_ancestor(texts: list[str], budget: int, format: Any):
    place = Path(tempfile.mkdtemp(prefix="kibo-context-"))
    try:
        with Store.open(databases.new_history(place)) as store:
            history = History(store)
            main = history.create().id
            for text in texts:
                context(history, main).user(text)
            before = context(history, main).prompt(budget, format=format, oversized="drop")
            for fork in history.fork(main, 2):
                child = context(history, fork.id)
                assert child.prompt(budget, format=format, oversized="drop").rendered == before.rendered
                child.assistant("and on")
                after = child.prompt(budget, format=format, oversized="drop")
                assert after.generation != before.generation or is_part(before, after)
    finally:
        shutil.rmtree(place)


MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS}),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": st.none() | TEXTS,
            "tool_calls": st.lists(
                st.tuples(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2)), min_size=1, max_size=3
            ),
        }
    ),
)


def conversation(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI's messages, in which each call has its result."""
    made: list[dict[str, Any]] = []
    for number, message in enumerate(drawn):
        calls = [
            {
                "id": f"c{number}.{n}",
                "type": "function",
                "function": {"name": "f", "arguments": json.dumps(arguments)},
            }
            for n, (_, arguments) in enumerate(message.get("tool_calls", ()))
        ]
        made.append(message | ({"tool_calls": calls} if calls else {}))
        results = [text for text, _ in message.get("tool_calls", ())]
        made += [
            {"role": "tool", "tool_call_id": call["id"], "content": text}
            for call, text in zip(calls, results, strict=True)
        ]
    return made


@given(st.lists(MESSAGE, max_size=12))
@settings(max_examples=12)
def test_messages_are_exported_as_they_were_imported(drawn: list[dict[str, Any]]):
    place = Path(tempfile.mkdtemp(prefix="kibo-context-"))
    try:
        with Store.open(databases.new_history(place)) as store:
            history = History(store)
            one, two, three = (context(history, history.create().id) for _ in range(3))
            messages = conversation(drawn)
            one.import_(messages, "openai")
            assert one.export("openai") == messages
            two.import_(one.export("anthropic"), "anthropic")
            assert two.export("anthropic") == one.export("anthropic")
            three.import_(one.export_lines(), "jsonl")
            assert three.export("openai") == messages
            assert [e.word for e in three.entries(1000)] == [e.word for e in one.entries(1000)]
    finally:
        shutil.rmtree(place)


def test_the_default_tokenizer_has_a_name_that_reports_tell():
    assert tokenizer().name == "kibo-estimate-2"
