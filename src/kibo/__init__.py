"""Kibo: the runtime layer for AI agents.

The public names, each imported on first use: this package is also imported inside boxes, and stays light there.
"""

from typing import TYPE_CHECKING, Any

from kibo.box.spawning import Spawner, provide

if TYPE_CHECKING:
    from kibo.box.define import Box as Box
    from kibo.box.define import action as action
    from kibo.box.define import on_event as on_event
    from kibo.box.define import use as use
    from kibo.box.env import Env as Env
    from kibo.box.env import Limits as Limits
    from kibo.box.env import Service as Service
    from kibo.box.policy import Allow as Allow
    from kibo.box.policy import Deny as Deny
    from kibo.box.policy import Secret as Secret
    from kibo.model.errors import KiboError as KiboError
    from kibo.wiring import pool as pool

__version__ = "0.1.0"

#: Each public name and the module that defines it.
_PUBLIC = {
    "Allow": "kibo.box.policy",
    "Box": "kibo.box.define",
    "Deny": "kibo.box.policy",
    "Env": "kibo.box.env",
    "KiboError": "kibo.model.errors",
    "Limits": "kibo.box.env",
    "Secret": "kibo.box.policy",
    "Service": "kibo.box.env",
    "action": "kibo.box.define",
    "on_event": "kibo.box.define",
    "pool": "kibo.wiring",
    "use": "kibo.box.define",
}

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  (names, from the table above)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'kibo' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def _runtime() -> Spawner:
    from kibo.wiring import spawner

    return spawner()


# Here, because definitions know nothing above them: the first `spawn()` wires the runtime in.
provide(_runtime)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
