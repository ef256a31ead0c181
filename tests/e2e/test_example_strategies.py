"""The examples' own code, in directories in place of boxes: real files, real tests, a real endpoint."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from examples.agent.chat import Chat, ChatError
from examples.agent.demo import explored
from examples.agent.loop import MOST_TURNS, NoAnswer, work
from examples.agent.part import SCRIPT
from examples.agent.scripted import serving
from examples.fix_tests.coder import Coder
from examples.fix_tests.repository import FAILING, make_repository
from examples.fix_tests.strategies import STRATEGIES, careful, hasty

import kibo
from directory_worlds import Desk, DirectoryWorld
from kibo.model.errors import BudgetSpent, InstanceEnded, WrongState
from kibo.wiring import Runtime


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return DirectoryWorld(make_repository(tmp_path / "prices")).spawn()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    script = {
        **SCRIPT,
        "says hello": ["Hello."],
        "calls wrongly": [
            [("nothing", {}), ("edit", {"path": "no.py", "old": "", "new": ""}), ("read", {"wrong": 1})],
            "I give up.",
        ],
        "runs": [[("exec", {"command": "ls; exit 3"})], "Done."],
        "never ends": [[("failures", {})]] * (MOST_TURNS + 1),
    }
    with serving(script) as url:
        yield url


def git(desk: Desk, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=desk.branch.place, capture_output=True, text=True, check=True
    ).stdout


def test_the_repository_is_in_git_and_has_its_failures(desk):
    assert desk.failures() == FAILING
    assert git(desk, "status", "--porcelain") == ""


def test_one_strategy_mends_it_and_one_makes_it_worse(desk):
    one, two = desk.branch.fork(2)
    assert careful(one[desk]) is True
    assert one[desk].failures() == 0
    assert hasty(two[desk]) is False
    assert two[desk].failures() > FAILING
    assert desk.failures() == FAILING


def test_in_a_real_box_the_careful_one_mends_it_too(tmp_path):
    with closing(Runtime(tmp_path / "home")) as runtime, runtime.spawn(Coder()) as coder:
        coder.files.upload(make_repository(tmp_path / "prices"), "/work")
        assert coder.failures() == FAILING
        assert careful(coder) is True
        assert coder.failures() == 0
        assert "import unittest" in coder.read("tests/test_money.py")


def test_the_three_together_end_with_the_mended_repository(desk):
    found = kibo.explore(desk, STRATEGIES, budget=kibo.Budget(seconds=60), workers=3)
    assert {attempt.strategy: attempt.state for attempt in found.attempts} == {
        "careful": "won",
        "hasty": "finished",
        "stubborn": "stopped",
    }
    assert desk.failures() == 0
    changed = [line[3:] for line in git(desk, "status", "--porcelain").splitlines()]
    assert changed == ["prices/basket.py", "prices/money.py"]


def test_a_search_finds_the_order_of_three_fixes(desk):
    policy = kibo.TreeSearch(
        lambda _: ["rounding", "decimals", "first line"],
        lambda one: -one.failures(),
        width=1,
        depth=3,
        accept=bool,
    )
    found = kibo.explore(desk, [("fix", lambda one, hint: one.try_fix(hint) == 0)], policy=policy, workers=2)
    assert found.winner.depth == 3
    assert desk.failures() == 0


def test_agents_explore_and_the_best_world_wins(desk, endpoint):
    budget = kibo.Budget(tokens=500_000)
    found = explored(desk, Chat(endpoint, "scripted"), budget)
    assert found.winner.strategy == "careful"
    assert found.winner.score == 0
    assert desk.failures() == 0
    worlds = {attempt.strategy: attempt for attempt in found.attempts}
    assert worlds["hasty"].value == "It works now."  # it does not
    assert worlds["hasty"].score < -FAILING
    assert all(attempt.cost.tokens > 0 for attempt in found.attempts)
    assert budget.spent.tokens == sum(attempt.cost.tokens for attempt in found.attempts)


def test_agents_stop_when_their_tokens_are_spent(desk, endpoint):
    found = explored(desk, Chat(endpoint, "scripted"), kibo.Budget(tokens=1500))
    assert found.reason == "budget: tokens"
    assert desk.branch.status == "open"
    assert all(world.closed for world in desk.branch.family if world is not desk.branch)


def test_an_agent_answers(desk, endpoint):
    assert work(desk, Chat(endpoint, "m"), "Hello?", system="One who says hello.") == "Hello."


def test_what_goes_wrong_in_a_tool_is_told_to_the_model(desk, endpoint):
    with pytest.raises(TypeError):
        desk.read(wrong=1)  # a real instance raises InvalidArguments, which is told too
    seen: list[Any] = []

    class Chatty(Chat):
        def complete(self, messages: Any, tools: Any) -> Any:
            seen[:] = messages
            return super().complete(messages, tools)

    class Checked(Desk):
        def read(self, path: str = "", **wrong: Any) -> str:
            if wrong:
                raise kibo.KiboError(f"read() has no parameter {next(iter(wrong))!r}")
            return super().read(path)

    box = Checked(desk.branch, desk.key)
    assert work(box, Chatty(endpoint, "m"), "Try.", system="One who calls wrongly.") == "I give up."
    told = [message["content"] for message in seen if message["role"] == "tool"]
    assert told[0].startswith("error: there is no tool 'nothing'; there are exec, edit,")
    assert "No such file" in told[1]
    assert told[2] == "error: read() has no parameter 'wrong'"


def test_an_agent_may_run_commands(desk, endpoint):
    seen: list[Any] = []

    class Chatty(Chat):
        def complete(self, messages: Any, tools: Any) -> Any:
            seen[:] = messages
            return super().complete(messages, tools)

    assert work(desk, Chatty(endpoint, "m"), "Look.", system="One who runs.") == "Done."
    assert seen[-1]["content"] == "exit status 3\nprices\ntests\n"


def test_an_agent_without_an_end_is_ended(desk, endpoint):
    with pytest.raises(NoAnswer):
        work(desk, Chat(endpoint, "m"), "Go on.", system="One who never ends.")


def test_an_agent_whose_world_has_ended_stops(desk, endpoint):
    (branch,) = desk.branch.fork(1)
    branch.abort()
    with pytest.raises(WrongState):
        work(branch[desk], Chat(endpoint, "m"), "Look.", system="One who runs.")
    assert issubclass(InstanceEnded, WrongState)


def test_an_agent_without_tokens_stops(desk, endpoint):
    with pytest.raises(BudgetSpent):
        work(desk, Chat(endpoint, "m"), "Hello?", system="One who says hello.", budget=kibo.Budget(tokens=1))


def post(url: str, document: Any, path: str = "/chat/completions") -> tuple[int, Any]:
    request = urllib.request.Request(url + path, json.dumps(document).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_endpoint_is_the_same_each_time_and_refuses_what_the_real_one_refuses(endpoint):
    hello = [{"role": "system", "content": "One who says hello."}, {"role": "user", "content": "?"}]
    assert post(endpoint, {"messages": hello}) == post(endpoint, {"messages": hello})
    for messages, problem in (
        ([], "at least one message"),
        ([{"role": "system", "content": "nobody"}], "no part"),
        ([*hello, {"role": "assistant", "content": "Hello."}], "all were spoken"),
        ([*hello, {"role": "tool", "tool_call_id": "x", "content": ""}], "nobody called"),
        (
            [*hello, {"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "user", "content": ""}],
            "without an answer: a",
        ),
    ):
        status, answer = post(endpoint, {"messages": messages})
        assert (status, problem in answer["error"]["message"]) == (400, True)
    assert post(endpoint, {}, "/models")[0] == 404


def test_an_endpoint_that_is_not_there_is_an_error():
    chat = Chat("http://127.0.0.1:9/v1", "m", timeout_s=1)
    with pytest.raises(ChatError, match="does not answer"):
        chat.complete([], [])
