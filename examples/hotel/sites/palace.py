"""The palace: a JSON interface, prices with everything in them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .books import Books

SITE = "palace"


def application(books: Books) -> Starlette:
    """Returns the site as an ASGI application."""

    async def rooms(request: Request) -> Response:
        night = request.query_params.get("night", "")
        return JSONResponse([{"room": room.name, "cents": room.total} for room in books.free(SITE, night)])

    async def hold(request: Request) -> Response:
        wanted = await request.json()
        held = books.hold(SITE, str(wanted["room"]), str(wanted["night"]), str(wanted["guest"]))
        if held is None:
            return JSONResponse({"error": "that room is not free"}, 409)
        room = books.room(SITE, held.room)
        assert room is not None
        return JSONResponse({"hold": held.id, "cents": room.total}, 201)

    async def release(request: Request) -> Response:
        done = books.move(SITE, request.path_params["hold"], "released")
        return Response(status_code=204) if done else JSONResponse({"error": "nobody holds that"}, 404)

    async def book(request: Request) -> Response:
        number = request.path_params["hold"]
        if not books.move(SITE, number, "booked"):
            return JSONResponse({"error": "nobody holds that"}, 404)
        return JSONResponse({"booking": f"P-{number}"}, 201)

    return Starlette(
        routes=[
            Route("/api/rooms", rooms),
            Route("/api/holds", hold, methods=["POST"]),
            Route("/api/holds/{hold:int}", release, methods=["DELETE"]),
            Route("/api/holds/{hold:int}/booking", book, methods=["POST"]),
        ]
    )
