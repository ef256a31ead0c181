"""Boxes that take rooms at an inn, which can be given back: each is told to a server, which a test then asks."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import kibo


def told(path: str, timeout_s: float = 60) -> str:
    """Tells the inn something, and returns its receipt."""
    request = urllib.request.Request(f"http://inn.example{path}", b"guest=ada")
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return str(answer.read().decode())


class Inn(kibo.Box):
    """Takes rooms."""

    def launch(self) -> None:
        self.taken: list[str] = []

    @kibo.action(effect="reversible", compensate="give_back")
    def take(self, room: str, nights: int = 1) -> str:
        """Take a room."""
        receipt = told(f"/take/{room}")
        self.taken.append(room)
        return receipt

    @kibo.action(timeout_s=1)
    def give_back(self, room: str, nights: int, result: str) -> None:
        """Give a room back, if it is one of those that go wrong after that is told."""
        told(f"/free/{room}/{nights}/{result.split()[1]}")
        self.taken.remove(room)
        if room == "sticky":
            raise ValueError("it sticks")
        if room == "endless":
            time.sleep(60)
        if room == "deadly":
            os._exit(3)

    @kibo.action(effect="read")
    def rooms(self) -> list[str]:
        """Return what it has taken."""
        return self.taken

    @kibo.action(effect="reversible", compensate="give_back")
    def take_and_pay(self, room: str, nights: int = 1) -> str:
        """Take a room, and pay where no rule lets that out."""
        try:
            told("/pay", 0.5)
        except TimeoutError:
            return told(f"/take/{room}")
        return "paid 0"

    @kibo.action(effect="reversible", compensate="free_later")
    def take_later(self, room: str) -> None:
        """Have a thread take a room that begins when this is over."""
        threading.Thread(target=self._later, args=(room,), daemon=True).start()

    def _later(self, room: str) -> None:
        while not Path("/work/over").exists():
            time.sleep(0.01)
        told(f"/late/{room}")

    @kibo.action
    def free_later(self) -> None:
        """Nothing was taken."""


class Ledgers(kibo.Box):
    """Orders what is delivered once, and can tell."""

    def launch(self) -> None:
        self.orders = 0

    @kibo.action(effect="irreversible", key="{number}")
    def order(self, number: str, what: str = "tea", fail: str = "") -> dict[str, int]:
        """Order something, unless it is to fail."""
        if fail == "early":
            raise ValueError("sold out")
        told(f"/order/{what}")
        if fail == "late":
            raise ValueError("the receipt cannot be read")
        if fail == "exit":
            os._exit(3)
        self.orders += 1
        return {"orders": self.orders}

    @kibo.action(effect="irreversible", key=lambda number: f"checked {number}", verify="look_up")
    def order_checked(self, number: str, verdict: str = "", fail: str = "exit") -> str:
        """Order something, and die of it unless told otherwise."""
        told("/checked")
        if fail == "exit":
            os._exit(3)
        return "ordered"

    @kibo.action(effect="read")
    def look_up(self, verdict: str) -> object:
        """Tell whether it was ordered."""
        return {"yes": True, "no": False, "unknown": None}.get(verdict, verdict)

    @kibo.action(effect="reversible", compensate="cancel", verify="seen", key="{number}")
    def reserve(self, number: str, found: str = "") -> str:
        """Reserve something, and wait for ever."""
        told(f"/reserve/{number}")
        time.sleep(60)
        return "never"

    @kibo.action(effect="read")
    def seen(self, found: str) -> object:
        """Tell whether it is reserved."""
        return {"yes": True, "no": False}.get(found, found or None)

    @kibo.action
    def cancel(self, number: str, result: str | None = None) -> None:
        """Cancel what is reserved."""
        told(f"/cancel/{number}/{result}")
