"""What two parts of a sum may not both say differently, and how a sum settles it.

A part makes *claims*: of an action's name, a service, a file, a variable, a pinned version, a secret, where a host
leads. Two parts that claim one thing with different content conflict. `a | b` *settles* a conflict: it is noted,
with the digests of both, that the left one yields; the note is part of the sum.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kibo.box.define import Box
from kibo.box.env import Env
from kibo.box.handlers import handlers_of
from kibo.box.inheritance import actions_of, egress_of, environment_of, rights_of, secrets_of
from kibo.box.policy import Allow
from kibo.model.errors import CompositionConflict

#: The lists of packages of an Env, and what a pinned version in each is called.
PINNED = {"apt": "Debian package", "pip": "Python package", "npm": "npm package"}


class Claim(NamedTuple):
    """One thing that a part lays down: its kind, its name, and what it says."""

    kind: str
    key: str
    content: Any

    @property
    def shown(self) -> str:
        """The claim for people, without its content: contents may be long, or not for every eye."""
        return f"the {self.kind} {self.key!r}" if self.key else f"the {self.kind}"


class Yield(NamedTuple):
    """A settled conflict: `loser` yields `kind` `key` to `winner`; both are digests of parts."""

    kind: str
    key: str
    loser: str
    winner: str


_PIP_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*={2,3}\s*([^\s;,*]+)\s*$")


def claims_of(part: Box) -> dict[tuple[str, str], Claim]:
    """Returns what a single box lays down, by kind and key."""
    cls = type(part)
    env = environment_of(cls)
    found: list[Claim] = []
    # Two different parts never say the same of an action: even the same code has other parameters or another class
    # behind it, so the part itself is the content.
    found += (Claim("action", name, part.digest) for name in actions_of(cls))
    found += (Claim("handler of", "messages", part.digest) for each in handlers_of(cls) if not each.event)
    found += (Claim("service", service.name, service) for service in env.services)
    found += (Claim("file", path, source) for path, source in env.files.items())
    found += (Claim("variable", name, value) for name, value in env.variables.items())
    found += (Claim("secret", secret.name, secret) for secret in secrets_of(cls))
    found += (Claim("right to spawn", each.key, each) for each in rights_of(cls) if each.key)
    found += (Claim("route to", target, routes) for target, routes in _routes(cls).items())
    found += _pins(env)
    if env.base != "host":
        found.append(Claim("base", "", env.base))
    return {(claim.kind, claim.key): claim for claim in found}


def _routes(cls: type[Box]) -> dict[str, tuple[tuple[str, bool, bool], ...]]:
    """Where each allowed target leads. What may be done there is no conflict: a sum may do what any part may."""
    found: dict[str, set[tuple[str, bool, bool]]] = {}
    for rule in egress_of(cls):
        if isinstance(rule, Allow):
            found.setdefault(rule.target, set()).add((rule.to or "", rule.passthrough, rule.tcp))
    return {target: tuple(sorted(routes)) for target, routes in found.items()}


def _pins(env: Env) -> Iterable[Claim]:
    for field, kind in PINNED.items():
        for item in getattr(env, field):
            name, version = pin_of(field, item)
            if version:
                yield Claim(kind, name, version)


def pin_of(field: str, item: str) -> tuple[str, str]:
    """Splits an item of `Env.apt`, `pip` or `npm` into a package's name and the one version it asks for, if it does."""
    if field == "apt":
        name, _, version = item.partition("=")
    elif field == "npm":
        name, _, version = item[1:].partition("@")  # a scope starts with @ too
        name = item[0] + name
    else:
        match = _PIP_PIN.match(item)
        name, version = (re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]) if match else (item, "")
    return name, version


def conflicts(parts: Sequence[Box]) -> Iterable[tuple[Box, Box, Claim]]:
    """Yields each pair of parts, left first, that says something different of one thing, and what."""
    said: dict[tuple[str, str], list[tuple[Box, Claim]]] = {}
    for part in parts:
        for place, claim in claims_of(part).items():
            for other, theirs in said.get(place, ()):
                if theirs.content != claim.content:
                    yield other, part, claim
            said.setdefault(place, []).append((part, claim))


def check(parts: Sequence[Box], yields: frozenset[Yield]) -> None:
    """Raises for the first conflict that no yield settles.

    Raises:
        CompositionConflict: Two parts say different things of one, or each yields to the other.
    """
    for left, right, claim in conflicts(parts):
        settled = [
            Yield(claim.kind, claim.key, loser.digest, winner.digest) in yields
            for loser, winner in ((left, right), (right, left))
        ]
        if settled.count(True) != 1:
            raise CompositionConflict(
                f"{left!r} and {right!r} define {claim.shown} differently",
                hint=f"Write `{type(left).__name__}(...) | {type(right).__name__}(...)` to let the right side win.",
                details={"kind": claim.kind, "name": claim.key, "left": repr(left), "right": repr(right)},
            )


def winners(parts: Sequence[Box], yields: frozenset[Yield]) -> dict[tuple[str, str], int]:
    """Returns which part, by index, has the say on each claimed thing; parts that agree leave it to the first.

    Raises:
        CompositionConflict: Every claimant yields to another.
    """
    digests = [part.digest for part in parts]
    claimed: dict[tuple[str, str], list[int]] = {}
    for index, part in enumerate(parts):
        for place in claims_of(part):
            claimed.setdefault(place, []).append(index)
    lost = {(y.kind, y.key, y.loser) for y in yields if y.winner in digests}
    found: dict[tuple[str, str], int] = {}
    for place, indexes in claimed.items():
        holding = [index for index in indexes if (*place, digests[index]) not in lost]
        if not holding:
            raise CompositionConflict(
                f"every part that defines the {place[0]} {place[1]!r} yields it to another",
                hint="Put the one that shall win last: `(a | b) | c`.",
                details={"kind": place[0], "name": place[1]},
            )
        found[place] = holding[0]
    return found
