"""The shop's pages. Every change is a POST with the session's CSRF token; every page is plain HTML."""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from examples.web import read_form

from .store import SIZE_CENTS, Session, Store
from .trouble import Trouble

HERE = Path(__file__).parent
SESSION_COOKIE, BASKET_COOKIE = "session", "basket"
MAX_NOTE_LENGTH = 80


@dataclass
class Visit:
    """One request, with what the shop knows about whoever makes it."""

    request: Request
    session: Session
    basket: str
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def customer(self) -> str:
        """The customer; asked only on pages that need one."""
        assert self.session.customer is not None
        return self.session.customer


Page = Callable[[Visit], Response]


class Shop:
    """The shop as a web application.

    Args:
        store: Where its data is.
        trouble: What goes wrong on purpose.
    """

    def __init__(self, store: Store, trouble: Trouble) -> None:
        self._store = store
        self._trouble = trouble
        self._pages = Jinja2Templates(HERE / "pages")
        self._pages.env.filters["money"] = lambda cents: f"€{cents // 100}.{cents % 100:02}"

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(
            routes=[
                Route("/", lambda _: RedirectResponse("/menu")),
                Route("/healthz", lambda _: PlainTextResponse("ok")),
                Route("/style.css", lambda _: FileResponse(HERE / "style.css")),
                self._route("/menu", self._menu),
                self._route("/signin", self._signin),
                self._route("/signin", self._do_signin, "POST"),
                self._route("/signout", self._do_signout, "POST", private=True),
                self._route("/basket", self._basket, private=True, wait_s=self._trouble.slow_s),
                self._route("/basket", self._do_add, "POST", private=True),
                self._route("/basket/empty", self._do_empty, "POST", private=True),
                self._route("/checkout", self._checkout, private=True),
                self._route(
                    "/checkout",
                    self._do_pay,
                    "POST",
                    private=True,
                    wait_s=self._trouble.slow_payment_s,
                    answer_s=self._trouble.slow_answer_s,
                ),
                self._route("/orders", self._orders, private=True),
                self._route("/orders/{order:int}", self._receipt, private=True),
            ]
        )

    def _route(
        self,
        path: str,
        page: Page,
        method: str = "GET",
        *,
        private: bool = False,
        wait_s: float = 0.0,
        answer_s: float = 0.0,
    ) -> Route:
        """Puts around a page what all of them share: trouble, session, sign-in, CSRF token and cookies."""

        async def endpoint(request: Request) -> Response:
            if self._trouble.strikes():
                return self._busy(request)
            known = request.cookies.get(SESSION_COOKIE, "")
            session = self._store.use_session(known, self._trouble.session_uses) or self._store.open_session()
            visit = Visit(request, session, request.cookies.get(BASKET_COOKIE) or secrets.token_urlsafe(24))
            if method == "POST":
                visit.form = await read_form(request)
            await asyncio.sleep(wait_s)
            response = self._admit(visit, page, method, private)
            await _hold_back(request, answer_s)
            if SESSION_COOKIE not in response.headers.get("set-cookie", "") and session.id != known:
                _set_cookie(response, SESSION_COOKIE, session.id)
            return response

        return Route(path, endpoint, methods=[method])

    def _admit(self, visit: Visit, page: Page, method: str, private: bool) -> Response:
        if private and visit.session.customer is None:
            # The page that a form was on, not the form's own address: what was posted is not done.
            path = visit.request.url.path if method == "GET" else "/basket"
            return RedirectResponse(f"/signin?next={quote(path)}", 303)
        if method == "POST" and not hmac.compare_digest(visit.form.get("csrf", ""), visit.session.csrf):
            return self._problem(
                visit, 403, "This form is out of date", "Go back, reload the page and try again."
            )
        return page(visit)

    # -- pages

    def _menu(self, visit: Visit) -> Response:
        return self._show(visit, "menu", coffees=self._store.menu(), sizes=SIZE_CENTS)

    def _signin(self, visit: Visit) -> Response:
        return self._show(visit, "signin", next=visit.request.query_params.get("next", "/menu"))

    def _do_signin(self, visit: Visit) -> Response:
        name, target = visit.form.get("customer", ""), visit.form.get("next", "")
        if not self._store.check_password(name, visit.form.get("password", "")):
            return self._show(visit, "signin", 401, next=target, error="That name and password do not match.")
        self._store.end_session(
            visit.session.id
        )  # A new id, so that one planted before the sign-in is worth nothing.
        response = RedirectResponse(target if _is_local(target) else "/menu", 303)
        _set_cookie(response, SESSION_COOKIE, self._store.open_session(name).id)
        return response

    def _do_signout(self, visit: Visit) -> Response:
        self._store.end_session(visit.session.id)
        response = RedirectResponse("/menu", 303)
        response.delete_cookie(SESSION_COOKIE)
        return response

    def _basket(self, visit: Visit) -> Response:
        return self._show(visit, "basket", **self._contents(visit))

    def _do_add(self, visit: Visit) -> Response:
        form = visit.form
        try:
            self._store.add_line(visit.basket, form.get("kind", ""), form.get("size", ""), 1)
        except KeyError as error:
            return self._problem(
                visit, 404, "We do not sell that", f"There is no {error.args[0]} on the menu."
            )
        response = RedirectResponse("/basket", 303)
        _set_cookie(response, BASKET_COOKIE, visit.basket)
        return response

    def _do_empty(self, visit: Visit) -> Response:
        self._store.empty_basket(visit.basket)
        return RedirectResponse("/basket", 303)

    def _checkout(self, visit: Visit) -> Response:
        contents = self._contents(visit)
        return (
            self._show(visit, "checkout", **contents)
            if contents["lines"]
            else RedirectResponse("/basket", 303)
        )

    def _do_pay(self, visit: Visit) -> Response:
        if rise := self._trouble.take_price_rise():
            self._store.raise_prices(rise)
        contents, form = self._contents(visit), visit.form
        if not contents["lines"]:
            return self._problem(visit, 409, "Your basket is empty", "There is nothing to pay for.")
        if form.get("total") != str(contents["total"]):
            return self._show(visit, "checkout", 409, **contents, old_total=_cents(form.get("total", "")))
        card = "".join(form.get("card", "").split())
        if not _is_card(card) or not form.get("expiry") or not form.get("cvc"):
            return self._show(
                visit, "checkout", 422, **contents, error="Please check the details of your card."
            )
        if card == "4000000000000002":
            return self._show(visit, "checkout", 402, **contents, error="Your bank declined the card.")
        order = self._store.place_order(
            visit.customer, visit.basket, card, form.get("note", "")[:MAX_NOTE_LENGTH]
        )
        if self._trouble.take_lost_answer():
            return self._busy(visit.request)
        return RedirectResponse(f"/orders/{order.id}", 303)

    def _orders(self, visit: Visit) -> Response:
        return self._show(visit, "orders", orders=self._store.orders(visit.customer))

    def _receipt(self, visit: Visit) -> Response:
        wanted = visit.request.path_params["order"]
        for order in self._store.orders(visit.customer):
            if order.id == wanted:
                return self._show(visit, "receipt", order=order)
        return self._problem(visit, 404, "No such order", "You have no order of this number.")

    # -- what the pages share

    def _contents(self, visit: Visit) -> dict[str, Any]:
        lines = self._store.basket(visit.basket)
        return {"lines": lines, "total": sum(line.cents for line in lines)}

    def _show(self, visit: Visit, page: str, status: int = 200, **values: Any) -> Response:
        context = {"visit": visit, **values}
        return self._pages.TemplateResponse(visit.request, f"{page}.html", context, status_code=status)

    def _problem(self, visit: Visit, status: int, title: str, text: str) -> Response:
        return self._show(visit, "problem", status, title=title, text=text)

    def _busy(self, request: Request) -> Response:
        visit = Visit(request, Session("", "", None), "")
        response = self._problem(visit, 503, "We are very busy", "Please try again in a moment.")
        response.headers["retry-after"] = "1"
        return response


async def _hold_back(request: Request, seconds: float) -> None:
    """Waits before an answer, as long as somebody is there to have it."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until and not await request.is_disconnected():
        await asyncio.sleep(0.05)


def _set_cookie(response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, httponly=True, samesite="lax")


def _is_local(target: str) -> bool:
    return target.startswith("/") and not target.startswith(("//", "/\\"))


def _cents(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _is_card(number: str) -> bool:
    """Luhn's check over 13 to 19 digits."""
    if not (number.isascii() and number.isdigit() and 13 <= len(number) <= 19):
        return False
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0
