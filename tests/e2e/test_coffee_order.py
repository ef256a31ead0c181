"""Three boxes buy coffee, for real: a browser in a box, a shop outside it, and the shop's trouble between them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from examples.coffee.boxes import PAGE_TIMEOUT_S, Account, Browser, Coffee, DebianBrowser, OatCoffee, Receipt

import leftovers
from kibo import Allow, Box
from kibo.model.errors import ActionRaised, HostUnsupported
from kibo.wiring import Runtime
from running_shop import ROOT, Shop, running_shop

# The first run installs a browser, in a state directory that later runs find.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
HOME = ROOT / ".cache" / f"kibo-tests-{os.geteuid()}"
PASSWORD = "beans"  # of the shop that the tests start


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    before = set(leftovers.descendants(os.getpid()))
    with leftovers.adopt_orphans(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_PASSWORD", PASSWORD)
        running = Runtime(HOME)
        yield running
        running.close()
        assert not leftovers.await_clean(HOME, os.getpid(), before, within_s=5.0)


@pytest.fixture(scope="module")
def browser(runtime: Runtime) -> Browser:
    try:
        runtime.build(Browser())
    except HostUnsupported:
        return DebianBrowser()
    return Browser()


class Bench:
    """A shop and the customer's box in front of it."""

    def __init__(self, runtime: Runtime, browser: Browser, shop: Shop) -> None:
        class LocalAccount(Account):
            egress = [Allow("shop.example", to=shop.url.removeprefix("http://"))]

        self.shop = shop
        self.signed_in = browser + LocalAccount(customer="ada")
        self._runtime = runtime

    @contextmanager
    def spawn(self, last: Box | None = None):
        with self._runtime.spawn(self.signed_in + (last or Coffee())) as box:
            yield box

    def buy(self, kind: str = "latte", size: str = "small", *, last: Box | None = None) -> Receipt:
        with self.spawn(last) as box:
            return box.buy_coffee(kind, size)

    def orders(self) -> list[tuple[int, str, int]]:
        return self.shop.ask("SELECT id, note, cents FROM purchase")


@pytest.fixture
def start(runtime: Runtime, browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with ExitStack() as stack:

        def start_bench(*switches: str) -> Bench:
            return Bench(runtime, browser, stack.enter_context(running_shop(tmp_path, *switches)))

        yield start_bench


Start = Callable[..., Bench]


def test_one_coffee_is_bought_and_the_receipt_is_the_shops(start: Start) -> None:
    bench = start()
    receipt = bench.buy("latte", "medium")
    assert receipt == Receipt(1, "ada", "1 × Latte, medium", 480, receipt.note)
    assert bench.orders() == [(1, receipt.note, 480)]
    assert bench.shop.count("charge") == 1


def test_boxes_of_one_sign_in_order_at_once_and_each_gets_its_own(start: Start) -> None:
    bench = start()
    receipts: dict[str, Receipt] = {}

    def order(kind: str) -> None:
        receipts[kind] = bench.buy(kind)

    threads = [threading.Thread(target=order, args=(kind,)) for kind in ("latte", "espresso", "flat-white")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {kind: receipt.cents for kind, receipt in receipts.items()} == {
        "latte": 420,
        "espresso": 260,
        "flat-white": 410,
    }
    assert sorted(bench.orders()) == sorted((r.order, r.note, r.cents) for r in receipts.values())
    assert bench.shop.ask("SELECT count(*) FROM session WHERE customer = 'ada'") == [(1,)]


def test_a_kind_of_coffee_inherits_how_to_order(start: Start) -> None:
    assert start().buy("latte", last=OatCoffee()).coffee == "1 × Oat latte, small"


@pytest.mark.parametrize(
    "switches",
    [
        ["--price-rise-cents", "30"],
        # Sessions that end on the way to the basket, and between the charge and the receipt.
        ["--session-uses", "6"],
        ["--session-uses", "8"],
        ["--unavailable", "0.2", "--seed", "3"],
        ["--lost-answers", "1"],
        ["--slow-s", "0.5"],
        ["--price-rise-cents", "30", "--lost-answers", "1", "--session-uses", "9", "--unavailable", "0.1"],
    ],
    ids=" ".join,
)
def test_whatever_the_shop_does_exactly_one_coffee_is_bought(start: Start, switches: list[str]) -> None:
    bench = start(*switches)
    receipt = bench.buy()
    assert bench.orders() == [(receipt.order, receipt.note, receipt.cents)]
    assert bench.shop.count("charge") == 1


@pytest.mark.parametrize(
    ("switches", "last", "kind", "size", "says"),
    [
        (
            ["--price-rise-cents", "51"],
            Coffee(),
            "latte",
            "small",
            "it would now cost 471 cents; at most 470",
        ),
        ([], Coffee(card="4000 0000 0000 0002"), "latte", "small", "declined the card"),
        ([], Coffee(), "tea", "small", "'tea' is not on the menu; there is espresso,"),
        ([], Coffee(), "latte", "bucket", "latte does not come in 'bucket'"),
    ],
    ids=["too dear", "declined", "not sold", "no such size"],
)
def test_what_cannot_be_bought_is_an_error_that_says_why_and_costs_nothing(
    start: Start, switches: list[str], last: Box, kind: str, size: str, says: str
) -> None:
    bench = start(*switches)
    with pytest.raises(ActionRaised, match=says) as raised:
        bench.buy(kind, size, last=last)
    assert raised.value.remote_type.endswith("ShopError")
    assert bench.shop.count("charge") == 0


def test_a_payment_without_an_answer_is_not_repeated(start: Start) -> None:
    bench = start("--slow-payment-s", str(PAGE_TIMEOUT_S + 4))
    with pytest.raises(ActionRaised, match="no answer came") as raised:
        bench.buy()
    assert raised.value.remote_type.endswith("OutcomeUnknown")
    assert bench.shop.count("charge") == 0  # by now; repeated, it would soon be two
    time.sleep(6)
    assert bench.shop.count("charge") == 1


def test_the_box_never_holds_the_password(start: Start) -> None:
    with start().spawn() as box:
        assert "SHOP_PASSWORD=kibo-secret-SHOP_PASSWORD\n" in box.exec("env").stdout
        found = box.exec(["grep", "-rls", PASSWORD, "/home/box", "/tmp", "/work", "/run"], timeout_s=30)
        assert found.stdout == ""


def test_the_browser_reaches_the_shop_and_nothing_else(start: Start) -> None:
    bench = start()
    port = bench.shop.url.rpartition(":")[2]
    with bench.spawn() as box:
        assert box.open("http://shop.example/menu") == "Menu · Kafeneio"
        for address in (f"host.kibo:{port}", "elsewhere.example", "169.254.169.254"):
            box.open(f"http://{address}/")
            assert f"no rule lets this box reach {address}" in box.read()
        direct = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=3)"
        assert "ConnectionRefusedError" in box.exec(["python3", "-c", direct], timeout_s=30).stderr


def test_the_demo_runs_and_leaves_a_picture_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.coffee.demo", "--calm", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "KIBO_HOME": str(HOME)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # One coffee; then one of three that raced to the payment; then one whose program was killed after the charge.
    assert done.stdout.count("one order, the one on the receipt") == 3
    assert done.stdout.count("stopped: its payment was never sent") == 2
    assert "in doubt             CALL Coffee.buy_coffee, " in done.stdout
    assert "the order history has order 1: it is not paid again" in done.stdout
    assert (tmp_path / "receipt.png").read_bytes().startswith(b"\x89PNG")
