"""Kibo's main job, step by step: three boxes buy coffee in a real web shop, with a real browser.

First one coffee. Then three sizes race to the payment, of which one is paid. Then the program is killed between a
charge and its record, and the next one finds out instead of paying again.

`make demo`, or `python -m examples.coffee.demo --help`. Leaves a picture of the receipt in demo-out/, and the layers
of the browser's environment in Kibo's state directory, so that a second run takes seconds.
"""

import argparse
import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from examples.coffee import killed
from examples.coffee.boxes import Browser, Coffee, DebianBrowser, OatCoffee, Receipt, customer_of
from examples.coffee.leftovers import Traces
from examples.coffee.racing import SIZES, race
from examples.coffee.shop.store import Store
from kibo import Box, KiboError
from kibo.branch.explore.exploration import ExploreEvent
from kibo.model.errors import HostUnsupported
from kibo.runtime.states import Launched, Launching
from kibo.wiring import runtime

ROOT = Path(__file__).parents[2]
RACE_S = 240.0  # that a payment waits for its race
#: Of the shop in which a program is killed: from a charge to its answer.
SLOW_ANSWER = ["--slow-answer-s", "60"]
TROUBLE = {
    "prices rise at the checkout": ["--price-rise-cents", "30"],
    "sessions end after nine pages": ["--session-uses", "9"],
    "one page in ten is a 503": ["--unavailable", "0.1", "--seed", "4"],
    "the first payment's answer is lost": ["--lost-answers", "1"],
    "the basket is slow": ["--slow-s", "0.3"],
}

RACE = {
    "started": "forked",
    "held": "waits with its payment",
    "scored": "would cost",
    "stopped": "stopped: its payment was never sent",
    "won": "won: its payment is sent",
}
LAUNCHES = {
    "Browser": "Chromium opened once",
    "DebianBrowser": "Chromium opened once",
    "LocalAccount": "signed in through the browser",
}

console = Console(highlight=False)


def main() -> int:
    """Runs the demo; returns the program's exit status."""
    parser = argparse.ArgumentParser(description="Three boxes buy one coffee.")
    parser.add_argument("--calm", action="store_true", help="a shop that has none of the usual trouble")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo-out", help="where the receipt's picture goes"
    )
    options = parser.parse_args()
    # A password that nobody knows: the shop and Kibo are told it, the boxes never are.
    os.environ["SHOP_PASSWORD"] = secrets.token_urlsafe(12)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        traces = Traces(runtime().home)
        with open_shop(options.out, {} if options.calm else TROUBLE) as (shop, orders):
            browser = choose_browser()
            receipt = buy(browser, shop, options.out)
            bought = check_orders(orders(), [receipt])
            receipt = race_for_the_cheapest(browser, shop)
            bought &= check_orders(orders()[:-1], [receipt])
        with open_shop(options.out, {"a payment's answer takes a minute": SLOW_ANSWER}) as (shop, orders):
            found = be_killed(browser, shop, lambda: bool(orders()))
            bought &= check_orders(orders(), found)
        runtime().close()
        return 0 if bought & check_traces(traces) else 1
    except KiboError as error:
        console.print(f"[red]{error.code}[/] {error.message}")
        console.print(f"[dim]{error.hint}[/]")
        return 1


def buy(browser: Browser, shop: str, out: Path) -> Receipt:
    """Builds, spawns and orders, telling what each step takes."""
    box1, box2 = browser, customer_of(shop)
    box3 = box1 + box2 + Coffee()
    told("box3", "Browser() + Account(customer='ada') + Coffee()")
    build(box3)
    told("built again", "cached: the environment, the launch and the sign-in", build(box3))
    oat = build(box1 + box2 + OatCoffee())
    told("another sum", "+ OatCoffee(): the launch and the sign-in are the same cached states", oat)

    began = time.monotonic()
    with box3.spawn() as box:
        told("spawned", "a fork of the signed-in state, with a Chromium of its own", since(began))
        began = time.monotonic()
        receipt: Receipt = box.buy_coffee("latte", "medium")
        told("ordered", f"{receipt.coffee}, {euros(receipt.cents)}, order {receipt.order}", since(began))
        picture = out / "receipt.png"
        picture.write_bytes(box.screenshot())
        password = box.exec("env").stdout
        began = time.monotonic()
    told("destroyed", "the box and all that ran in it", since(began))
    held = next(line for line in text(password).splitlines() if line.startswith("SHOP_PASSWORD="))
    told("secret", f"all the box ever held: {held}")
    told("receipt", str(picture))
    return receipt


def race_for_the_cheapest(browser: Browser, shop: str) -> Receipt:
    """Has three forks of one signed-in box come to the payment, and one of them pay."""
    began = time.monotonic()
    told("race", f"three forks of one box order a latte each: {', '.join(SIZES)}; the cheapest is to win")

    def show(event: ExploreEvent) -> None:
        if event.attempt is not None and (said := RACE.get(event.kind)):
            quote = euros(-int(event.attempt.score)) if event.attempt.score is not None else ""
            told(event.attempt.name, f"{said} {quote}".rstrip(), since(began))

    receipt = race(browser + customer_of(shop) + Coffee(patience_s=RACE_S), "latte", show)
    told("committed", f"{receipt.coffee}, {euros(receipt.cents)}, order {receipt.order}", since(began))
    return receipt


