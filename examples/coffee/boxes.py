"""Three boxes that buy coffee in a web shop: a browser, a customer who is signed in, and the order.

`Browser() + Account(customer="ada") + Coffee()` is a box that can buy a coffee. Playwright is imported where it is
used: it lives in the browser's environment, and the program that composes the boxes needs none of it.
"""

import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kibo import Allow, Box, Env, Secret, action, use

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response

TRIES = 5  # of anything that may be tried again; the shop's trouble is short or it is not our trouble
PAGE_TIMEOUT_S = 20
ACTION_S = 60.0
ORDER_S = 240.0  # a busy shop that asks for patience at every step
WINDOW = {"width": 900, "height": 680}
QUOTE = Path("/work/quote")  # in a box
LINE = ("kind", "size", "quantity")  # of a basket, in the attributes of its rows


class ShopError(Exception):
    """The shop did not do what was asked, and nothing was bought."""


class OutcomeUnknown(Exception):
    """A payment was sent, and nothing says what became of it. Look at the order history before paying again."""


@dataclass(frozen=True)
class Receipt:
    """What the shop's receipt says."""

    order: int
    customer: str
    coffee: str
    cents: int
    note: str


class Browser(Box):
    """A web browser. Use it to read and operate web pages."""

    # libatomic1 is for the Node that Playwright brings; a small Debian does not have it.
    env = Env(apt=["chromium", "libatomic1"], pip=["playwright"])

    def launch(self) -> None:
        """Opens Chromium once, so that instances inherit the imports and the caches that this leaves."""
        self.resume()
        self.page.goto("about:blank")

    def resume(self) -> None:
        """Opens Chromium, with the cookies that were saved last: no fork could take its processes along."""
        from playwright.sync_api import sync_playwright

        proxy = os.environ.get("http_proxy")
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            proxy={"server": proxy} if proxy else None,
            # The box is the sandbox: Chromium's own would need user namespaces inside it.
            args=["--no-sandbox", "--disable-gpu"],
        )
        profile = _profile_path()
        # Read here: Playwright would start a thread to read it, and a thread is in the way of a fork.
        state = json.loads(profile.read_text()) if profile.exists() else None
        context = self._chromium.new_context(storage_state=state, viewport=WINDOW)
        context.set_default_timeout(PAGE_TIMEOUT_S * 1000)
        self.page: Page = context.new_page()

    def suspend(self) -> None:
        """Closes what resume() opened, before this is forked."""
        self._chromium.close()
        self._playwright.stop()
        # asyncio waits for Playwright's driver in a thread, which ends just after it.
        for thread in threading.enumerate():
            if thread.name.startswith("asyncio-waitpid"):
                thread.join(PAGE_TIMEOUT_S)
        del self.page, self._chromium, self._playwright

    @action(effect="read", timeout_s=ACTION_S)
    def open(self, url: str) -> str:
        """Open a page and return its title."""
        self.visit(url)
        return str(self.page.title())

    @action(timeout_s=ACTION_S)
    def read(self) -> str:
        """Return the text of the page that is open."""
        return str(self.page.inner_text("body"))

    @action(timeout_s=ACTION_S)
    def screenshot(self) -> bytes:
        """Return a picture of the page that is open, as PNG."""
        return bytes(self.page.screenshot(full_page=True))

    # What the parts to the right use.

    def save_profile(self) -> None:
        """Keeps cookies and storage in a file, for this box and for all that are made of its state."""
        _profile_path().write_text(json.dumps(self.page.context.storage_state()))

    def visit(self, url: str) -> "Response":
        """Opens a page, again after a while when the site says that it is busy: reading is safe to repeat.

        Raises:
            ShopError: It was still busy the last time.
        """
        for attempt in range(TRIES):
            response = self.page.goto(url, wait_until="domcontentloaded")
            if response is None or response.status != 503:
                return response  # type: ignore[return-value]  # None is for addresses like about:blank
            _wait(response, attempt)
        raise ShopError(f"{url} was too busy {TRIES} times")

    def submit(
        self, button: str, within: "Locator | None" = None, patience_s: float = PAGE_TIMEOUT_S
    ) -> "Response":
        """Presses a button in `within` or in the page, and returns the answer to its form, whatever it is.

        Pressed once only: what a form does may not be safe to repeat.
        """
        form = within or self.page.locator("main")
        patience = self.page.expect_navigation(wait_until="domcontentloaded", timeout=patience_s * 1000)
        with patience as navigation:
            form.get_by_role("button", name=button).click()
        return navigation.value

    @property
    def path(self) -> str:
        """The path of the page that is open."""
        return urlsplit(self.page.url).path


