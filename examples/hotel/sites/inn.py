"""The inn: a table of rooms, and a form behind each. Breakfast is not in the price, and cannot be left out."""

from __future__ import annotations

from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from examples.web import read_form

from .books import Books

SITE = "inn"


def application(books: Books) -> Starlette:
    """Returns the site as an ASGI application."""

    async def rooms(request: Request) -> Response:
        night = request.query_params.get("night", "")
        rows = "".join(
            f'<tr data-room="{room.name}"><td>{room.name}</td><td>{room.cents / 100:.2f} EUR</td></tr>'
            for room in books.free(SITE, night)
        )
        return _page("Our rooms", f"<table>{rows}</table>")

    async def hold(request: Request) -> Response:
        form = await read_form(request)
        held = books.hold(SITE, form.get("room", ""), form.get("night", ""), form.get("guest", ""))
        if held is None:
            return _page("Sorry", "That room is not free.", 409)
        return RedirectResponse(f"/holds/{held.id}", 303)

    async def show(request: Request) -> Response:
        held = books.find(SITE, request.path_params["hold"])
        room = books.room(SITE, held.room) if held is not None else None
        if held is None or room is None:
            return _page("Sorry", "We have no such room for you.", 404)
        total = f'<b id="total">{room.total / 100:.2f}</b> EUR, breakfast included'
        return _page(f"Room {escape(held.room)} for {escape(held.guest)}", total)

    async def release(request: Request) -> Response:
        if not books.move(SITE, request.path_params["hold"], "released"):
            return _page("Sorry", "We have no such room for you.", 404)
        return RedirectResponse("/", 303)

    async def book(request: Request) -> Response:
        number = request.path_params["hold"]
        if not books.move(SITE, number, "booked"):
            return _page("Sorry", "We have no such room for you.", 404)
        return _page("See you soon", f'Your booking is <b id="booking">INN{number:04}</b>.')

    return Starlette(
        routes=[
            Route("/", rooms),
            Route("/holds", hold, methods=["POST"]),
            Route("/holds/{hold:int}", show),
            Route("/holds/{hold:int}/release", release, methods=["POST"]),
            Route("/holds/{hold:int}/book", book, methods=["POST"]),
        ]
    )


def _page(title: str, text: str, status: int = 200) -> Response:
    return HTMLResponse(f"<!doctype html><title>{title}</title><h1>{title}</h1>{text}", status)
