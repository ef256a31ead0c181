"""The port through which a definition is spawned: definitions know no runtime, whoever wires one in provides it."""

from collections.abc import Callable
from typing import Any, Protocol

from kibo.model.errors import Bug


class Spawner(Protocol):
    """Makes instances of boxes."""

    @property
    def spawn(self) -> Callable[..., Any]:
        """Makes an instance of a box, with the options that it knows, and returns its proxy; see `Box.spawn`."""


Provider = Callable[[], Spawner]
_provider: Provider | None = None


def provide(provider: Provider | None) -> Provider | None:
    """Says whom to ask for the spawner, each time that something is spawned, and returns who was asked before.

    The package does so once, when it is imported. Nothing is kept here: which runtime is this process's is for its
    provider to say, also after a fork.
    """
    global _provider
    before, _provider = _provider, provider
    return before


def current() -> Spawner:
    """Returns the spawner.

    Raises:
        Bug: The package provides none.
    """
    if _provider is None:
        raise Bug("nothing provides a runtime to spawn with")
    return _provider()
