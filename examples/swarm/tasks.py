"""What is looked for: twenty programs, each known by what it makes of four names; two are kept for a check."""

from __future__ import annotations

from typing import Final

NAMES: Final = ["ada king lovelace", "alan mathison turing", "grace brewster hopper", "edsger wybe dijkstra"]

_WANTED: Final = {
    "initials": ["A.K.L.", "A.M.T.", "G.B.H.", "E.W.D."],
    "surname first": [
        "Lovelace King Ada",
        "Turing Mathison Alan",
        "Hopper Brewster Grace",
        "Dijkstra Wybe Edsger",
    ],
    "shouted": [
        '"ADA KING LOVELACE"',
        '"ALAN MATHISON TURING"',
        '"GRACE BREWSTER HOPPER"',
        '"EDSGER WYBE DIJKSTRA"',
    ],
    "slug": ["ada-king-lovelace", "alan-mathison-turing", "brewster-grace-hopper", "dijkstra-edsger-wybe"],
    "consonants": ["dknglvlc", "lnmthsntrng", "grcbrwstrhppr", "dsgrwybdjkstr"],
    "backwards": [
        "Ecalevol Gnik Ada",
        "Gnirut Nosihtam Nala",
        "Reppoh Retswerb Ecarg",
        "Artskjid Ebyw Regsde",
    ],
    "short name": ["LOV", "TUR", "HOP", "DIJ"],
    "first name": ["Ada", "Alan", "Grace", "Edsger"],
    "mirror": [
        "ada-king-lovelaceada-king-lovelace",
        "alan-mathison-turingalan-mathison-turing",
        "grace-brewster-hoppergrace-brewster-hopper",
        "edsger-wybe-dijkstraedsger-wybe-dijkstra",
    ],
    "sizes": ["3-4-8", "4-8-6", "5-8-6", "6-4-8"],
    "family": ["King Lovelace", "Mathison Turing", "Brewster Hopper", "Wybe Dijkstra"],
    "longest": ["LOVELACE", "MATHISON", "BREWSTER", "DIJKSTRA"],
    "code": ["D K", "LN ", "GRC", "DSG"],
    "middle": ["king", "mathison", "brewster", "wybe"],
    "sparse": ["AAKN OEAE", "AA AHSNTRN", "GAEBESE OPR", "ESE YEDJSR"],
    "tag": ["aklakl", "amtamt", "gbhgbh", "ewdewd"],
    "quoted surname": ['"lovelace"', '"turing"', '"hopper"', '"dijkstra"'],
    "sorted initials": ["a.k.l.", "a.m.t.", "b.g.h.", "d.e.w."],
    "joined": ["AdaKingLovelace", "AlanMathisonTuring", "GraceBrewsterHopper", "EdsgerWybeDijkstra"],
    "echo": ["Ecalevol", "Gnirut", "Reppoh", "Artskjid"],
}

#: By task, what explorers are shown, and what the report checks: names, and what is to come of each.
SHOWN: Final = {task: list(zip(NAMES[:2], wanted[:2], strict=True)) for task, wanted in _WANTED.items()}
KEPT: Final = {task: list(zip(NAMES[2:], wanted[2:], strict=True)) for task, wanted in _WANTED.items()}
