"""`kibo policy check`."""

from __future__ import annotations

from urllib.parse import urlsplit

from kibo.box.plan import plan
from kibo.box.policy import find_approval, find_effect, split_target
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_value
from kibo.cli.references import load_box
from kibo.effects.destinations import Refused, check_seen, decide, only_http, show, write
from kibo.model.errors import InvalidInput

#: What is returned where a box may not: as `diff` and `grep` answer no.
_NO = 1


def policy_check(box: str, url: str, /, *, method: str = "GET", common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Say whether a box may make a request, by which rule, and if not what would allow it.

    Nothing is sent, and no name is looked up: that a name leads to a private address is found when it is asked for.
    The status is 0 where it may, and 1 where it may not.

    Args:
        box: Where the box is defined: module:Name, file.py:Name, or a sum of such.
        url: What it would ask for; ``tcp://host:port`` for any other protocol.
        method: What it would do there.
        common: Options of every command.
    """
    parts = urlsplit(url)
    problem = InvalidInput(f"{url!r} is not a URL that a box could ask for", hint="https://shop.example/menu")
    if parts.scheme not in ("http", "https", "tcp") or not parts.netloc or parts.username is not None:
        raise problem
    host, port = split_target(parts.netloc)
    raw = parts.scheme == "tcp"
    if raw and (port is None or parts.path):
        raise problem
    port = port or (443 if parts.scheme == "https" else 80)
    asked = (host, port, [method.upper()], parts.path or "/")
    rules = plan(load_box(box)).egress
    try:
        rule = decide(rules, host, port, http=False) if raw else decide(rules, *asked)
        if raw and not rule.tcp:
            raise Refused("403 Forbidden", only_http(rule, host, port))
        unopened = rule.unopened and parts.scheme != "http"
        if unopened:
            check_seen(rules, rule, host, port)
    except Refused as refusal:
        if common.json:
            print_json({"allowed": False, "reason": str(refusal)})
        else:
            print_value(f"refused: {refusal}")
        return _NO
    effect = rule.effect if unopened else find_effect(rules, *asked)
    within_s = None if unopened or effect == "read" else find_approval(rules, *asked)
    leads = f", which leads to {rule.to}" if rule.to else ""
    if unopened:
        leads += ", unopened: what is said there is not seen"
        leads += "" if effect == "read" else ", and in a fork of a branch it is refused"
    elif within_s is not None:
        leads += f"; it is {effect}, and waits for a person to approve it, for up to {duration(within_s)}"
    elif effect != "read":
        leads += f"; it is {effect}, and in a fork of a branch it waits for the commit"
    if common.json:
        print_json(
            {
                "allowed": True,
                "rule": write(rule),
                "effect": effect,
                "approve_within_s": within_s,
                "to": rule.to,
                "passthrough": rule.passthrough,
                "tcp": rule.tcp,
            }
        )
    else:
        what = "any protocol" if raw else f"{method.upper()} {parts.path or '/'}"
        print_value(f"allowed: {write(rule)} covers {what} at {show(host, port)}{leads}")
    return 0
