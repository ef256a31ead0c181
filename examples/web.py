"""What the examples' web sites share: forms read with a bound, and an end that comes with whoever started them."""

import os
import signal
import sys
from urllib.parse import parse_qsl

from starlette.requests import Request

MAX_FORM_BYTES = 16 * 1024  # The largest form here has five short fields.


async def read_form(request: Request) -> dict[str, str]:
    """Returns a form's fields; none of one that is too long, so that it has no token either and is refused."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return {}
    return dict(parse_qsl(body.decode("latin-1"), encoding="utf-8"))


def end_at_eof() -> None:
    """Waits for the end of standard input, which comes even when whoever holds it is killed, and ends this program."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
