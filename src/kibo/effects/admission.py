"""What becomes of one request of a box: held against its rules, and given to the boundary; however it was brought."""

from collections.abc import Sequence
from typing import NamedTuple

from kibo.box.policy import Allow, Rule, find_approval, find_effect, says_idempotent, says_irreversible
from kibo.effects.boundary import Boundary
from kibo.effects.destinations import Refused, decide, show
from kibo.effects.exchange import Answer, Caller, Request
from kibo.effects.http_head import ElsewhereError, Head, HeadError, SecretValue, secrets_for

BAD_REQUEST = "400 Bad Request"
MISDIRECTED = "421 Misdirected Request"


class Origin(NamedTuple):
    """What a tunnel was opened to: every request in it is for that.

    Attributes:
        host: As CONNECT named it, in lower case.
        port: Of that host.
        secure: Whether the box speaks TLS in it.
        asked: The host that TLS asked for, if it did.
    """

    host: str
    port: int
    secure: bool
    asked: str | None


class Admission:
    """One box's requests, from their heads to their answers.

    Args:
        rules: What the box may reach.
        secrets: What to put in for placeholders, for which hosts.
        boundary: Answers what is allowed.
    """

    def __init__(self, rules: Sequence[Rule], secrets: Sequence[SecretValue], boundary: Boundary) -> None:
        self.rules = rules
        #: Those that say what a request does, which most leave to its method.
        self.telling = [
            rule
            for rule in rules
            if isinstance(rule, Allow) and (rule.effect or rule.approve or rule.idempotent)
        ]
        self.boundary = boundary
        self._secrets = secrets

    def check(self, head: Head, origin: Origin) -> None:
        """Sees that TLS, the request and the tunnel name one host.

        Raises:
            Refused: They do not.
        """
        shown = show(origin.host, origin.port)
        allows = decide(self.rules, origin.host, origin.port)
        if origin.asked is not None and origin.asked != origin.host:
            raise Refused(
                MISDIRECTED,
                f'Allow("{allows.target}") lets this connection lead to {shown}, but TLS asked for {origin.asked}. '
                "A connection is for one host: open another.",
            )
        if head.tunnel:
            raise Refused(BAD_REQUEST, "There is no proxy within a tunnel.")
        try:
            head.check_origin(origin.host, origin.port, secure=origin.secure)
        except ElsewhereError as elsewhere:
            raise Refused(
                MISDIRECTED,
                f'Allow("{allows.target}") lets this connection lead to {shown}, but the request on it is for '
                f"{elsewhere}. A connection is for one host: open another.",
            ) from None
        except HeadError as error:
            raise Refused(BAD_REQUEST, str(error)) from None

    async def send(self, caller: Caller, head: Head, host: str, port: int, *, secure: bool) -> Answer:
        """Has one request answered; see `Exchange.send`.

        Args:
            caller: Whose it is.
            head: Its head.
            host: What it is for, in lower case.
            port: Of that host.
            secure: Whether it came within TLS.
        """
        path = head.path().partition(b"?")[0].decode("ascii")
        methods = head.methods()
        rule = decide(self.rules, host, port, methods, path)
        effect = find_effect(self.telling, host, port, methods, path, upgrade=head.upgrade)
        has_body = head.body_length() != 0
        if not has_body:
            await caller.skip_body()
        request = Request(
            rule,
            secure,
            host,
            port,
            head.method,
            head.path(),
            head.outgoing(host_field(head, host, port, secure=secure)),
            caller,
            has_body,
            head.upgrade,
            effect,
            secrets=secrets_for(self._secrets, host, port),
            fillable=has_body and head.may_hold_secrets(),
            gone=caller.gone,
        )
        if effect != "read":
            request.approve_within_s = find_approval(self.telling, host, port, methods, path)
            request.idempotent = not head.upgrade and says_idempotent(self.telling, host, port, methods, path)
        # What a connection becomes would go on after the action.
        never = says_irreversible(self.telling, host, port, methods, path)
        request.always_held = head.upgrade or never
        return await self.boundary.send(request, caller.interim)


def host_field(head: Head, host: str, port: int, *, secure: bool) -> bytes:
    """Writes the Host field: as it came where it did, which some servers compare letter by letter."""
    named = head.values(b"host")
    shown = f"[{host}]" if ":" in host else host
    return named[0] if named else (shown if port == (443 if secure else 80) else show(host, port)).encode()