def be_killed(browser: Browser, shop: str, charged: Callable[[], bool]) -> list[Receipt]:
    """Has another program pay, kills it once the shop has charged, and does what it did again."""
    kind, note = type(browser).__name__, f"ada {secrets.token_hex(3)}"
    known, began = killed.in_doubt(), time.monotonic()
    told("killing", "another program buys a latte, and is killed between the charge and its record")
    killed.kill_after_the_charge(kind, shop, note, charged)
    told("killed", "kill -9, of the program; its gateway ends with it", since(began))
    for effect, said in killed.in_doubt().items():
        if effect not in known:
            told("in doubt", said)
    told("again", f"the same call: is there an order with {note!r} on its cup?")
    receipt = killed.buy(kind, shop, note)
    if left := killed.in_doubt().keys() - known:
        told("in doubt", f"[red]still: {', '.join(left)}[/]")
        return []
    told("found out", f"the order history has order {receipt.order}: it is not paid again")
    return [receipt]


def choose_browser() -> Browser:
    """Returns the browser that this host and this user can have, built."""
    try:
        build(Browser())
    except HostUnsupported as error:
        told("host", f"[yellow]{error.message}[/]")
        told("", "so the browser gets a Debian of its own")
        return DebianBrowser()
    return Browser()


def build(box: Box) -> float:
    """Builds what is not cached, showing progress; returns the seconds it took."""
    began = time.monotonic()
    with console.status("building") as status:
        runtime().build(box, progress=show_progress(status.update, began))
    return time.monotonic() - began


def show_progress(say: Callable[[str], None], began: float) -> Callable[[Any], None]:
    """Makes what a build calls with its events: running output in one line, and a line for each thing done."""

    def show(event: Any) -> None:
        if isinstance(event, Launching):
            say(f"{event.part}.launch()")
            if event.part.endswith("Browser"):
                told("environment", "Chromium and Playwright, in layers of the box", since(began))
        elif isinstance(event, Launched):
            if event.part in LAUNCHES:
                told("launched", f"{event.part}: {LAUNCHES[event.part]}", event.seconds)
        elif event.kind == "output":
            say(f"{event.step} [dim]{event.text.strip()[:70]}[/]")
        elif event.kind in ("cached", "built"):
            told(event.kind, event.step, event.seconds)
        else:
            say(event.step)

    return show


@contextlib.contextmanager
def open_shop(out: Path, trouble: dict[str, list[str]]) -> Iterator[tuple[str, Callable[[], list[Any]]]]:
    """Starts the shop as a program of its own; gives its address and a way to read its order book."""
    switches = [switch for pair in trouble.values() for switch in pair]
    database = out / "shop.db"
    forget(database)  # the last demo's, if it was killed
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "examples.coffee.shop", "--db", str(database), "--until-eof", *switches]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the shop did not start")
            told("shop", f"a web shop on {url}" + (", with some trouble:" if trouble else ""))
            for each in trouble:
                told("", each)
            store = Store(database)
            try:
                yield url.removeprefix("http://"), store.orders
            finally:
                store.close()
        finally:
            process.terminate()
    forget(database)


def forget(database: Path) -> None:
    """Removes a database and what SQLite keeps beside it."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def check_orders(orders: list[Any], receipts: list[Receipt]) -> bool:
    """Shows the shop's own order book, and whether it agrees that one coffee was bought.

    Args:
        orders: Those that came of the last step.
        receipts: What that step has bought.
    """
    table = Table(
        "order", "customer", "on the cup", "paid", title="The shop's order book", title_justify="left"
    )
    for order in orders:
        table.add_row(str(order.id), order.customer, order.note, euros(order.cents))
    console.print(table)
    bought = [(receipt.order, receipt.note) for receipt in receipts]
    right = len(orders) == 1 and [(order.id, order.note) for order in orders] == bought
    console.print("[green]one order, the one on the receipt[/]" if right else "[red]not exactly one order[/]")
    return right


def check_traces(traces: Traces) -> bool:
    """Shows what is left on the machine, and whether that is nothing."""
    left = traces.left()
    lines = [
        f"{kind}: {len(found)}" + "".join(f"\n  {thing}" for thing in sorted(found))
        for kind, found in left.items()
    ]
    clean = not any(left.values())
    console.print(
        Panel(
            "\n".join(lines), title="Left on this machine", border_style="green" if clean else "red", width=60
        )
    )
    return clean


def told(step: str, what: str, seconds: float | None = None) -> None:
    """Prints one step, with its time where it has one."""
    took = "" if seconds is None else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
    console.print(f"[bold]{step:>12}[/]  {took:>9}  {what}", soft_wrap=True)


def since(began: float) -> float:
    """Returns the seconds since `began`."""
    return time.monotonic() - began


def euros(cents: int) -> str:
    """Writes an amount of money."""
    return f"€{cents // 100}.{cents % 100:02}"


def text(output: str | bytes) -> str:
    """Returns the output of a command as text."""
    return output if isinstance(output, str) else output.decode()


if __name__ == "__main__":
    sys.exit(main())
