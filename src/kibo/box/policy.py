"""What a box may reach outside itself, and the secrets that go there, as data."""

import math
import re
from collections.abc import Iterable, Sequence

from kibo.model.errors import InvalidDefinition
from kibo.model.limits import DEFAULT_APPROVAL_S, MAX_APPROVAL_S
from kibo.model.record import Record


class Allow(Record):
    """Lets a box reach one host. Everything that no rule allows is denied.

    Args:
        target: ``"host"`` or ``"host:port"``; without a port, 80 and 443. ``"*.example.org"`` is every name below it.
            ``"host.kibo:8080"`` is a port of this machine's own loopback.
        to: Where the connection really goes, ``"address:port"``, for a test server that plays the host's part.
        passthrough: Whether TLS goes through unopened, for programs that accept one certificate only. Kibo then sees
            the host's name and nothing else: it can neither tell requests apart nor put secrets in.
        methods: What may be done there, as in ``("GET", "HEAD")``; anything, when empty.
        paths: Where on the host, as in ``("/v1/*",)``: ``*`` is any characters, and the query does not count. Anywhere,
            when empty. Paths that servers may read in more than one way are then refused.
        effect: What requests that it covers do to the world: one of `EFFECTS`. By default those whose method is safe
            read, and all others are irreversible. In a fork, what is bufferable is answered 202 at once, and sent when
            the fork is committed; the rest of what changes something waits.
        tcp: Whether anything may be spoken there, and not only HTTP: a database's protocol, say. The target needs a
            port. Programs in the box connect to the same name and port, or through SOCKS. Kibo then sees bytes and
            nothing else, as with `passthrough`.
        approve: Whether a person has to approve each request that it may be meant for and that changes something,
            by `kibo approve`. Of several rules, one that asks is enough.
        approve_within_s: How long such a request waits for its person, and how long an approval holds, in seconds: up
            to 30 days. By default an hour. Where several rules ask, the shortest.
        idempotent: Whether the server acts once on all requests that have one `Idempotency-Key`, and answers each
            repetition as it answered the first. Then one that is in doubt is sent again with its key, for up to 12
            hours, and what the server says is its outcome.
    """

    target: str
    to: str | None = None
    passthrough: bool = False
    methods: Sequence[str] = ()
    paths: Sequence[str] = ()
    effect: str | None = None
    tcp: bool = False
    approve: bool = False
    approve_within_s: float | None = None
    idempotent: bool = False

    @property
    def unopened(self) -> bool:
        """Whether what it lets through is not looked into."""
        return self.passthrough or self.tcp

    def _settle(self) -> None:
        port = split_target(self.target)[1]
        if self.to is not None and split_target(self.to)[1] is None:
            raise InvalidDefinition(
                f"Allow({self.target!r}, to={self.to!r}): `to` needs a port", hint='to="127.0.0.1:8443"'
            )
        _settle_limits(self)
        for name in ("passthrough", "tcp"):
            if getattr(self, name) and (self.methods or self.paths):
                raise InvalidDefinition(
                    f"Allow({self.target!r}, {name}=True): what is not opened has neither methods nor paths",
                    hint=f"Leave out `{name}`, or `methods` and `paths`.",
                )
        if self.tcp and port is None:
            raise InvalidDefinition(
                f"Allow({self.target!r}, tcp=True) needs a port",
                hint=f'Allow("{self.target}:5432", tcp=True)',
            )
        if self.tcp and self.passthrough:
            raise InvalidDefinition(
                f"Allow({self.target!r}): `tcp` lets TLS through as it is already",
                hint="Leave out `passthrough`.",
            )
        if self.effect is not None and self.effect not in EFFECTS:
            raise InvalidDefinition(
                f"{self!r}: {self.effect!r} is not a class of effects", hint=f"One of {', '.join(EFFECTS)}."
            )
        if not isinstance(self.idempotent, bool) or (
            self.idempotent and (self.unopened or self.effect == "read")
        ):
            raise InvalidDefinition(
                f"{self!r}: `idempotent` is true or false, and of requests that are opened and change something",
                hint="Leave out `idempotent`.",
            )
        self._settle_approval()

    def _settle_approval(self) -> None:
        if not isinstance(self.approve, bool):
            raise InvalidDefinition(f"{self!r}: `approve` is true or false", hint="approve=True")
        if not self.approve:
            if self.approve_within_s is not None:
                raise InvalidDefinition(
                    f"{self!r}: `approve_within_s` is for rules that ask a person", hint="approve=True"
                )
            return
        if self.unopened:
            raise InvalidDefinition(
                f"{self!r}: what is not opened can be shown to nobody",
                hint="Leave out `approve`, or else `passthrough` and `tcp`.",
            )
        safe = self.methods and SAFE_METHODS.issuperset(self.methods)
        if self.effect == "read" or (self.effect is None and safe):
            raise InvalidDefinition(
                f"{self!r}: nobody is asked about requests that read",
                hint='Leave out `approve`; or, if they change something, say so: effect="irreversible".',
            )
        within_s: object = DEFAULT_APPROVAL_S if self.approve_within_s is None else self.approve_within_s
        if isinstance(within_s, bool) or not isinstance(within_s, int | float) or not math.isfinite(within_s):
            within_s = 0
        if not 0 < within_s <= MAX_APPROVAL_S:
            raise InvalidDefinition(
                f"{self!r}: `approve_within_s` is a number of seconds, up to {MAX_APPROVAL_S:.0f}",
                hint="approve_within_s=3600",
            )
        self._store("approve_within_s", float(within_s))


