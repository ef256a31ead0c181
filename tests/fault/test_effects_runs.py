"""Random programs over trees of branches whose boxes pay, in which somebody is killed, and what the shop then has done.

The judge knows two things: what the shop has done, by its own log, and what the programs have said before they did it.
Of the product it believes only what it tells users of the end: the ledger, as `kibo effects` lists it. A plan that
fails is printed with how to run it again, alone, and with fewer steps where fewer will do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from effects_judge import Judge, Met, Story, deeds_of
from effects_plans import CUT, DEAF, GATEWAY_POINTS, HALF, USER_POINTS, VICTIMS, make_plan
from own_runtimes import link_layers, new_home
from running_till import serving

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("effects_runs_user.py")
#: Plans of one state directory, one after the other.
SLICE = 25
SLICES = 40
FIRST = 1001


class Shop:
    """A shop that writes down what it has done before it says so, and fails as the path says that it is to."""

    def __init__(self) -> None:
        self.met: list[Met] = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.give(b"looked")

            def do_POST(self) -> None:
                fails = self.path.rpartition("/")[2]
                if fails == DEAF:
                    shop.met.append(Met(self.path, False, time.monotonic()))
                    self.connection.close()
                    return
                self.rfile.read(int(self.headers["content-length"]))
                shop.met.append(Met(self.path, True, time.monotonic()))
                self.close_connection = fails in (CUT, HALF)
                if fails != CUT:
                    self.give(f"receipt for {self.path}".encode(), half=fails == HALF)

            def give(self, body: bytes, *, half: bool = False) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if half else body)

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    pass  # who asked was killed

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def running_shop() -> Iterator[Shop]:
    shop = Shop()
    with serving(shop.server):
        yield shop


def environment(home: Path) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": paths, "KIBO_HOME": str(home)}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with running_shop() as running:
        yield running


@pytest.fixture(scope="module")
def built(shop: Shop) -> Iterator[Path]:
    """A state directory with the layers of the box, and the authority."""
    path = new_home("kibo-runs-")
    made = Runner(path, shop)
    made.carry_out([])
    assert made.complaints([]) == {}
    yield path
    shutil.rmtree(path)


class Runner:
    """Carries out plans in a state directory."""

    def __init__(self, home: Path, shop: Shop) -> None:
        self.home, self.shop = home, shop
        self.told = home / "told"
        self.ended: list[dict[str, Any]] = []

    def carry_out(self, seeds: list[int], without: Sequence[int] = ()) -> None:
        """Runs programs until all plans have been carried out, or one has failed."""
        order = {"home": str(self.home), "told": str(self.told), "seeds": seeds, "without": list(without)}
        found = subprocess.run(
            [sys.executable, PROGRAM, self.shop.address],
            env=environment(self.home),
            input=json.dumps(order) + "\n",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.ended = json.loads(found.stdout)

    def stories(self, seeds: list[int]) -> dict[int, Story]:
        lines = [json.loads(line) for line in self.told.read_text().splitlines()]
        listing = subprocess.run(
            [sys.executable, "-m", "kibo.cli", "effects", "--json"],
            env=environment(self.home), stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        effects = json.loads(listing.stdout)
        found = {}
        for seed in seeds:
            of_seed = [line for line in lines if line.get("seed") == seed]
            mark = f"/{seed}/"
            found[seed] = Story(
                make_plan(seed),
                deeds_of(of_seed),
                any(line["what"] in ("kill", "armed") for line in of_seed),
                [met for met in self.shop.met if met.path.startswith(mark)],
                [effect for effect in effects if effect["url"].startswith(f"http://shop.example{mark}")],
            )
        return found

    def complaints(self, seeds: list[int]) -> dict[int, list[str]]:
        """Lists what is wrong, by plan; 0 stands for none of them."""
        found = {seed: list(Judge(story).complaints()) for seed, story in self.stories(seeds).items()}
        lines = [json.loads(line) for line in self.told.read_text().splitlines()]
        for line in lines:
            if line["what"] == "broken":
                found.setdefault(line["seed"], []).append(line["why"])
        for end in self.ended:
            if end["status"] not in (0, -9):
                found.setdefault(end["seed"], []).append(f"the program ended with {end['status']}")
            if end["left"]:
                found.setdefault(end["seed"], []).append(f"left behind: {end['left']}")
        return {seed: what for seed, what in found.items() if what}


@contextmanager
def runner(built: Path, shop: Shop) -> Iterator[Runner]:
    place = Path(tempfile.mkdtemp(prefix="kibo-run-"))
    try:
        home = place / f"of-{place.name}"
        link_layers(built, home)
        shutil.copytree(built / "authority", home / "authority")
        yield Runner(home, shop)
    finally:
        shutil.rmtree(place)


def wrong_with(
    built: Path, shop: Shop, seeds: list[int], without: Sequence[int] = ()
) -> dict[int, list[str]]:
    with runner(built, shop) as made:
        made.carry_out(seeds, without)
        return made.complaints(seeds)


def smaller(built: Path, shop: Shop, seed: int) -> list[int]:
    """Finds steps without which a plan fails as well."""
    without: list[int] = []
    for number in reversed(range(len(make_plan(seed).steps))):
        if wrong_with(built, shop, [seed], [*without, number]):
            without.append(number)
    return without


def judge(built: Path, shop: Shop, seeds: list[int]) -> None:
    wrong = wrong_with(built, shop, seeds)
    for seed, what in wrong.items():
        print(make_plan(seed), f"KIBO_TEST_SEED={seed} runs it alone.", *what, sep="\n")
    if wrong and len(seeds) == 1:
        print(f"It fails as well without steps {smaller(built, shop, seeds[0])}.")
    assert not wrong


def test_every_named_point_is_where_somebody_dies_in_the_long_run() -> None:
    kills = [make_plan(seed).kill for seed in range(FIRST, FIRST + SLICE * SLICES)]
    assert {kill.point for kill in kills} == {"", *GATEWAY_POINTS, *USER_POINTS}
    assert {kill.who for kill in kills if not kill.point} == set(VICTIMS)


@pytest.mark.timeout(300)
def test_whoever_is_killed_nothing_leaks_nothing_is_lost_and_nothing_happens_twice(
    built: Path, shop: Shop
) -> None:
    seed = os.environ.get("KIBO_TEST_SEED")
    judge(built, shop, [int(seed)] if seed else list(range(1, SLICE + 1)))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(SLICES))
def test_nor_in_a_thousand_plans(built: Path, shop: Shop, number: int) -> None:
    first = FIRST + number * SLICE
    seeds = list(range(first, first + SLICE))
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(judge, built, shop, seeds[half::2]) for half in range(2)]:
            done.result()
