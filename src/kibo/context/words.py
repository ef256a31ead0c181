"""The words by which entries are found: the same on every database.

What a word is is decided here, and databases are given one form that all of their indexes leave as it is: letters of
ASCII and digits behind a mark, so that none is too short for an index or on a list of words to be passed over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_WORD: Final = re.compile(r"[a-z0-9]+|[^\W_a-z0-9]+")
#: Scripts that put no blanks between words: their text is found by pairs of characters.
_JOINED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+")
#: Bytes of a word that count: MariaDB's index takes words of 84 characters, and another alphabet's take two a byte.
_MAX_BYTES: Final = 36
#: Different words of one entry: an index of a megabyte of text is the largest that PostgreSQL takes.
MAX_WORDS: Final = 10_000


def words_of(text: str) -> list[str]:
    """Returns the words of a text in order: letters and digits without case, and without the form that they are in."""
    found: list[str] = []
    for piece in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _JOINED.fullmatch(piece):
            found += [piece[at : at + 2] for at in range(len(piece) - 1)] or [piece]
        else:
            found.append(piece)
    return found


def indexed(text: str) -> str:
    """Returns what an index is given of a text: each of its words once."""
    return " ".join(encoded(dict.fromkeys(words_of(text))))


def encoded(words: Iterable[str]) -> list[str]:
    """Returns words in the form that indexes take, each once."""
    found: dict[str, None] = {}
    for word in words:
        found[_encoded(word)] = None
        if len(found) >= MAX_WORDS:
            break
    return list(found)


@lru_cache(maxsize=20_000)
def _encoded(word: str) -> str:
    raw = word.encode()[:_MAX_BYTES]
    return f"zz{raw.decode()}" if raw.isascii() else f"zx{raw.hex()}"
