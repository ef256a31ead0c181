"""Runs on many nodes, where everything goes wrong that can: what must hold of them holds. See `sim_trials`.

Each test prints nothing unless it fails, and then says its seed: `python -m sim_trials SEED NODES RUNS` repeats it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_trials import fast_directory, many, trial


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with fast_directory() as made:
        yield Path(made)


@pytest.mark.parametrize("seed", [5, 6, 11])
def test_no_run_is_lost_or_in_two_places_and_no_bound_is_passed(place: Path, seed: int) -> None:
    found = trial(seed, nodes=6, count=100, directory=place)
    assert found.states["done"] > 20
    assert found.told["attempts to work"] > 60


def test_a_seed_repeats_exactly(place: Path) -> None:
    assert trial(7, nodes=4, count=40, directory=place) == trial(7, nodes=4, count=40, directory=place)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_thousand_seeds(place: Path) -> None:
    for seed in range(1000, 2000):
        trial(seed, nodes=10, count=200, directory=place)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_hundred_nodes_and_ten_thousand_runs() -> None:
    """A thousand of these are some hours: ``KIBO_SIM_SEEDS=1000 make soak``."""
    seeds = range(1, 1 + int(os.environ.get("KIBO_SIM_SEEDS", "4")))
    assert all(many(seeds, nodes=100, count=10_000))