class Deny(Record):
    """Keeps a box from a host whatever else allows it: in a sum, deny wins.

    Args:
        target: As for Allow; without a port, every port.
        methods: As for Allow: what may not be done there; nothing may when empty.
        paths: As for Allow: where on the host; nowhere when empty. What a server might take for one of them counts.
    """

    target: str
    methods: Sequence[str] = ()
    paths: Sequence[str] = ()

    def _settle(self) -> None:
        split_target(self.target)
        _settle_limits(self)


Rule = Allow | Deny

#: Ports of an Allow that names none: HTTP and HTTPS.
WEB_PORTS = (80, 443)

#: The classes of effects, from what may be done at any time to what can never be undone.
EFFECTS = ("read", "bufferable", "reversible", "irreversible")

#: Methods by which nobody asks for a change (RFC 9110, section 9.2.1).
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


#: How what a box holds in place of a secret begins.
PLACEHOLDER = "kibo-secret-"


class Secret(Record):
    """A secret of which the box only ever holds a placeholder; its value is put in on the way out, for its hosts.

    Where the value is, is no part of a definition: the host on which the box is spawned looks for it by its name, in
    the environment, or where ``[secrets]`` in `kibo.toml` says.

    Args:
        name: The name of the value, and of the environment variable that holds the placeholder in the box.
        hosts: The hosts that may receive the value, as in Allow.
    """

    name: str
    hosts: Sequence[str] = ()

    @property
    def placeholder(self) -> str:
        """What the box holds instead: of characters that forms, URLs and JSON all leave as they are."""
        return f"{PLACEHOLDER}{self.name}"

    def _settle(self) -> None:
        if not (isinstance(self.name, str) and self.name.isascii() and self.name.isidentifier()):
            raise InvalidDefinition(
                f"Secret({self.name!r}): the name must do as an environment variable's",
                hint="Use letters, digits and _, such as SHOP_PASSWORD.",
            )
        if isinstance(self.hosts, str) or not self.hosts:
            raise InvalidDefinition(
                f"Secret({self.name!r}) needs the hosts that may receive it", hint='hosts=["shop.example"]'
            )
        for host in self.hosts:
            split_target(host)
        self._store("hosts", tuple(self.hosts))


