"""The boxes of the design's first example, as written there."""

from dataclasses import dataclass

from kibo import Allow, Box, Env, Secret, action, use


@dataclass
class Receipt:
    """What was bought."""

    number: int
    total_cents: int


class Browser(Box):
    """A web browser. Use it to read and operate web pages."""

    env = Env(apt=["chromium"], pip=["playwright"])

    def launch(self): ...

    def resume(self): ...

    @action
    def open(self, url: str) -> str:
        """Open a page and return its title."""


class Account(Box):
    """Signed in to the shop as one customer."""

    browser = use(Browser)
    secrets = [Secret("SHOP_PASSWORD", hosts=["shop.example"])]
    egress = [Allow("shop.example")]
    customer: str


class Coffee(Box):
    """Order coffee."""

    browser = use(Browser)
    account = use(Account)

    @action(effect="irreversible")
    def buy_coffee(self, kind: str, size: str = "small") -> Receipt: ...


class OatCoffee(Coffee): ...
