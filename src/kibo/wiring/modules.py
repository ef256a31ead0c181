"""The user's own modules, imported by their files as Python would."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from kibo.model.errors import InvalidInput, KiboError

_HINT = "Write module:Name, path/to/file.py:Name, or a sum such as 'file.py:Browser+Account(customer=ada)'."


def named_module(name: str) -> ModuleType:
    """Imports a module by its name, from the working directory first.

    Raises:
        InvalidInput: There is none, or it cannot be imported.
    """
    _first_on_path(Path.cwd())
    return _imported(name, name)


def file_module(path: Path) -> ModuleType:
    """Imports a file as Python would: by its dotted name where it is in a package, else by its own.

    Raises:
        InvalidInput: There is no such file, or it cannot be imported.
    """
    path = path.absolute()
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", hint=_HINT, details={"path": str(path)})
    name, folder = path.stem, path.parent
    while (folder / "__init__.py").exists():
        name, folder = f"{folder.name}.{name}", folder.parent
    _first_on_path(folder)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(path):
        # Another module has this name, such as one of the standard library: this one gets another.
        name = f"{path.stem}_box"
    spec = importlib.util.find_spec(name) if name.isidentifier() or "." in name else None
    if spec is not None and spec.origin == str(path):
        return _imported(name, str(path))
    return _imported_from(path, name)


def _imported_from(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} is no Python file", hint=_HINT)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def _imported(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _broken(shown, error) from error


def _broken(shown: str, error: Exception) -> KiboError:
    if isinstance(error, KiboError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name == shown:
        return InvalidInput(f"there is no module {shown!r}", hint=_HINT, details={"module": shown})
    where = traceback.format_exception_only(error)[-1].strip()
    return InvalidInput(
        f"{shown} cannot be imported: {where}",
        hint="Does it import in Python? --traceback shows where it fails.",
        details={"traceback": "".join(traceback.format_exception(error))},
    )


def _first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