def split_target(target: str) -> tuple[str, int | None]:
    """Splits ``host[:port]`` (``[v6]:port`` for an IPv6 address) into a lower-case host and a port or None.

    Raises:
        InvalidDefinition: It is a URL, is empty, or has a port that is none.
    """
    problem = InvalidDefinition(
        f"{target!r} is not a host or host:port",
        hint='Write "shop.example" or "shop.example:8443", without a scheme.',
    )
    if not isinstance(target, str) or not target or any(c in target for c in "/@ \t\n\0?#"):
        raise problem
    if target.startswith("["):
        host, bracket, rest = target[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise problem
        port = rest[1:] if rest else None
    elif target.count(":") > 1:
        host, port = target, None
    else:
        host, colon, tail = target.partition(":")
        port = tail if colon else None
    if not host or (port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise problem
    return host.lower().rstrip("."), int(port) if port is not None else None


def find_rule(
    rules: Iterable[Rule], host: str, port: int, methods: Sequence[str] = (), path: str | None = None
) -> Rule | None:
    """Returns the rule that decides: a Deny if one matches, else the first Allow, else None.

    What is not looked into may be anything, so that a Deny of some of it counts for all of it there.

    Args:
        rules: In order.
        host: What is asked for.
        port: Of that host.
        methods: What is to be done there, in each way that a server may read it.
        path: Where, without a query. None asks for the host alone: whether anything there may be allowed.
    """
    allowed: Allow | None = None
    narrow: Deny | None = None
    for rule in rules:
        wanted, wanted_port = split_target(rule.target)
        if not _host_matches(wanted, host.lower().rstrip(".")):
            continue
        if isinstance(rule, Deny):
            if wanted_port in (None, port):
                if _may_be_meant(rule, methods, path):
                    return rule
                narrow = narrow or rule
        elif allowed is None and (port == wanted_port or (wanted_port is None and port in WEB_PORTS)):
            allowed = rule if path is None or _is_within(rule, methods, path) else None
    return (
        narrow
        if path is None and narrow is not None and allowed is not None and allowed.unopened
        else allowed
    )


def find_effect(
    rules: Iterable[Rule], host: str, port: int, methods: Sequence[str], path: str, *, upgrade: bool = False
) -> str:
    """Returns the class of a request that the rules allow: what they say, the strictest where several say something.

    So it does not depend on the order of rules, nor on that of the parts of a sum. What is said to be less than its
    method would make it has to be just that; what is said to be more counts as soon as a server might take the request
    for it. A rule that asks a person says what the method says.

    Args:
        rules: As for `find_rule`.
        host: What is asked for.
        port: Of that host.
        methods: What is to be done there, in each way that a server may read it.
        path: Where, without a query.
        upgrade: Whether the connection is to become another, on which anything may be sent.
    """
    by_method = "read" if not upgrade and SAFE_METHODS.issuperset(methods) else "irreversible"
    said, meant = [], [0]
    for rule in rules:
        if not isinstance(rule, Allow) or not (rule.effect or rule.approve):
            continue
        level = EFFECTS.index(rule.effect or by_method)
        if find_rule((rule,), host, port, methods, path):
            said.append(level)
        if find_rule((rule,), host, port) and _may_be_meant(rule, methods, path):
            meant.append(level)
    return EFFECTS[max(*meant, max(said, default=EFFECTS.index(by_method)))]


def find_approval(
    rules: Iterable[Rule], host: str, port: int, methods: Sequence[str] = (), path: str | None = None
) -> float | None:
    """Returns how long a request may wait for a person who approves it, in seconds; None where nobody is asked.

    One rule that a server might take the request to be meant by is enough, whatever else allows it.

    Args:
        rules: As for `find_rule`.
        host: What is asked for.
        port: Of that host.
        methods: What is to be done there, in each way that a server may read it.
        path: Where, without a query. None asks for the host alone: whether a person is asked about anything there.
    """
    return min(
        (
            rule.approve_within_s
            for rule in rules
            if isinstance(rule, Allow)
            and rule.approve_within_s is not None
            and find_rule((rule,), host, port)
            and (path is None or _may_be_meant(rule, methods, path))
        ),
        default=None,
    )


def says_irreversible(rules: Iterable[Rule], host: str, port: int, methods: Sequence[str], path: str) -> bool:
    """Tells whether a rule that a server might take a request to be meant by says that it is irreversible."""
    return any(
        isinstance(rule, Allow)
        and rule.effect == "irreversible"
        and find_rule((rule,), host, port) is not None
        and _may_be_meant(rule, methods, path)
        for rule in rules
    )


def says_idempotent(rules: Iterable[Rule], host: str, port: int, methods: Sequence[str], path: str) -> bool:
    """Tells whether a rule that covers a request says that its server acts once on each `Idempotency-Key`."""
    return any(
        isinstance(rule, Allow)
        and rule.idempotent
        and find_rule((rule,), host, port, methods, path) is not None
        for rule in rules
    )


def plain_path(path: str) -> str | None:
    """Returns a path as every server reads it, or None when servers may differ on it.

    They differ on ``..``, on empty segments, on what is encoded twice, on ``;`` and backslashes.
    """
    octets = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), path.encode())
    decoded = octets.decode(errors="replace")
    segments = decoded.split("/")[1:]
    doubtful = (
        not decoded.startswith("/")
        or any(segment in (".", "..") for segment in segments)
        or "" in segments[:-1]
        or any(c in decoded for c in "%\\;#\ufffd")
        or not decoded.isprintable()
        or decoded.count("/") != path.count("/")
    )
    return None if doubtful else decoded