class DebianBrowser(Browser):
    """A web browser. Use it to read and operate web pages."""

    # Where the host's own system cannot be built upon: it is no Debian, or the user is not root.
    env = Env(base="debian:bookworm")


def in_private(host: str, to: str | None = None) -> Allow:
    """Says which forms of the shop change nothing that another sees: signing in, and one's own basket.

    An attempt in a fork may send those at once. All others, such as a payment, wait until it has won.
    """
    return Allow(host, to=to, methods=("POST",), paths=("/signin", "/basket", "/basket/empty"), effect="read")


class Account(Box):
    """Signed in to the shop as one customer."""

    browser = use(Browser)
    secrets = [Secret("SHOP_PASSWORD", hosts=["shop.example"])]
    egress = [Allow("shop.example"), in_private("shop.example")]
    customer: str
    shop: str = "http://shop.example"

    def launch(self) -> None:
        """Signs in once; whatever is made of this state is signed in."""
        self.sign_in()

    def sign_in(self) -> None:
        """Signs in, also again. Sending the form twice does no harm, so a busy shop is asked again.

        Raises:
            ShopError: The shop does not accept the password, or is too busy.
        """
        page = self.browser.page
        for attempt in range(TRIES):
            self.browser.visit(f"{self.shop}/signin")
            page.get_by_label("Name").fill(self.customer)
            page.get_by_label("Password").fill(os.environ["SHOP_PASSWORD"])
            response = self.browser.submit("Sign in")
            if response.status == 503:
                _wait(response, attempt)
            elif self.browser.path == "/signin":
                raise ShopError(
                    f"the shop does not let {self.customer} in: {page.get_by_role('alert').inner_text()}"
                )
            else:
                self.browser.save_profile()
                return
        raise ShopError(f"signing in found the shop too busy {TRIES} times")

    def visit(self, path: str) -> None:
        """Opens a page of the shop, and signs in again where the session has ended."""
        self.browser.visit(self.shop + path)
        if self.browser.path == "/signin":
            self.sign_in()
            self.browser.visit(self.shop + path)


def purchase(note: str) -> str:
    """Names what is bought once, by what stands on the cup; without a note every coffee is another."""
    return note or secrets.token_hex(8)


