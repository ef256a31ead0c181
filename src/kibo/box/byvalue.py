"""Which modules are the user's own: their code is part of a definition and travels with it, by value.

Everything else (the standard library, Kibo, installed packages) is known by its name and is found inside the box.
"""

import sys
import sysconfig
from types import ModuleType

_INSTALLED = tuple(
    {
        path.rstrip("/") + "/"
        for name in ("purelib", "platlib", "stdlib", "platstdlib")
        for path in [sysconfig.get_path(name)]
    }
)


def is_users_own(module: ModuleType | None, name: str) -> bool:
    """Says whether code of the module called `name` belongs to the definition.

    So does what was defined in a script or a notebook (`__main__`), in a module that is no longer loaded, and in any
    module whose file is outside the interpreter's library and its site-packages.
    """
    top = name.partition(".")[0]
    if top == "__main__":
        return True
    if top == "kibo" or top in sys.stdlib_module_names:
        return False
    if module is None:
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # a namespace package, or built into the interpreter
        spec = getattr(module, "__spec__", None)
        return spec is None
    return not ("/site-packages/" in file or "/dist-packages/" in file or file.startswith(_INSTALLED))


def users_modules() -> list[ModuleType]:
    """Returns the loaded modules that are the user's own, `__main__` apart."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name != "__main__" and isinstance(module, ModuleType) and is_users_own(module, name)
    ]