def _is_within(rule: Allow, methods: Sequence[str], path: str) -> bool:
    if rule.methods and not all(method in rule.methods for method in methods):
        return False
    plain = plain_path(path)
    return not rule.paths or (plain is not None and any(_path_matches(p, plain) for p in rule.paths))


def _may_be_meant(rule: Rule, methods: Sequence[str], path: str | None) -> bool:
    if not rule.methods and not rule.paths:
        return True
    if path is None or (rule.methods and not any(method in rule.methods for method in methods)):
        return False
    plain = plain_path(path)
    # Some servers tell no capitals from small letters.
    return not rule.paths or plain is None or any(_path_matches(p.lower(), plain.lower()) for p in rule.paths)


def _path_matches(wanted: str, path: str) -> bool:
    first, *others = wanted.split("*")
    if not others:
        return path == wanted
    if not path.startswith(first):
        return False
    *middle, last = others
    at = len(first)
    for piece in middle:
        at = path.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return path.endswith(last) and len(path) - len(last) >= at


def _settle_limits(rule: Record) -> None:
    for name in ("methods", "paths"):
        values = getattr(rule, name)
        if isinstance(values, str):
            raise InvalidDefinition(f"{rule!r}: `{name}` must be a list", hint=f'{name}=["{values}"]')
        rule._store(name, tuple(values))
    for method in getattr(rule, "methods"):  # noqa: B009 - both kinds of rules have it, and Record has not
        if not (isinstance(method, str) and method.isascii() and re.fullmatch(r"[A-Z][A-Z-]*", method)):
            raise InvalidDefinition(f"{rule!r}: {method!r} is not a method", hint='methods=("GET", "POST")')
    for path in getattr(rule, "paths"):  # noqa: B009
        if not (isinstance(path, str) and plain_path(path) == path):
            raise InvalidDefinition(
                f"{rule!r}: {path!r} is not a path that every server reads the same",
                hint='paths=("/v1/*",), not encoded, and without a query',
            )


def _host_matches(wanted: str, host: str) -> bool:
    return host.endswith(wanted[1:]) and host != wanted[1:] if wanted.startswith("*.") else host == wanted
