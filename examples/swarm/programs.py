"""Small programs on text: steps, one after another. What an explorer searches, with neither a model nor a network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

STEPS: Final[dict[str, Callable[[str], str]]] = {
    "upper": str.upper,
    "title": str.title,
    "swap case": str.swapcase,
    "reverse": lambda text: text[::-1],
    "reverse words": lambda text: " ".join(reversed(text.split())),
    "sort words": lambda text: " ".join(sorted(text.split())),
    "longest word": lambda text: max(text.split(), key=len, default=""),
    "first word": lambda text: text.split()[0] if text.split() else "",
    "last word": lambda text: text.split()[-1] if text.split() else "",
    "all but the first word": lambda text: " ".join(text.split()[1:]),
    "initials": lambda text: " ".join(word[0] for word in text.split()),
    "first three": lambda text: text[:3],
    "every other": lambda text: text[::2],
    "without vowels": lambda text: "".join(each for each in text if each.lower() not in "aeiou"),
    "without spaces": lambda text: "".join(text.split()),
    "dashes": lambda text: "-".join(text.split()),
    "dots": lambda text: "".join(f"{word}." for word in text.split()),
    "lengths": lambda text: " ".join(str(len(word)) for word in text.split()),
    "twice": lambda text: text + text,
    "quoted": lambda text: f'"{text}"',
}  # fmt: skip


def perform(program: Sequence[str], text: str) -> str:
    """Does the steps of a program."""
    for step in program:
        text = STEPS[step](text)
    return text


def search(
    shown: Sequence[tuple[str, str]], seed: str, *, tries: int, depth: int
) -> tuple[list[str] | None, int]:
    """Tries programs at random until one does all that is shown.

    Args:
        shown: Texts, and what is to come of each.
        seed: What chance goes by: another one tries others.
        tries: How many programs at most.
        depth: How many steps a program has at most.

    Returns:
        The program, or None where none was found, and how many were tried.
    """
    chance = random.Random(seed)
    steps = list(STEPS)
    for tried in range(1, tries + 1):
        program = chance.choices(steps, k=chance.randint(1, depth))
        if all(perform(program, before) == after for before, after in shown):
            return program, tried
    return None, tries
