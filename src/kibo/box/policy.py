"""What a box may reach outside itself, and the secrets that go there, as data."""

from collections.abc import Iterable, Sequence

from kibo.model.errors import InvalidDefinition
from kibo.model.record import Record


class Allow(Record):
    """Lets a box reach one host. Everything that no rule allows is denied.

    Args:
        target: ``"host"`` or ``"host:port"``; without a port, 80 and 443. ``"*.example.org"`` is every name below it.
            ``"host.kibo:8080"`` is a port of this machine's own loopback.
        to: Where the connection really goes, ``"address:port"``, for a test server that plays the host's part.
    """

    target: str
    to: str | None = None

    def _settle(self) -> None:
        split_target(self.target)
        if self.to is not None and split_target(self.to)[1] is None:
            raise InvalidDefinition(
                f"Allow({self.target!r}, to={self.to!r}): `to` needs a port", hint='to="127.0.0.1:8443"'
            )


class Deny(Record):
    """Keeps a box from a host whatever else allows it: in a sum, deny wins.

    Args:
        target: As for Allow; without a port, every port.
    """

    target: str

    def _settle(self) -> None:
        split_target(self.target)


Rule = Allow | Deny

#: Ports of an Allow that names none: HTTP and HTTPS.
WEB_PORTS = (80, 443)


class Secret(Record):
    """A secret of which the box only ever holds a placeholder; its value is put in on the way out, for its hosts.

    Args:
        name: The name of the value at its source, and of the environment variable that holds the placeholder.
        hosts: The hosts that may receive the value, as in Allow.
    """

    name: str
    hosts: Sequence[str] = ()

    @property
    def placeholder(self) -> str:
        """What the box holds instead: of characters that forms, URLs and JSON all leave as they are."""
        return f"kibo-secret-{self.name}"

    def _settle(self) -> None:
        if not (self.name.isascii() and self.name.isidentifier()):
            raise InvalidDefinition(f"Secret({self.name!r}): the name must do as an environment variable's")
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


def find_rule(rules: Iterable[Rule], host: str, port: int) -> Rule | None:
    """Returns the rule that decides for `host` and `port`: a Deny if one matches, else the first Allow, else None."""
    allowed: Allow | None = None
    for rule in rules:
        wanted, wanted_port = split_target(rule.target)
        if not _host_matches(wanted, host.lower().rstrip(".")):
            continue
        if isinstance(rule, Deny):
            if wanted_port in (None, port):
                return rule
        elif allowed is None and (port == wanted_port or (wanted_port is None and port in WEB_PORTS)):
            allowed = rule
    return allowed


def _host_matches(wanted: str, host: str) -> bool:
    return host.endswith(wanted[1:]) and host != wanted[1:] if wanted.startswith("*.") else host == wanted
