"""The port through which a definition is spawned: definitions know no runtime, whoever wires one in provides it."""

from collections.abc import Callable
from typing import Any, Protocol

from kibo.model.errors import Bug


class Spawner(Protocol):
    """Makes instances of boxes."""

    @property
    def spawn(self) -> Callable[..., Any]:
        """Makes an instance of a box, with the options that it knows, and returns its proxy; see `Box.spawn`."""


_spawner: Spawner | None = None
_provider: Callable[[], Spawner] | None = None


def provide(provider: Callable[[], Spawner]) -> None:
    """Says how to make the spawner on first use. The package does so once, when it is imported."""
    global _provider
    _provider = provider


def install(spawner: Spawner | None) -> Spawner | None:
    """Makes `spawner` the current one (None: made anew on next use) and returns the one before."""
    global _spawner
    before, _spawner = _spawner, spawner
    return before


def current() -> Spawner:
    """Returns the spawner, made on first use.

    Raises:
        Bug: The package provides none.
    """
    global _spawner
    if _spawner is None:
        if _provider is None:
            raise Bug("nothing provides a runtime to spawn with")
        _spawner = _provider()
    return _spawner
