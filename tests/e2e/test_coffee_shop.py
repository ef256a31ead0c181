"""The shop of the coffee demo, run as a program and visited with a real HTTP client."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from running_shop import Shop, running_shop

pytestmark = pytest.mark.e2e

CARD = {"card": "4242 4242 4242 4242", "expiry": "11/30", "cvc": "123"}


class Visitor:
    """A customer who reads pages and fills in forms, as a browser would."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(path)

    def token(self, path: str) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found, f"no CSRF token on {path}"
        return found[1]

    def post(self, path: str, page: str | None = None, **form: str) -> httpx2.Response:
        return self.client.post(path, data={"csrf": self.token(page or path), **form})

    def sign_in(self, customer: str = "ada", password: str = "beans", **form: str) -> httpx2.Response:
        return self.post("/signin", customer=customer, password=password, **form)

    def add(self, kind: str = "latte", size: str = "small") -> httpx2.Response:
        return self.post("/basket", "/menu", kind=kind, size=size)

    def pay(self, total: str = "420", **form: str) -> httpx2.Response:
        return self.post("/checkout", total=total, **{**CARD, **form})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Shop, Visitor]]]:
    with ExitStack() as stack:

        def start_shop(*switches: str) -> tuple[Shop, Visitor]:
            shop = stack.enter_context(running_shop(tmp_path, *switches))
            client = httpx2.Client(base_url=shop.url, follow_redirects=True, trust_env=False, timeout=10)
            return shop, Visitor(stack.enter_context(client))

        yield start_shop


Start = Callable[..., tuple[Shop, Visitor]]


def test_a_customer_signs_in_orders_pays_and_sees_the_receipt_in_the_history(start: Start) -> None:
    shop, ada = start()
    assert ada.sign_in().url.path == "/menu"
    assert "1 × Latte, medium" in ada.add(size="medium").text
    receipt = ada.pay(total="480", note="for Ada")
    assert receipt.url.path == "/orders/1"
    assert "€4.80" in receipt.text
    assert "ending in 4242" in receipt.text
    assert "for Ada" in ada.get("/orders").text
    assert "It is empty" in ada.get("/basket").text
    assert (shop.count("purchase"), shop.count("charge")) == (1, 1)


def test_a_wrong_password_is_refused_and_says_so(start: Start) -> None:
    _, visitor = start()
    answer = visitor.sign_in(password="tea")
    assert answer.status_code == 401
    assert "do not match" in answer.text
    assert visitor.get("/orders").url.path == "/signin"


def test_signing_in_changes_the_session_id(start: Start) -> None:
    _, ada = start()
    ada.get("/menu")
    before = ada.client.cookies["session"]
    ada.sign_in()
    assert ada.client.cookies["session"] != before


def test_a_sign_in_goes_on_to_the_page_that_asked_for_it_and_never_to_another_site(start: Start) -> None:
    _, ada = start()
    assert "next=/orders" in str(ada.get("/orders").url)
    assert ada.sign_in(next="/orders").url.path == "/orders"
    assert ada.sign_in(next="//elsewhere.example/").url.path == "/menu"


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_form_without_the_token_of_the_session_changes_nothing(start: Start, token: str) -> None:
    shop, ada = start()
    ada.sign_in()
    answer = ada.client.post("/basket", data={"csrf": token, "kind": "latte", "size": "small"})
    assert answer.status_code == 403
    assert shop.count("line") == 0


def test_a_form_that_is_too_large_is_refused(start: Start) -> None:
    _, ada = start()
    ada.sign_in()
    assert ada.post("/basket", "/menu", kind="latte" * 5000, size="small").status_code == 403


def test_a_coffee_that_is_not_sold_is_not_found(start: Start) -> None:
    _, ada = start()
    ada.sign_in()
    assert ada.add(kind="tea").status_code == 404


@pytest.mark.parametrize(
    ("form", "status"),
    [({"card": "4242 4242 4242 4241"}, 422), ({"cvc": ""}, 422), ({"card": "4000 0000 0000 0002"}, 402)],
)
def test_a_bad_card_is_refused_and_not_charged(start: Start, form: dict[str, str], status: int) -> None:
    shop, ada = start()
    ada.sign_in()
    ada.add()
    assert ada.pay(**form).status_code == status
    assert shop.count("charge") == 0


def test_one_customer_cannot_read_the_receipt_of_another(start: Start, tmp_path: Path) -> None:
    _, ada = start()
    ada.sign_in()
    ada.add()
    ada.pay()
    _, bob = start("--customer", "bob")
    bob.sign_in("bob")
    assert bob.get("/orders/1").status_code == 404


def test_two_browsers_with_one_session_have_baskets_of_their_own(start: Start) -> None:
    shop, ada = start()
    ada.sign_in()
    ada.add()
    with httpx2.Client(base_url=shop.url, cookies={"session": ada.client.cookies["session"]}) as client:
        assert "It is empty" in client.get("/basket").text


def test_a_session_that_ends_asks_for_a_new_sign_in_and_keeps_the_basket(start: Start) -> None:
    shop, ada = start("--session-uses", "5")
    ada.sign_in()  # then /menu, which it leads to: use 1
    ada.add()  # the form's page, the form and /basket: uses 2, 3, 4
    answer = ada.pay()  # /checkout is use 5; the payment comes too late
    assert answer.url.path == "/signin"
    assert shop.count("charge") == 0
    assert "1 × Latte" in ada.sign_in(next="/basket").text


def test_a_price_that_changes_at_the_checkout_must_be_confirmed(start: Start) -> None:
    shop, ada = start("--price-rise-cents", "30")
    ada.sign_in()
    ada.add()
    answer = ada.pay()
    assert answer.status_code == 409
    assert "changed from €4.20" in answer.text
    assert shop.count("charge") == 0
    assert ada.pay(total="450").url.path == "/orders/1"
    assert shop.count("charge") == 1


def test_some_requests_get_a_503_and_the_same_seed_gives_the_same_ones(start: Start, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        _, visitor = start("--unavailable", "0.5", "--seed", "7")
        answers = [visitor.get("/menu") for _ in range(20)]
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        runs.append([a.status_code for a in answers])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}


def test_the_answer_to_a_payment_can_be_lost_after_the_charge(start: Start) -> None:
    shop, ada = start("--lost-answers", "1")
    ada.sign_in()
    ada.add()
    assert ada.pay().status_code == 503
    assert shop.count("charge") == 1
    assert "Order 1" in ada.get("/orders").text


def test_a_slow_basket_takes_its_time_and_the_menu_does_not(start: Start) -> None:
    _, ada = start("--slow-s", "0.4")
    ada.sign_in()
    began = time.monotonic()
    ada.get("/basket")
    basket_s = time.monotonic() - began
    began = time.monotonic()
    ada.get("/menu")
    assert basket_s >= 0.4 > time.monotonic() - began
