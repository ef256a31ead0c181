"""A payment whose program is killed between the charge and its record, and what the next program makes of it.

`python -m examples.coffee.killed BROWSER SHOP` is that program. What it sent is in doubt afterwards: Kibo never sends
it again, and the shop's order history tells what became of it.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import kibo
from examples.coffee.boxes import BROWSERS, Coffee, Receipt, customer_of

ROOT = Path(__file__).parents[2]
WITHIN_S = 300.0


def buy_in_a_branch(browser: str, shop: str) -> None:
    """Buys a latte in a fork, and commits it."""
    box = BROWSERS[browser]() + customer_of(shop) + Coffee()
    with kibo.branch(goal="a latte, whatever happens") as main:
        customer = main.spawn(box)
        kibo.explore(customer, [lambda attempt: attempt.buy_coffee("latte")], require=True)


def kill_after_the_charge(browser: str, shop: str, charged: Callable[[], bool]) -> None:
    """Runs `buy_in_a_branch` as a program, and kills it and its gateway as soon as the shop has charged.

    Raises:
        RuntimeError: It ended before that, or took too long.
    """
    command = [sys.executable, "-m", "examples.coffee.killed", browser, shop]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as program:
        deadline = time.monotonic() + WITHIN_S
        try:
            while not charged():
                if program.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the program did not come to its payment")
                time.sleep(0.02)
        finally:
            os.killpg(program.pid, signal.SIGKILL)


def in_doubt() -> list[dict[str, Any]]:
    """Lists what was sent to somewhere, and of which nobody knows what became, as `kibo effects` has it."""
    return [effect for effect in kibo_says("effects") if effect["state"] == "in_doubt"]


def settle(effect: str, shop: Any) -> Receipt | None:
    """Finds out whether a payment in doubt has happened, and says so. Nothing is paid again.

    Args:
        effect: Its id.
        shop: An instance of a box that reads the shop's order history.

    Returns:
        The receipt, where it was charged.
    """
    body = base64.b64decode(kibo_says("effects", "show", effect)["body"]["base64"])
    # What this purchase wrote on the cup tells it from every other.
    (note,) = parse_qs(body.decode())["note"]
    receipt: Receipt | None = shop.find_order(note)
    kibo_says("effects", "resolve", effect, "--not-done" if receipt is None else "--done")
    return receipt


def kibo_says(*command: str) -> Any:
    """Runs the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "kibo.cli", *command, "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    buy_in_a_branch(sys.argv[1], sys.argv[2])
