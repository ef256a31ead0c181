"""The port through which definitions are spawned."""

from typing import Any

import pytest

from coffee_boxes import Browser
from kibo.box import spawning


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
    before = spawning.install(recorder)
    yield recorder
    spawning.install(before)


def test_spawning_a_definition_asks_the_installed_spawner(recorder):
    assert Browser().spawn(name="web", progress=print) == "an instance"
    assert recorder.asked == [(Browser(), {"name": "web", "progress": print})]


def test_the_spawner_is_made_once_on_first_use():
    made = []
    before, provider = spawning.install(None), spawning._provider
    try:
        spawning.provide(lambda: made.append(Recorder()) or made[-1])
        assert spawning.current() is spawning.current()
        assert len(made) == 1
    finally:
        spawning._provider = provider
        spawning.install(before)
