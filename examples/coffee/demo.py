"""Kibo's main job, step by step: three boxes buy one coffee in a real web shop, with a real browser.

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

from examples.coffee.boxes import Account, Browser, Coffee, DebianBrowser, OatCoffee, Receipt
from examples.coffee.leftovers import Traces
from examples.coffee.shop.store import Store
from kibo import Allow, Box, KiboError
from kibo.model.errors import HostUnsupported
from kibo.runtime.states import Launched, Launching
from kibo.wiring import runtime

ROOT = Path(__file__).parents[2]
TROUBLE = {
    "prices rise at the checkout": ["--price-rise-cents", "30"],
    "sessions end after nine pages": ["--session-uses", "9"],
    "one page in ten is a 503": ["--unavailable", "0.1", "--seed", "4"],
    "the first payment's answer is lost": ["--lost-answers", "1"],
    "the basket is slow": ["--slow-s", "0.3"],
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
        with open_shop(options.out, calm=options.calm) as (shop, orders):
            receipt = buy(shop, options.out)
            runtime().close()
            bought = check_orders(orders(), receipt)
        return 0 if bought & check_traces(traces) else 1
    except KiboError as error:
        console.print(f"[red]{error.code}[/] {error.message}")
        console.print(f"[dim]{error.hint}[/]")
        return 1


def buy(shop: str, out: Path) -> Receipt:
    """Builds, spawns and orders, telling what each step takes."""

    class LocalAccount(Account):
        """Signed in to the shop as one customer."""

        egress = [Allow("shop.example", to=shop)]

    box1, box2 = choose_browser(), LocalAccount(customer="ada")
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
def open_shop(out: Path, *, calm: bool) -> Iterator[tuple[str, Callable[[], list[Any]]]]:
    """Starts the shop as a program of its own; gives its address and a way to read its order book."""
    switches = [] if calm else [switch for pair in TROUBLE.values() for switch in pair]
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
            told("shop", f"a web shop on {url}" + ("" if calm else ", with the usual trouble:"))
            for trouble in () if calm else TROUBLE:
                told("", trouble)
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


def check_orders(orders: list[Any], receipt: Receipt) -> bool:
    """Shows the shop's own order book, and whether it agrees that one coffee was bought."""
    table = Table(
        "order", "customer", "on the cup", "paid", title="The shop's order book", title_justify="left"
    )
    for order in orders:
        table.add_row(str(order.id), order.customer, order.note, euros(order.cents))
    console.print(table)
    right = [(order.id, order.note) for order in orders] == [(receipt.order, receipt.note)]
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
