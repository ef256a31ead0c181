"""Monte Carlo tree search: where to go on is a bet between what paid and what was seldom tried.

Each rollout goes down from the explored world by the bound UCT, tries one new move there, scores the world it leads to,
and counts the score for all worlds above. Source: Kocsis and Szepesvári, Bandit based Monte-Carlo Planning, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from kibo.branch.explore.decisions import (
    Action,
    Answered,
    Ask,
    BudgetSpent,
    Event,
    Failed,
    Finished,
    Score,
    Scored,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.policies.beam import Ranked, end, rank
from kibo.branch.explore.policies.moves import Move, Setting, answered, every
from kibo.branch.explore.strategy import Strategy

Key = int | None  # an attempt, or the explored world
Nodes = Mapping[Key, "Node"]


@dataclass(frozen=True)
class Node:
    """One world of the tree.

    Attributes:
        parent: What it was forked from.
        depth: 0 for the explored world.
        state: ``out`` (not scored), ``open``, ``asked`` (what can be tried from it) or ``dead`` (nothing comes of it).
        visits: Rollouts that went through it, those under way included: so that others look elsewhere meanwhile.
        total: The sum of their scores.
        score: Its own.
        moves: What can be tried from it; None where that is not known.
        tried: How many of them were.
        children: What they led to.
    """

    parent: Key
    depth: int
    state: Literal["out", "open", "asked", "dead"] = "out"
    visits: int = 0
    total: float = 0.0
    score: float = 0.0
    moves: tuple[Move, ...] | None = None
    tried: int = 0
    children: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    """What the search knows: its worlds, rollouts begun, what is under way, attempts made, and the best world."""

    strategies: tuple[Strategy, ...]
    nodes: Nodes = field(default_factory=lambda: {None: Node(None, 0, "open")})
    begun: int = 0
    out: int = 0
    made: int = 0
    best: Ranked | None = None


@dataclass(frozen=True)
class Uct:
    """The settings that Monte Carlo tree search adds; see `TreeSearch`."""

    constant: float
    rollouts: int
    at_once: int


def start(task: Task) -> Tree:
    """See `Policy`."""
    return Tree(task.strategies)


def step(setting: Setting, uct: Uct, state: Tree, event: Event) -> tuple[Tree, list[Action]]:
    """See `Policy`."""
    nodes = dict(state.nodes)
    match event:
        case Started():
            return _grow(setting, uct, state, nodes, [])
        case Answered((key,)):
            moves = () if event.error else answered(state.strategies, event.value)[: setting.width]
            nodes[key] = replace(nodes[key], state="dead" if event.error else "open", moves=moves)
            return _grow(setting, uct, replace(state, out=state.out - 1), nodes, [])
        case Finished(number) if setting.wins(event):
            return state, [Win(number)]
        case Finished(number):
            return state, [Score(number, setting.score)]
        case Scored(number, score):
            nodes[number] = replace(nodes[number], state="open", score=score)
            _count(nodes, number, 0, score)
            best = min(filter(None, (state.best, (score, number))), key=rank)
            return _grow(setting, uct, replace(state, out=state.out - 1, best=best), nodes, [])
        case Failed(number):
            nodes[number] = replace(nodes[number], state="dead")
            return _grow(setting, uct, replace(state, out=state.out - 1), nodes, [Stop(number)])
        case BudgetSpent("branches"):
            return replace(state, begun=uct.rollouts), []  # what is under way is the last
        case BudgetSpent():
            return state, [end(setting, state.best)]
    return state, []


def bound(constant: float, node: Node, parent: Node) -> float:
    """Returns the upper confidence bound of a world: its mean score, and more the less it was tried."""
    mean = node.total / node.visits
    return mean + constant * math.sqrt(math.log(parent.visits) / node.visits)


def _grow(
    setting: Setting, uct: Uct, state: Tree, nodes: dict[Key, Node], actions: list[Action]
) -> tuple[Tree, list[Action]]:
    """Begins rollouts while there may be more at once, and ends the search after the last."""
    begun, out, made = state.begun, state.out, state.made
    exhausted = False
    while begun < uct.rollouts and out < uct.at_once:
        key, exhausted = _select(setting, uct, nodes)
        if exhausted or key == -1:
            break
        node = nodes[key]
        if node.depth >= setting.depth or node.moves == ():
            _count(nodes, key, 1, node.score)  # nothing below it: the rollout is worth what it is itself
            begun += 1
        elif node.moves is None and setting.expand is not None:
            nodes[key] = replace(node, state="asked")
            actions = [*actions, Ask((key,), setting.expand)]
            out += 1
        elif node.moves is None:
            nodes[key] = replace(node, moves=every(state.strategies)[: setting.width])
        else:
            nodes[key] = replace(node, tried=node.tried + 1, children=(*node.children, made))
            nodes[made] = Node(key, node.depth + 1)
            _count(nodes, made, 1, 0.0)
            actions = [*actions, node.moves[node.tried].fork(key)]
            begun, out, made = begun + 1, out + 1, made + 1
    state = replace(state, nodes=nodes, begun=begun, out=out, made=made)
    if out or not (exhausted or begun >= uct.rollouts):
        return state, actions
    return state, [*actions, end(setting, state.best)]


def _select(setting: Setting, uct: Uct, nodes: dict[Key, Node]) -> tuple[Key, bool]:
    """Goes down by the bound to a world with something left to try, or with nothing below it.

    Returns:
        It, or -1 where all ways down wait for something under way; and whether there is nowhere to go at all.
    """
    while True:
        key: Key = None
        while True:
            node = nodes[key]
            if node.state == "dead" or (key is None and node.moves == ()):
                return None, True  # only the root can be found dead here: others are passed by below
            if node.state == "asked":
                return -1, False
            if node.depth >= setting.depth or not node.moves or node.tried < len(node.moves):
                return key, False
            ready = [child for child in node.children if nodes[child].state == "open"]
            if not ready:
                break
            key = max(ready, key=lambda child: (bound(uct.constant, nodes[child], node), -child))
        if any(nodes[child].state in ("out", "asked") for child in node.children):
            return -1, False
        nodes[key] = replace(node, state="dead")  # every way on from it failed


def _count(nodes: dict[Key, Node], key: Key, visits: int, score: float) -> None:
    """Counts a rollout, or its score, for a world and all above it."""
    while True:
        node = nodes[key]
        nodes[key] = replace(node, visits=node.visits + visits, total=node.total + score)
        if key is None:
            return
        key = node.parent
