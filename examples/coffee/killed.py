"""A payment whose program is killed between the charge and its record, and the same program run again.

`python -m examples.coffee.killed BROWSER SHOP NOTE` is that program. What it was buying is in doubt afterwards. The
second run asks `find_order()`, as `@action(verify=...)` says, and gets the receipt of the first: nothing is paid again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples.coffee.boxes import BROWSERS, Coffee, Receipt, customer_of

ROOT = Path(__file__).parents[2]
WITHIN_S = 300.0


def buy(browser: str, shop: str, note: str) -> Receipt:
    """Buys a latte, however often it is called: what stands on the cup names the purchase."""
    box = BROWSERS[browser]() + customer_of(shop) + Coffee()
    receipt: Receipt = box.spawn().buy_coffee("latte", note=note)
    return receipt


def kill_after_the_charge(browser: str, shop: str, note: str, charged: Callable[[], bool]) -> None:
    """Runs `buy` as a program, and kills it as soon as the shop has charged. Its gateway ends with it.

    Raises:
        RuntimeError: It ended before that, or took too long.
    """
    command = [sys.executable, "-m", "examples.coffee.killed", browser, shop, note]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as program:
        deadline = time.monotonic() + WITHIN_S
        try:
            while not charged():
                if program.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the program did not come to its payment")
                time.sleep(0.02)
        finally:
            os.killpg(program.pid, signal.SIGKILL)


def in_doubt() -> dict[str, str]:
    """Lists what may have happened, by id, with what is known of it, as `kibo effects` has it."""
    command = [sys.executable, "-m", "kibo.cli", "effects", "--json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    doubts = [effect for effect in listed if effect["state"] == "in_doubt"]
    return {each["id"]: f"{each['method']} {each['url']}, {each['reason']}" for each in doubts}


if __name__ == "__main__":
    print(buy(*sys.argv[1:]))
