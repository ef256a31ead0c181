"""A plan: everything that a runtime needs to know of a definition, resolved and checked.

Needs are checked here, and not in `+`: `b + c` alone may lack what `a` brings in `a + (b + c)`.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from kibo.box.actions import ActionSpec
from kibo.box.conflicts import PINNED, claims_of, pin_of, winners
from kibo.box.define import Box
from kibo.box.env import Env, Limits
from kibo.box.forwards import Forward, forwards
from kibo.box.handlers import Handler, handlers_of
from kibo.box.identity import describe
from kibo.box.inheritance import (
    actions_of,
    egress_of,
    environment_of,
    extend,
    needs_of,
    origins_of,
    quota_of,
    rights_of,
    secrets_of,
    unique,
)
from kibo.box.policy import Deny, Rule, Secret
from kibo.box.rights import Quota, Right
from kibo.box.skills import guidance_of
from kibo.box.sums import digest_of, parts_of, prefix_digest, yields_of
from kibo.model.errors import UnknownAction, UnmetNeed
from kibo.model.record import Record

#: Plans kept, by digest; one is a few kilobytes. Enough for every box that one program is likely to use at once.
_MAX_PLANS = 256
_plans: dict[tuple[str, ...], "Plan"] = {}


class Part(Record):
    """One single box of a plan.

    Attributes:
        cls: Its class.
        params: Its parameters, by name.
        name: The class's name.
        digest: The digest of this part alone.
        has_launch: Whether it has `launch()`.
        has_resume: Whether it has `resume()`.
        needs: For each `use` attribute, the index of the part that meets it.
        env: Its environment, with what it yields to others left as it says it; `Plan.env` has the sum's.
        guidance: Its skill's text.
    """

    cls: type[Box]
    params: Mapping[str, Any]
    name: str
    digest: str
    has_launch: bool
    has_resume: bool
    needs: Mapping[str, int]
    env: Env
    guidance: str


class Plan(Record):
    """A definition, resolved.

    Attributes:
        parts: In order of launch.
        env: The merged environment.
        egress: The rules of all parts; where they contradict, deny wins (`kibo.box.policy.find_rule`).
        forwards: Where it listens on its own loopback for what `egress` lets be spoken to in any protocol.
        secrets: Those of all parts.
        rights: Those of all parts: what code in it may ask for from inside.
        quota: How much of it: the larger of each.
        limits: Those of `env`: the larger of each.
        actions: By name.
        handlers: The methods that handle messages and events.
        digest: The definition's.
        prefixes: The digest of each prefix of the sum; the last is `digest`. Each names a cached state.
    """

    parts: tuple[Part, ...]
    env: Env
    egress: tuple[Rule, ...]
    forwards: tuple[Forward, ...]
    secrets: tuple[Secret, ...]
    rights: tuple[Right, ...]
    quota: Quota
    limits: Limits
    actions: Mapping[str, ActionSpec]
    handlers: tuple[Handler, ...]
    digest: str
    prefixes: tuple[str, ...]


def plan(box: Box) -> Plan:
    """Resolves a definition. Equal definitions that name the same files have one plan, from a bounded cache.

    Raises:
        UnmetNeed: A part needs a Box that nothing to its left is an instance of; says which would meet it.
        InvalidDefinition: An action's signature or type cannot be used, or a skill file cannot be read.
        CompositionConflict: As for `+`.
    """
    digest = digest_of(box)
    key = (digest, *(origin for part in parts_of(box) for origin in origins_of(type(part))))
    known = _plans.get(key)
    if known is None:
        known = _resolve(box, digest)
        while len(_plans) >= _MAX_PLANS:
            del _plans[next(iter(_plans))]  # the oldest: dicts keep order
        _plans[key] = known
    return known


def action_of(box: Box, name: str) -> ActionSpec:
    """Returns an action of a definition.

    Raises:
        UnknownAction: It has none of that name.
        UnmetNeed, InvalidDefinition, CompositionConflict: As `plan`.
    """
    actions = plan(box).actions
    if name not in actions:
        raise UnknownAction(
            f"the box has no action {name!r}",
            hint=f"It has: {', '.join(sorted(actions)) or 'none'}.",
            details={"action": name},
        )
    return actions[name]


def _resolve(box: Box, digest: str) -> Plan:
    boxes, yields = parts_of(box), yields_of(box)
    say = winners(boxes, yields)
    env = _merged(boxes, say)
    egress = _egress(boxes, say)
    secrets = {secret.name: secret for part in boxes for secret in secrets_of(type(part))}
    for (kind, name), index in say.items():
        if kind == "secret":
            secrets[name] = next(s for s in secrets_of(type(boxes[index])) if s.name == name)
    return Plan(
        parts=tuple(_part(boxes, index) for index in range(len(boxes))),
        env=env,
        egress=egress,
        forwards=forwards(egress),
        secrets=tuple(secrets.values()),
        rights=_rights(boxes, say),
        quota=reduce(Quota.merged, (quota_of(type(part)) for part in boxes), Quota()).settled(),
        limits=env.limits,
        actions=_actions(boxes, say),
        handlers=_handlers(boxes, say),
        digest=digest,
        prefixes=tuple(prefix_digest(boxes[: end + 1], yields) for end in range(len(boxes))),
    )


def _part(boxes: Sequence[Box], index: int) -> Part:
    box = boxes[index]
    cls = type(box)
    return Part(
        cls=cls,
        params={name: value for name, value in box.__dict__.items() if not name.startswith("_")},
        name=cls.__name__,
        digest=digest_of(box),
        has_launch=callable(getattr(cls, "launch", None)),
        has_resume=callable(getattr(cls, "resume", None)),
        needs={name: _meeting(boxes, index, name, need) for name, need in needs_of(cls).items()},
        env=environment_of(cls),
        guidance=guidance_of(cls),
    )


def _meeting(boxes: Sequence[Box], index: int, attribute: str, need: type[Box]) -> int:
    """The nearest part to the left that is an instance of `need`."""
    for left in range(index - 1, -1, -1):
        if isinstance(boxes[left], need) or _defined_again(type(boxes[left]), need):
            return left
    after = any(isinstance(box, need) for box in boxes[index + 1 :])
    name = type(boxes[index]).__name__
    raise UnmetNeed(
        f"{name}.{attribute} needs {need.__name__}, and nothing to the left of {name} is one",
        hint=f"Put {need.__name__} before {name}."
        if after
        else f"{need.__name__} would meet it: {need.__name__}(...) + {boxes[index]!r}.",
        details={"part": name, "attribute": attribute, "needs": need.__name__},
    )


def _defined_again(cls: type, need: type[Box]) -> bool:
    """Whether a base of `cls` is `need` by another run of the same definition, as when a notebook cell runs twice."""
    return any(
        base.__qualname__ == need.__qualname__ and describe(base, base) == describe(need, need)
        for base in cls.__mro__
        if base is not Box and issubclass(base, Box)
    )


def _actions(boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> dict[str, ActionSpec]:
    return {
        name: ActionSpec(type(box), action, index)
        for index, box in enumerate(boxes)
        for name, action in actions_of(type(box)).items()
        if say["action", name] == index
    }


def _handlers(boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> tuple[Handler, ...]:
    return tuple(
        handler
        for index, box in enumerate(boxes)
        for handler in handlers_of(type(box), index)
        if handler.event or say["handler of", "messages"] == index
    )


def _egress(boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> tuple[Rule, ...]:
    claims = [claims_of(box) for box in boxes]

    def stands(index: int, rule: Rule) -> bool:
        place = ("route to", rule.target)
        return isinstance(rule, Deny) or claims[say[place]][place].content == claims[index][place].content

    rules = ((index, rule) for index, box in enumerate(boxes) for rule in egress_of(type(box)))
    return unique(rule for index, rule in rules if stands(index, rule))


def _rights(boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> tuple[Right, ...]:
    held = ((index, right) for index, box in enumerate(boxes) for right in rights_of(type(box)))
    return unique(
        right for index, right in held if not right.key or say["right to spawn", right.key] == index
    )


def _merged(boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> Env:
    return reduce(_join, (_without_lost(box, index, boxes, say) for index, box in enumerate(boxes)), Env())


def _without_lost(box: Box, index: int, boxes: Sequence[Box], say: Mapping[tuple[str, str], int]) -> Env:
    """The environment of one part, without what it says otherwise than the part that has the say."""
    env, claims = environment_of(type(box)), claims_of(box)
    lost = {
        place
        for place, claim in claims.items()
        if say[place] != index and claims_of(boxes[say[place]])[place].content != claim.content
    }
    if not lost:
        return env
    packages = {
        field: [item for item in getattr(env, field) if (kind, pin_of(field, item)[0]) not in lost]
        for field, kind in PINNED.items()
    }
    return env.replace(
        **packages,
        base="host" if ("base", "") in lost else env.base,
        files={path: source for path, source in env.files.items() if ("file", path) not in lost},
        variables={name: value for name, value in env.variables.items() if ("variable", name) not in lost},
        services=tuple(service for service in env.services if ("service", service.name) not in lost),
    )


def _join(env: Env, other: Env) -> Env:
    """Two environments that do not conflict, as one: lists joined, the larger of each limit."""
    joined = extend(env, other)
    return joined.replace(limits=env.limits.merged(other.limits))
