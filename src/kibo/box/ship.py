"""How a definition's classes travel into a box: pickled by value, from the host to the guest, never back.

The user's own modules (scripts, notebooks, modules outside site-packages) are sent whole where the classes use them,
so that a box needs none of the user's files. Installed modules are named, and must be in the box's environment.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kibo.box.define import Box
from kibo.box.env import Env
from kibo.model.errors import GuestViolation, InvalidDefinition
from kibo.model.limits import MAX_DEFINITION_BYTES, MIB

if TYPE_CHECKING:
    from kibo.box.plan import Plan

_FORMAT = "kibo.parts.1"
_registering = threading.Lock()  # cloudpickle's registry of modules is one for the process

Shipped = tuple[type[Box], Mapping[str, Any], Mapping[str, int]]


def encode_parts(plan: "Plan") -> bytes:
    """Pickles the classes, parameters and needs of a plan's parts, in order. Costs milliseconds; keep the bytes.

    Raises:
        InvalidDefinition: A class holds or uses something that cannot be sent, or is too large in all.
    """
    parts = [(part.cls, dict(part.params), dict(part.needs)) for part in plan.parts]
    with _registering, _users_modules_by_value():
        try:
            blob = _pickled((_FORMAT, parts))
        except (
            Exception
        ) as error:  # pickling runs the user's own __reduce__, which may raise whatever it likes
            raise InvalidDefinition(
                f"a box cannot be sent: {error}",
                hint="Open connections, files and locks in launch() or resume(), not at module level.",
                details={"parts": [part.name for part in plan.parts]},
            ) from error
    if len(blob) > MAX_DEFINITION_BYTES:
        raise InvalidDefinition(
            f"the classes and parameters of the box take {len(blob) / MIB:.0f} MiB; {MAX_DEFINITION_BYTES // MIB} fit",
            hint="Put data into Env.files, or load it in launch().",
            details={"bytes": len(blob), "limit": MAX_DEFINITION_BYTES},
        )
    return blob


def decode_parts(blob: bytes) -> list[Shipped]:
    """Unpickles what `encode_parts` made. Runs in the guest: it executes what the host sent.

    Raises:
        GuestViolation: It is of another format.
    """
    import cloudpickle

    form, parts = cloudpickle.loads(blob)
    if form != _FORMAT:
        raise GuestViolation(f"parts of format {form!r}, not {_FORMAT!r}")
    return [(cls, params, needs) for cls, params, needs in parts]


def _pickled(value: object) -> bytes:
    import dataclasses  # (imports `inspect`: not for every guest, nor does cloudpickle come without it)
    import io

    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            # A dataclass's fields mark what has no default with this one object, and compare by identity. Sent by
            # value it would be another, and a field would seem to have both a default and a factory.
            if obj is dataclasses.MISSING:
                return _attribute, ("dataclasses", "MISSING")
            if isinstance(obj, Env):
                # A box has no use for how it was made, and no business with the host's paths in it.
                return Env, ()
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _attribute(module: str, name: str) -> Any:
    """Finds a named object. Runs in the guest, when it unpickles."""
    from importlib import import_module

    return getattr(import_module(module), name)


@contextmanager
def _users_modules_by_value() -> Iterator[None]:
    import cloudpickle

    from kibo.box.byvalue import users_modules

    known = cloudpickle.list_registry_pickle_by_value()
    # By name, because one module may be loaded under several.
    added = {module.__name__: module for module in users_modules() if module.__name__ not in known}
    for module in added.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added.values():
            cloudpickle.unregister_pickle_by_value(module)
