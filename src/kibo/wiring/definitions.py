"""Where the definitions of boxes are found again, by a process that was not given them: in the modules that have them.

A run outlives the program that submitted it. What the store holds of its box is where the classes are and what their
parameters were, never code: whoever finds them there makes the box anew, and its digest says whether it is the same.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from kibo.box.conflicts import Yield
from kibo.box.define import Box
from kibo.box.results import to_builtins
from kibo.box.sums import parts_of, sum_of, yields_of
from kibo.model.errors import DefinitionUnknown, InvalidResult, KiboError, WrongState
from kibo.schedule.work import DefinedPart, Work
from kibo.wiring.modules import file_module, named_module

_SCRIPT: Final = "__main__"
#: Those that this process was given, by digest.
_known: dict[str, Box] = {}
_loading: Final = threading.local()
_importing: Final = threading.RLock()


def note(box: Box) -> None:
    """Remembers a definition for as long as this process lives."""
    _known.setdefault(box.digest, box)


def known(digest: str) -> Box | None:
    """Returns a definition that this process was given, or has found."""
    return _known.get(digest)


def written(box: Box) -> tuple[tuple[DefinedPart, ...], tuple[tuple[str, str, str, str], ...]]:
    """Says where a definition is found again, and what conflicts it settles.

    Returns:
        Nothing, where another process cannot find it: it is of a notebook, or was made inside of a function.
    """
    yields = tuple(sorted((each.kind, each.key, each.loser, each.winner) for each in yields_of(box)))
    parts = [_part(each) for each in parts_of(box)]
    found = [each for each in parts if each is not None]
    return (tuple(found), yields) if len(found) == len(parts) else ((), ())


def _part(box: Box) -> DefinedPart | None:
    cls = type(box)
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None) or ""
    if "<" in cls.__qualname__ or (cls.__module__ == _SCRIPT and not file):
        return None
    given = {name: value for name, value in box.__dict__.items() if not name.startswith("_")}
    try:
        parameters = {name: to_builtins(value) for name, value in given.items()}
    except InvalidResult:
        return None
    return DefinedPart(
        cls.__module__, str(Path(file).absolute()) if file else "", cls.__qualname__, parameters
    )


def find(work: Work) -> Box:
    """Returns the box that a run is of, from this process or from the modules that define it, which it imports.

    Raises:
        DefinitionUnknown: It is not there, or another by now.
    """
    box = known(work.box)
    if box is None:
        # One at a time: whoever comes second would find a module that is only half imported.
        with _importing:
            box = known(work.box)
            if box is None:
                with _told(work):
                    box = _made(work)
                note(box)
    return box


def refuse_while_loading() -> None:
    """Refuses to submit where a script is imported for what it defines: it would submit the same again.

    Raises:
        WrongState: It is.
    """
    if getattr(_loading, "depth", 0):
        raise WrongState(
            "a run was submitted while the module that defines its box was being imported",
            hint='Submit below `if __name__ == "__main__":`, or in a function.',
        )


@contextmanager
def _told(work: Work) -> Iterator[None]:
    _loading.depth = getattr(_loading, "depth", 0) + 1
    try:
        yield
    except KiboError as error:
        if isinstance(error, DefinitionUnknown):
            raise
        raise _unknown(work, error.message) from error
    finally:
        _loading.depth -= 1


def _made(work: Work) -> Box:
    if not work.parts:
        raise _unknown(work, "it was defined in a notebook or inside of a function")
    boxes = [_box(work, part) for part in work.parts]
    box = sum_of(boxes, frozenset(Yield(*each) for each in work.yields))
    if box.digest != work.box:
        raise _unknown(work, f"{box!r} is another definition by now")
    return box


def _box(work: Work, part: DefinedPart) -> Box:
    found: Any = _module(part)
    for word in part.name.split("."):
        found = getattr(found, word, None)
    if not (isinstance(found, type) and issubclass(found, Box)):
        raise _unknown(work, f"{part.file or part.module} has no box {part.name}")
    return found(**part.parameters)


def _module(part: DefinedPart) -> ModuleType:
    there = sys.modules.get(part.module)
    if there is not None and _is_file(getattr(there, "__file__", None), part.file):
        return there
    if part.module != _SCRIPT:
        try:
            spec = importlib.util.find_spec(part.module)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and (not part.file or _is_file(spec.origin, part.file)):
            return named_module(part.module)
    return file_module(Path(part.file)) if part.file else named_module(part.module)


def _is_file(one: str | None, other: str) -> bool:
    return bool(one) and str(Path(str(one)).absolute()) == other


def _unknown(work: Work, why: str) -> DefinitionUnknown:
    names = " + ".join(part.name for part in work.parts) or work.box[:16]
    return DefinitionUnknown(
        f"the definition of {names} was not found again: {why}",
        details={"box": work.box, "files": [part.file for part in work.parts]},
    )
