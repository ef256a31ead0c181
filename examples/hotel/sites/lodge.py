"""The lodge: one page after the other, each with a token that the next wants. Cleaning is named on the last one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from examples.web import read_form

from .books import Books

SITE = "lodge"


def application(books: Books) -> Starlette:
    """Returns the site as an ASGI application."""
    key = secrets.token_bytes(16)

    def token(*what: object) -> str:
        return hmac.new(key, repr(what).encode(), hashlib.sha256).hexdigest()

    def wizard(step: str, text: str, **fields: str) -> Response:
        hidden = "".join(
            f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items()
        )
        return HTMLResponse(
            f'<!doctype html><title>Lodge</title><form action="/{step}">{text}{hidden}</form>'
        )

    def refuse(why: str) -> Response:
        return HTMLResponse(f'<!doctype html><title>Lodge</title><p class="error">{why}</p>', 409)

    async def rooms(request: Request) -> Response:
        night = request.query_params.get("night", "")
        shown = "".join(
            f'<option value="{room.name}">{room.name}, from {room.cents // 100} EUR</option>'
            for room in books.free(SITE, night)
        )
        return wizard(
            "hold", f'<select name="room">{shown}</select>', night=night, token=token("hold", night)
        )

    async def hold(request: Request) -> Response:
        form = await read_form(request)
        night = form.get("night", "")
        if not hmac.compare_digest(form.get("token", ""), token("hold", night)):
            return refuse("This page is out of date. Begin anew.")
        held = books.hold(SITE, form.get("room", ""), night, form.get("guest", ""))
        room = books.room(SITE, held.room) if held is not None else None
        if held is None or room is None:
            return refuse("That room is not free.")
        lines = f'<li>room {room.cents}</li><li>cleaning {room.extra}</li><li id="total">{room.total}</li>'
        number = str(held.id)
        return wizard("finish", f"<ul>{lines}</ul>", hold=number, token=token("finish", number))

    async def finish(request: Request) -> Response:
        form = await read_form(request)
        number, wanted = form.get("hold", ""), request.url.path.rpartition("/")[2]
        if not hmac.compare_digest(form.get("token", ""), token("finish", number)) or not number.isdigit():
            return refuse("This page is out of date. Begin anew.")
        if not books.move(SITE, int(number), "booked" if wanted == "book" else "released"):
            return refuse("You hold no such room.")
        return wizard("", f'<output id="booking">{"LODGE-" + number if wanted == "book" else ""}</output>')

    return Starlette(
        routes=[
            Route("/", rooms),
            Route("/hold", hold, methods=["POST"]),
            Route("/finish/book", finish, methods=["POST"]),
            Route("/finish/release", finish, methods=["POST"]),
        ]
    )
