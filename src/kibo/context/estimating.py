"""How many tokens a text has, without a vocabulary: a rule by which it has rather too many than too few.

Measured against o200k_base over the texts of ``tests/corpus.py``: never below it, and 1.0 to 1.6 times as many for
prose in English, programs, JSON, logs, hexadecimal digits and base64; up to 2.5 for most other languages, and 4 for
those that it knows best.
"""

from __future__ import annotations

import re
from typing import Final

#: What is a token each, of ASCII. A blank is a part of the word or the sign behind it, and of no digit or control.
_PIECES: Final = re.compile(
    r"[A-Z]?[a-z]{1,4}|[A-Z]{1,3}|[0-9]{1,3}"
    r"| (?=[0-9\x00-\x08\x0b\x0c\x0e-\x1f])| {1,64}(?= )"
    r"|[\t\r\n]{1,2}|[\x00-\x08\x0b\x0c\x0e-\x1f!-/:-@\[-`{-\x7f]"
)
#: What may be an encoding of something: no vocabulary has words for it.
_RUNS: Final = re.compile(r"[A-Za-z0-9+/]{16,}")
_PARTS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[+/]")
#: Letters in a row that are more than a word.
_LONG: Final = 24
#: Tokens of twelve characters of that: base64 has about 8.5, hexadecimal digits 7.
_DENSE: Final = 9
#: Quarters of a token that a character costs which is not ASCII, by ranges: the first that it is in. What is common in
#: one costs less than what a vocabulary has never seen, and the rule does not know which is which.
_OTHERS: Final = [
    (re.compile(f"[{ranges}]+"), quarters)
    for ranges, quarters in (
        ("\u0080-\u00ff\u0370-\u07ff\u200d\u2010-\u2027", 4),  # Latin-1, Greek to N'Ko; quotes, dashes
        ("\u2500-\u257f", 5),  # frames
        ("\u0100-\u02ff\u0900-\u10ff\u2580-\u25ff\u3040-\u30ff", 6),  # Latin; Indic to Georgian; kana
        ("\u0300-\u036f\u4e00-\u9fff", 8),  # marks on letters; Chinese characters
        ("\u1200-\u139f\u1d00-\u200c\u200e\u200f\u2028-\u24ff\u2600-\u303f\uac00-\ud7ff\ufe00-\uffff", 10),
        ("\u0800-\u08ff\u1100-\u11ff\u13a0-\u1cff\u3100-\u4dff\ua000-\uabff\ud800-\ufdff", 12),
        ("\U0001f000-\U0001faff", 12),  # pictures
        ("\U00010000-\U0001efff\U0001fb00-\U0010ffff", 16),  # a token a byte
    )
]


def estimate(text: str) -> int:
    """Estimates how many tokens a text has. About 60 ns a character.

    A word is a token for each four letters begun, where it is in capitals for each three; a number one for each three
    digits begun, and one for the blank before it; a sign one; a run of blanks one for each 64 begun. Of 16 and more
    letters and digits that are no words, such as base64, twelve characters are nine tokens. What is not ASCII is one to
    four tokens a character.
    """
    total = len(_PIECES.findall(text)) + text.count("\x1b")
    for run in _RUNS.findall(text):
        if _is_dense(run):
            total += max(0, -(-len(run) * _DENSE // 12) - len(_PIECES.findall(run)))
    if not text.isascii():
        quarters = sum(cost * sum(map(len, what.findall(text))) for what, cost in _OTHERS)
        total += -(-quarters // 4)
    return total


def _is_dense(run: str) -> bool:
    """Tells whether letters and digits in a row are no words: small and large ones and digits change all the time, or
    never.
    """
    if run.isdigit():
        return False
    parts = _PARTS.findall(run)
    numbers = sum(part.isdigit() for part in parts)
    return len(parts) * 3 > len(run) or max(map(len, parts)) > _LONG or (numbers > 1 and "/" not in run)
