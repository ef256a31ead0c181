"""The port through which definitions are spawned."""

from typing import Any

import pytest

from coffee_boxes import Browser
from kibo.box import spawning
from kibo.model.errors import Bug


class Recorder:
    """A spawner that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def spawn(self, box, **options):
        self.asked.append((box, options))
        return "an instance"


@pytest.fixture
def recorder():
    recorder = Recorder()
    before = spawning.provide(lambda: recorder)
    yield recorder
    spawning.provide(before)


def test_spawning_a_definition_asks_the_installed_spawner(recorder):
    assert Browser().spawn(name="web", progress=print) == "an instance"
    assert recorder.asked == [(Browser(), {"name": "web", "progress": print})]


def test_a_spawner_that_takes_the_place_of_another_is_asked_from_then_on(recorder):
    other = Recorder()
    spawning.provide(lambda: other)
    assert Browser().spawn() == "an instance"
    assert (len(other.asked), recorder.asked) == (1, [])


def test_without_a_runtime_nothing_is_spawned():
    before = spawning.provide(None)
    try:
        with pytest.raises(Bug, match="nothing provides a runtime"):
            Browser().spawn()
    finally:
        spawning.provide(before)
