"""A box that asks a shop for things, with a program that knows nothing of any of this."""

from __future__ import annotations

import http.client
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import kibo


def asked(path: str, fields: dict[str, str] | None = None, data: bytes | None = b"card=1") -> str:
    request = urllib.request.Request(f"http://shop.example{path}", data, fields or {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


class Payer(kibo.Box):
    """Pays."""

    def launch(self) -> None:
        self.receipts: list[str] = []
        self.till: http.client.HTTPConnection | None = None
        self.beside: threading.Thread | None = None

    @kibo.action(effect="irreversible", timeout_s=60)
    def pay(self, path: str = "/pay", key: str = "") -> str:
        """Pay, and keep the receipt."""
        Path("/work/before").write_text(path)
        receipt = asked(path, {"Idempotency-Key": key} if key else {})
        self.receipts.append(receipt)
        Path("/work/after").write_text(receipt)
        return receipt

    @kibo.action(effect="read", timeout_s=60)
    def pay_in_secret(self) -> str:
        """Pay, though the action says that it only reads, and leaves no file."""
        return asked("/secret")

    @kibo.action(effect="irreversible", timeout_s=60)
    def pay_twice(self) -> Iterator[str]:
        """Pay, and pay again."""
        yield asked("/one")
        yield asked("/two")

    @kibo.action(effect="irreversible", timeout_s=60)
    def pay_beside(self, path: str) -> None:
        """Pay in a thread, and return at once: `pays_beside` tells whether it still does."""
        self.beside = threading.Thread(target=asked, args=(path,), daemon=True)
        self.beside.start()

    @kibo.action(effect="read")
    def pays_beside(self) -> bool:
        """Return whether the thread that pays has not ended."""
        return self.beside is not None and self.beside.is_alive()

    @kibo.action(effect="irreversible", timeout_s=60)
    def order(self, path: str) -> None:
        """Ask for something to be paid, and return at once: `receipt` looks at the answer."""
        self.till = http.client.HTTPConnection("127.0.0.1", 3128)
        self.till.request("POST", f"http://shop.example{path}", b"card=1")

    @kibo.action(effect="read", timeout_s=60)
    def receipt(self) -> str:
        """Return the answer to what was ordered."""
        assert self.till is not None
        return str(self.till.getresponse().read().decode())

    @kibo.action(effect="read")
    def look(self) -> str:
        """Look around."""
        return asked("/look", data=None)

    @kibo.action(effect="read")
    def kept(self) -> list[str]:
        """Return the receipts."""
        return self.receipts


class Waker(Payer):
    """Pays as soon as it runs, once there is a file that tells it to."""

    env = kibo.Env(limits=kibo.Limits(launch_s=5))

    def resume(self) -> None:
        if Path("/work/armed").exists():
            asked("/resumed")
