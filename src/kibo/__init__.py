"""Kibo: the runtime layer for AI agents.

The public names, each imported on first use: this package is also imported inside boxes, and stays light there.
"""

from typing import TYPE_CHECKING, Any

from kibo.box.spawning import Spawner, provide

if TYPE_CHECKING:
    from kibo.box.define import Box as Box
    from kibo.box.define import action as action
    from kibo.box.define import on_event as on_event
    from kibo.box.define import on_message as on_message
    from kibo.box.define import use as use
    from kibo.box.env import Env as Env
    from kibo.box.env import Limits as Limits
    from kibo.box.env import Service as Service
    from kibo.box.policy import Allow as Allow
    from kibo.box.policy import Deny as Deny
    from kibo.box.policy import Secret as Secret
    from kibo.box.rights import MayDelegate as MayDelegate
    from kibo.box.rights import MayFork as MayFork
    from kibo.box.rights import MayPost as MayPost
    from kibo.box.rights import MaySpawn as MaySpawn
    from kibo.box.rights import MayTalk as MayTalk
    from kibo.box.rights import Quota as Quota
    from kibo.branch.explore.budget import Budget as Budget
    from kibo.branch.explore.exploring import explore as explore
    from kibo.branch.explore.inside import note as note
    from kibo.branch.explore.policies.best_of import BestOf as BestOf
    from kibo.branch.explore.policies.cascade import Cascade as Cascade
    from kibo.branch.explore.policies.first_success import FirstSuccess as FirstSuccess
    from kibo.branch.explore.policies.reflexion import Reflexion as Reflexion
    from kibo.branch.explore.policies.tournament import Tournament as Tournament
    from kibo.branch.explore.policies.tree_search import TreeSearch as TreeSearch
    from kibo.branch.explore.strategy import Strategy as Strategy
    from kibo.model.errors import KiboError as KiboError
    from kibo.model.message import Message as Message
    from kibo.schedule.handle import Run as Run
    from kibo.schedule.policy import Abandon as Abandon
    from kibo.schedule.policy import AskPerson as AskPerson
    from kibo.schedule.policy import Compensate as Compensate
    from kibo.schedule.policy import Fork as Fork
    from kibo.schedule.policy import Policy as Policy
    from kibo.schedule.policy import Retry as Retry
    from kibo.schedule.request import Rate as Rate
    from kibo.schedule.request import Resources as Resources
    from kibo.wiring import pool as pool
    from kibo.wiring.approving import approve as approve
    from kibo.wiring.approving import deny as deny
    from kibo.wiring.branches import branch as branch
    from kibo.wiring.branches import checkout as checkout
    from kibo.wiring.comparing import compare as compare
    from kibo.wiring.contexts import context_of as context_of
    from kibo.wiring.runs import get_run as get_run
    from kibo.wiring.runs import runs as runs
    from kibo.wiring.runs import submit as submit
    from kibo.wiring.sessions import session as session

__version__ = "0.1.0"

#: Each public name and the module that defines it.
_PUBLIC = {
    "Allow": "kibo.box.policy",
    "BestOf": "kibo.branch.explore.policies.best_of",
    "Box": "kibo.box.define",
    "Budget": "kibo.branch.explore.budget",
    "Cascade": "kibo.branch.explore.policies.cascade",
    "Deny": "kibo.box.policy",
    "Env": "kibo.box.env",
    "FirstSuccess": "kibo.branch.explore.policies.first_success",
    "KiboError": "kibo.model.errors",
    "Limits": "kibo.box.env",
    "MayDelegate": "kibo.box.rights",
    "MayFork": "kibo.box.rights",
    "MayPost": "kibo.box.rights",
    "MaySpawn": "kibo.box.rights",
    "MayTalk": "kibo.box.rights",
    "Quota": "kibo.box.rights",
    "Message": "kibo.model.message",
    "Reflexion": "kibo.branch.explore.policies.reflexion",
    "Secret": "kibo.box.policy",
    "Service": "kibo.box.env",
    "Strategy": "kibo.branch.explore.strategy",
    "Tournament": "kibo.branch.explore.policies.tournament",
    "TreeSearch": "kibo.branch.explore.policies.tree_search",
    "Abandon": "kibo.schedule.policy",
    "AskPerson": "kibo.schedule.policy",
    "Compensate": "kibo.schedule.policy",
    "Fork": "kibo.schedule.policy",
    "Policy": "kibo.schedule.policy",
    "Retry": "kibo.schedule.policy",
    "Rate": "kibo.schedule.request",
    "Resources": "kibo.schedule.request",
    "Run": "kibo.schedule.handle",
    "action": "kibo.box.define",
    "approve": "kibo.wiring.approving",
    "branch": "kibo",
    "checkout": "kibo.wiring.branches",
    "compare": "kibo.wiring.comparing",
    "context_of": "kibo.wiring.contexts",
    "deny": "kibo.wiring.approving",
    "explain": "kibo.wiring.runs",
    "explore": "kibo.branch.explore.exploring",
    "get_run": "kibo.wiring.runs",
    "me": "kibo",
    "note": "kibo.branch.explore.inside",
    "on_event": "kibo.box.define",
    "on_message": "kibo.box.define",
    "pool": "kibo.wiring",
    "runs": "kibo.wiring.runs",
    "session": "kibo.wiring.sessions",
    "submit": "kibo.wiring.runs",
    "use": "kibo.box.define",
}

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  (names, from the table above)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'kibo' has no attribute {name!r}")
    # A package of that name, once it is imported, takes the place of whatever bears it here.
    found = import_module(f"kibo.{name}") if module == "kibo" else getattr(import_module(module), name)
    globals()[name] = found
    return found


def _runtime() -> Spawner:
    from kibo.wiring import spawner

    return spawner()


def _branch(goal: str, **options: Any) -> Any:
    from kibo.wiring.branches import branch

    return branch(goal, **options)


# Here, because definitions know nothing above them: the first `spawn()` wires the runtime in.
provide(_runtime)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