class Coffee(Box):
    """Order coffee. Prices may rise while you are at the checkout; small rises are accepted."""

    browser = use(Browser)
    account = use(Account)
    accepted_rise_cents: int = 50
    patience_s: float = (
        PAGE_TIMEOUT_S  # for the answer to a payment; one that races others waits for the race
    )
    card: str = "4242 4242 4242 4242"

    @action(effect="irreversible", key=purchase, verify="find_order", timeout_s=ORDER_S)
    def buy_coffee(self, kind: str, size: str = "small", note: str = "") -> Receipt:
        """Buy one coffee and return the receipt. With a note, it is bought once, however often it is asked for.

        Args:
            kind: As on the menu, such as "latte" or "flat-white".
            size: "small", "medium" or "large".
            note: What to write on the cup, and so in the order history: it tells this purchase from every other.
        """
        note = note or f"{self.account.customer} {secrets.token_hex(3)}"
        limit: int | None = None
        for _ in range(TRIES):
            self._fill_basket(kind, size)
            limit = limit or self._total() + self.accepted_rise_cents
            self.account.visit("/checkout")
            if self._total() > limit:
                raise ShopError(f"it would now cost {self._total()} cents; at most {limit} were accepted")
            if (receipt := self._pay(note)) is not None:
                return receipt
        raise ShopError(f"the payment did not go through in {TRIES} tries, and was not charged")

    def _fill_basket(self, kind: str, size: str) -> None:
        """Makes the basket hold this one coffee, by looking at it after each step rather than trusting the step."""
        page = self.browser.page
        for _ in range(TRIES):
            self.account.visit("/basket")
            lines = page.locator(".lines tr[data-kind]")
            held = [tuple(line.get_attribute(f"data-{name}") for name in LINE) for line in lines.all()]
            if held == [(kind, size, "1")]:
                return
            if held:
                self.browser.submit("Empty the basket")
                continue
            self.account.visit("/menu")
            entries = page.locator(".menu li")
            kinds = [entry.get_attribute("id") for entry in entries.all()]
            if kind not in kinds:
                raise ShopError(f"{kind!r} is not on the menu; there is {', '.join(map(str, kinds))}")
            entry = entries.nth(kinds.index(kind))
            if size not in entry.locator("option").evaluate_all("all => all.map(option => option.value)"):
                raise ShopError(f"{kind} does not come in {size!r}")
            entry.get_by_role("combobox").select_option(size)
            self.browser.submit("Add", within=entry)
        raise ShopError(f"the basket could not be filled in {TRIES} tries")

    def _pay(self, note: str) -> Receipt | None:
        """Pays once. None when it is certain that nothing was charged, so that it may be tried again."""
        from playwright.sync_api import Error

        page = self.browser.page
        fields = {"Card number": self.card, "Expiry": "11/30", "CVC": "123", "Name on the cup": note}
        for label, value in fields.items():
            page.get_by_label(label).fill(value)
        # What it is about to cost, for whoever has to choose between several that are about to pay.
        QUOTE.write_text(str(self._total()))
        try:
            response = self.browser.submit("Pay", patience_s=self.patience_s)
        except Error as error:
            if (receipt := self.find_order(note)) is not None:
                return receipt
            # Nobody said no: it may still be on its way, so that it is not in the history proves nothing.
            raise OutcomeUnknown(f"paid for {note!r}, and no answer came") from error
        if response.status in (402, 422):
            raise ShopError(page.get_by_role("alert").inner_text())
        if response.status == 409:
            return None  # A new price, to be confirmed: nothing was charged.
        if response.ok and self.browser.path.startswith("/orders/"):
            return self._read_receipt()
        # A 503, or a session that ended on the way to the receipt: it may have been charged, and the history knows.
        return self.find_order(note)

    @action(effect="read", timeout_s=ACTION_S)
    def find_order(self, note: str) -> Receipt | None:
        """Look in the order history for the order with this on its cup, and return its receipt if it is there.

        That it is not there proves nothing: it may still be on its way.

        Raises:
            OutcomeUnknown: The history cannot be read.
        """
        from playwright.sync_api import Error

        if not note:
            return None
        try:
            self.account.visit("/orders")
        except (Error, ShopError) as error:
            raise OutcomeUnknown(
                f"paid for {note!r}, and the shop does not say whether it was charged"
            ) from error
        page = self.browser.page
        row = page.locator(".orders tr").filter(has=page.get_by_text(note, exact=True))
        if row.count() == 0:
            return None
        self.account.visit(str(row.get_by_role("link").get_attribute("href")))
        return self._read_receipt()

    def _read_receipt(self) -> Receipt:
        page = self.browser.page
        receipt = page.locator("#receipt")
        return Receipt(
            order=int(str(receipt.get_attribute("data-order"))),
            customer=self.account.customer,
            coffee=page.locator(".lines td").first.inner_text(),
            cents=int(str(receipt.get_attribute("data-cents"))),
            note=page.locator("#note").inner_text(),
        )

    def _total(self) -> int:
        return int(str(self.browser.page.locator("#total").get_attribute("data-cents")))


class OatCoffee(Coffee):
    """Order coffee with oat milk. Only the latte comes with it."""

    @action(effect="irreversible", key=purchase, verify="find_order", timeout_s=ORDER_S)
    def buy_coffee(self, kind: str = "latte", size: str = "small", note: str = "") -> Receipt:
        """Buy one coffee with oat milk and return the receipt."""
        return super().buy_coffee(f"oat-{kind}", size, note)


#: By their names, as a program is told which one this host can have.
BROWSERS: dict[str, type[Browser]] = {"Browser": Browser, "DebianBrowser": DebianBrowser}


def customer_of(shop: str) -> Account:
    """Makes Ada, for whom `shop.example` is a shop on this machine.

    Args:
        shop: Its address, "127.0.0.1:PORT".
    """

    class LocalAccount(Account):
        """Signed in to the shop as one customer."""

        egress = [Allow("shop.example", to=shop), in_private("shop.example", shop)]

    return LocalAccount(customer="ada")


def _profile_path() -> Path:
    return Path.home() / "browser-profile.json"


def _wait(response: "Response", attempt: int) -> None:
    """Waits as long as the site asks, and at most five seconds."""
    asked = response.headers.get("retry-after", "")
    time.sleep(min(int(asked) if asked.isdigit() else 2**attempt, 5))
