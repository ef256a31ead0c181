"""Ports of a box's own loopback that lead outside, for programs that know no proxy.

A host that a rule lets be spoken to in any protocol has an address of the loopback to itself, which the box's
`/etc/hosts` gives to its name: `psql -h db.example` finds it as it would anywhere, at the port that it has everywhere.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from kibo.box.policy import Allow, Rule, find_rule, split_target
from kibo.model.errors import InvalidDefinition
from kibo.model.limits import FORWARDS_NETWORK

#: A listening socket each, which all go to the gateway in one message (`kibo.model.limits.MAX_DESCRIPTORS`).
MAX_FORWARDS: Final = 32


class Forward(NamedTuple):
    """Where a box listens, and what for.

    Attributes:
        address: Of the box's loopback.
        host: As the rule names it, in lower case.
        port: Of both.
    """

    address: str
    host: str
    port: int


def forwards(rules: Sequence[Rule]) -> tuple[Forward, ...]:
    """Lists where a box with these rules listens, in their order.

    Only a host's own name can be given to an address: what is an address already, and all that is below a name, is
    reached through SOCKS.

    Raises:
        InvalidDefinition: There are more than `MAX_FORWARDS`.
    """
    addresses: dict[str, str] = {}
    found: dict[tuple[str, int], Forward] = {}
    for rule in rules:
        host, port = split_target(rule.target)
        if port is None or (host, port) in found or not _is_name(host):
            continue
        deciding = find_rule(rules, host, port)
        if isinstance(deciding, Allow) and deciding.tcp:
            address = addresses.setdefault(host, f"{FORWARDS_NETWORK}{len(addresses) + 1}")
            found[host, port] = Forward(address, host, port)
    if len(found) > MAX_FORWARDS:
        raise InvalidDefinition(
            f"a box may name {MAX_FORWARDS} hosts and ports with tcp=True, and this one names {len(found)}",
            hint='Allow("*.example:5432", tcp=True) covers all below a name, and is reached through SOCKS.',
        )
    return tuple(found.values())


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", host) is not None
    return False
