"""What a Box class has from its bases: environment, policy, needs, actions and guidance.

Each class says what it adds or changes. Going from the farthest base to the class itself, environments are laid one
over the other (lists grow, the nearer class wins where both say something), rules and secrets add up.
"""

from collections.abc import Iterator
from typing import Any

from kibo.box.define import Action, Box, Use
from kibo.box.env import Env, Service
from kibo.box.places import located
from kibo.box.policy import Allow, Deny, Rule, Secret
from kibo.box.rights import Quota, Right
from kibo.model.errors import InvalidDefinition


def _own(cls: type[Box], attribute: str) -> Iterator[tuple[type, Any]]:
    for owner in reversed(cls.__mro__):
        if owner is not Box and attribute in owner.__dict__:
            yield owner, owner.__dict__[attribute]


def unique(*lists: Any) -> tuple[Any, ...]:
    """Joins sequences, keeping the first of what is equal."""
    return tuple(dict.fromkeys(item for items in lists for item in items))


def environment_of(cls: type[Box]) -> Env:
    """Returns the environment of `cls`, its bases' included, with the host's paths in `files` absolute."""
    env = Env()
    for owner, own in _own(cls, "env"):
        if not isinstance(own, Env):
            raise InvalidDefinition(
                f"{owner.__name__}.env must be Env(...), got {type(own).__name__}",
                hint='Write env = Env(pip=["..."]).',
            )
        files = {
            path: located(owner, source) if isinstance(source, str) else source
            for path, source in own.files.items()
        }
        env = extend(env, own.replace(files=files) if files else own)
    return env


def origins_of(cls: type[Box]) -> tuple[str, ...]:
    """Returns the directories in which `cls` and its bases look for the host's files that their environments name.

    Definitions with one digest may stand in different directories, and then mean different files.
    """
    return tuple(
        located(owner, "")
        for owner, own in _own(cls, "env")
        if isinstance(own, Env) and any(isinstance(source, str) for source in own.files.values())
    )


def extend(env: Env, own: Env) -> Env:
    """Returns `env` with `own` laid over it; where both say something, `own` wins."""
    services: dict[str, Service] = {s.name: s for s in (*env.services, *own.services)}
    return Env(
        base=env.base if own.base == "host" else own.base,
        apt=unique(env.apt, own.apt),
        pip=unique(env.pip, own.pip),
        npm=unique(env.npm, own.npm),
        files={**env.files, **own.files},
        run=unique(env.run, own.run),
        services=tuple(services.values()),
        variables={**env.variables, **own.variables},
        limits=env.limits.inherited(own.limits),
        user="root" if "root" in (env.user, own.user) else "box",
        nested_namespaces=env.nested_namespaces or own.nested_namespaces,
    )


def egress_of(cls: type[Box]) -> tuple[Rule, ...]:
    """Returns the rules of `cls`, its bases' included; the nearer class says all there is to say of one target."""
    named: dict[tuple[type, str], tuple[Rule, ...]] = {}
    for owner, rules in _own(cls, "egress"):
        own: dict[tuple[type, str], tuple[Rule, ...]] = {}
        for rule in _checked(owner, "egress", rules, (Allow, Deny)):
            place = (type(rule), rule.target)
            own[place] = unique((*own.get(place, ()), rule))
        named.update(own)
    return tuple(rule for rules in named.values() for rule in rules)


def secrets_of(cls: type[Box]) -> tuple[Secret, ...]:
    """Returns the secrets of `cls`, its bases' included; the nearer class wins for one name."""
    named: dict[str, Secret] = {}
    for owner, secrets in _own(cls, "secrets"):
        named.update({secret.name: secret for secret in _checked(owner, "secrets", secrets, (Secret,))})
    return tuple(named.values())


def rights_of(cls: type[Box]) -> tuple[Right, ...]:
    """Returns the rights of `cls`, its bases' included; the nearer class wins for one name."""
    named: dict[tuple[type, str], Right] = {}
    for owner, rights in _own(cls, "rights"):
        named.update({(type(each), each.key): each for each in _checked(owner, "rights", rights, (Right,))})
    return tuple(named.values())


def quota_of(cls: type[Box]) -> Quota:
    """Returns the quota of `cls`; the nearer class wins for each bound that it sets."""
    quota = Quota()
    for owner, own in _own(cls, "quota"):
        if not isinstance(own, Quota):
            raise InvalidDefinition(
                f"{owner.__name__}.quota must be Quota(...), got {own!r}",
                hint="Write quota = Quota(instances=4).",
            )
        quota = quota.inherited(own)
    return quota


def _checked(owner: type, attribute: str, values: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    listed: tuple[Any, ...] = tuple(values) if isinstance(values, list | tuple) else (values,)
    for value in listed:
        if not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise InvalidDefinition(
                f"{owner.__name__}.{attribute} must be a list of {names}, got {value!r}",
                hint=f'Write {attribute} = [{kinds[0].__name__}("...")].',
            )
    return listed


def needs_of(cls: type[Box]) -> dict[str, type[Box]]:
    """Returns the needs of `cls` by attribute, its bases' included."""
    return {name: value.box for name, value in attributes_of(cls).items() if isinstance(value, Use)}


def actions_of(cls: type[Box]) -> dict[str, Action]:
    """Returns the actions of `cls` by name, its bases' first."""
    return {name: value for name, value in attributes_of(cls).items() if isinstance(value, Action)}


def attributes_of(cls: type) -> dict[str, Any]:
    """Returns what a class has, its bases' first; the nearer class wins for one name."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        found.update(owner.__dict__)
    return found
