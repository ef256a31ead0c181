"""A description of definitions that is the same in every process and on every machine.

Code is described by what it does, not by where it stands: bytecode, constants and names, without file names and line
numbers, and the values of the globals and closures that it uses. Sets are sorted, so that hash seeds do not matter.
The user's own functions and classes are described by their content, installed ones by their name (`byvalue`).

Bytecode differs between minor versions of Python, and so do digests: so does the live state that they name.
"""

import copyreg
import sys
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any, get_args, get_origin
from weakref import WeakKeyDictionary

from kibo.box.bytecode import global_names, normalise
from kibo.box.byvalue import is_users_own
from kibo.box.define import Action, Box, Use
from kibo.model.errors import InvalidDefinition
from kibo.model.record import Record, annotations_of

DIGEST_PREFIX = "b2:"

#: Nesting of a described value; deeper is described by its type alone.
_MAX_DEPTH = 100

#: What a class's body holds besides what its author wrote.
_NOT_WRITTEN = frozenset(
    "__module__ __dict__ __weakref__ __firstlineno__ __static_attributes__ __annotations__ __annotate__"
    " __annotate_func__ __annotations_cache__ __conditional_annotations__ __abstractmethods__ _abc_impl"
    " __parameters__ __orig_bases__ __qualname__ __match_args__ __classcell__ __dataclass_params__"
    " __dataclass_fields__ __init_subclass__ __signature__ __class_vars__ __private_attributes__".split()
)

_MISSING = object()

#: Descriptions of code, as long as it lives: code never changes, and holds no function or class that could.
_codes: WeakKeyDictionary[CodeType, bytes] = WeakKeyDictionary()


def digest_bytes(*pieces: bytes) -> str:
    """Returns ``b2:`` and the BLAKE2b-256, in hex, of the pieces, each with its length before it."""
    state = blake2b(digest_size=32)
    for piece in pieces:
        state.update(len(piece).to_bytes(8, "big"))
        state.update(piece)
    return DIGEST_PREFIX + state.hexdigest()


def describe(value: Any, root: type | None = None) -> bytes:
    """Describes `value` canonically.

    Args:
        value: A class, function, record, or any value that they hold.
        root: The class that is being described: what shares its top-level package is described by content too.

    Returns:
        Equal bytes for equal values, in any process that runs the same minor version of Python.
    """
    return _Describer(root).describe(value)


def _frame(tag: str, *pieces: bytes) -> bytes:
    return b"".join((tag.encode(), b"(", *(b"%d:%b" % (len(piece), piece) for piece in pieces), b")"))


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


class _Describer:
    """One description: functions and classes met before are named by their order, which ends every cycle."""

    def __init__(self, root: type | None) -> None:
        self._package = root.__module__.partition(".")[0] if root else ""
        self._seen: dict[int, int] = {}
        self._open: list[Any] = []  # also keeps what was described alive, so that ids stay theirs

    def describe(self, value: Any) -> bytes:
        if value is None or value is Ellipsis or value is NotImplemented:
            return _frame("!", repr(value).encode())
        kind = type(value)
        if kind in (bool, int, float, complex):
            return _frame(kind.__name__, repr(value).encode())
        if kind is str:
            return _frame("str", _text(value))
        if kind in (bytes, bytearray):
            return _frame(kind.__name__, bytes(value))
        if len(self._open) > _MAX_DEPTH or any(value is outer for outer in self._open):
            return _frame("cycle", _text(kind.__qualname__))
        self._open.append(value)
        try:
            return self._compound(value, kind)
        finally:
            self._open.pop()

    def _compound(self, value: Any, kind: type) -> bytes:
        if kind in (tuple, list):
            return _frame(kind.__name__, *map(self.describe, value))
        if kind in (set, frozenset):
            return _frame(kind.__name__, *sorted(map(self.describe, value)))
        if isinstance(value, dict):
            return _frame("dict", *self._mapping(value.items()))
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, FunctionType):
            return self._named(value, self._function)
        if isinstance(value, type) and get_origin(value) is None:
            return self._named(value, self._class)
        if isinstance(value, Record):
            return _frame("record", _text(kind.__qualname__), *self._mapping(value.as_dict().items()))
        if isinstance(value, Action):
            marks = [value.compensate, value.verify, value.key] if value.marked else []
            return _frame("action", self.describe([value.function, value.effect, value.timeout_s, *marks]))
        if isinstance(value, Use):
            return _frame("use", self.describe(value.box))
        if isinstance(value, Box):
            return _frame("box", _text(value.digest))
        if isinstance(value, ModuleType):
            return _frame("module", _text(value.__name__))
        return self._other(value, kind)

    def _mapping(self, items: Any) -> Iterator[bytes]:
        pairs = [(self.describe(key), item) for key, item in sorted(items, key=lambda pair: repr(pair[0]))]
        for key, item in sorted(pairs, key=lambda pair: pair[0]):
            yield key
            yield self.describe(item)

    def _named(self, value: Any, by_content: Callable[[Any], bytes]) -> bytes:
        """A function or class: by content where it is the user's own, else by name."""
        module = getattr(value, "__module__", None) or ""
        if not self._is_content(value, module):
            return _frame("name", _text(f"{module}:{value.__qualname__}"))
        if id(value) in self._seen:
            return _frame("seen", b"%d" % self._seen[id(value)])
        self._seen[id(value)] = len(self._seen)
        return by_content(value)

    def _is_content(self, value: Any, module: str) -> bool:
        top = module.partition(".")[0]
        if top == "kibo":
            return False
        if isinstance(value, type) and issubclass(value, Box):
            return True  # an installed Box is a definition too: its next version may be another
        return (top == self._package != "builtins") or is_users_own(sys.modules.get(module), module)

    def _function(self, function: FunctionType) -> bytes:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        return _frame(
            "function",
            self._code(function.__code__),
            self.describe(function.__doc__),
            self.describe(function.__defaults__),
            self.describe(function.__kwdefaults__),
            self._annotations(function),
            self.describe(function.__dict__),
            self.describe({name: _cell(cell) for name, cell in cells}),
            self.describe(_used_globals(function)),
        )

    def _code(self, code: CodeType) -> bytes:
        known = _codes.get(code)
        if known is None:
            normal = normalise(code)
            operations = (_frame(name, self.describe(argument)) for name, argument in normal.operations)
            known = _frame("code", self.describe(normal.shape), self.describe(normal.handlers), *operations)
            _codes[code] = known
        return known

    def _annotations(self, function: FunctionType) -> bytes:
        """Annotations with the types that strings in them name, where these can be found."""
        from kibo.box.annotations import resolve

        return self.describe(resolve(function, strict=False))

    def _class(self, cls: type) -> bytes:
        bases = [base for base in cls.__bases__ if base is not object]
        pieces = [_text(cls.__qualname__), *map(self.describe, bases)]
        if hasattr(cls, "__members__"):
            pieces.append(self.describe({name: member._value_ for name, member in cls.__members__.items()}))
            body: dict[str, Any] = {
                name: v for name, v in cls.__dict__.items() if isinstance(v, FunctionType) and name[0] != "_"
            }
        else:
            body = dict(cls.__dict__)
            fields = body.get("__pydantic_fields__") or body.get("__dataclass_fields__")
            if fields:
                pieces.append(self.describe({name: _field(field) for name, field in fields.items()}))
        for name in sorted(body):
            value = body[name]
            if name in _NOT_WRITTEN or name.startswith(("__pydantic_", "_kibo_")) or _is_slot(value):
                continue
            pieces += (_text(name), self.describe(value))
        pieces.append(self.describe(annotations_of(cls)))
        return _frame("class", *pieces)

    def _other(self, value: Any, kind: type) -> bytes:
        if isinstance(value, staticmethod | classmethod):
            return _frame(kind.__name__, self.describe(value.__func__))
        if isinstance(value, property):
            return _frame("property", *map(self.describe, (value.fget, value.fset, value.fdel)))
        if isinstance(value, MethodType):
            return _frame("method", self.describe(value.__func__), self.describe(value.__self__))
        if isinstance(value, BuiltinFunctionType):
            return _frame("name", _text(f"{value.__module__}:{value.__qualname__}"))
        if hasattr(value, "_value_") and hasattr(kind, "__members__"):
            return _frame("member", self.describe(kind), _text(value._name_))
        origin = get_origin(value)
        if origin is not None:
            return _frame("generic", self.describe(origin), *map(self.describe, get_args(value)))
        return self._by_reduction(value, kind)

    def _by_reduction(self, value: Any, kind: type) -> bytes:
        """Any other object, as pickle would take it apart.

        Raises:
            InvalidDefinition: Pickle refuses it. Its type alone would not do: two boxes that differ must not be equal.
        """
        if isinstance(value, memoryview | MappingProxyType | KeysView | ValuesView | ItemsView):
            plain: Any = bytes(value) if isinstance(value, memoryview) else list(value)
            if isinstance(value, MappingProxyType):
                plain = dict(value)
            return _frame("view", _text(kind.__name__), self.describe(plain))
        registered = copyreg.dispatch_table.get(kind)  # as regular expressions have it
        try:
            reduced = registered(value) if registered is not None else value.__reduce_ex__(4)
        except Exception as error:  # a `__reduce__` may raise whatever it likes
            raise InvalidDefinition(
                f"a {kind.__module__}.{kind.__qualname__} cannot be part of a definition: {error}",
                hint="Make it in launch() or resume(), not at module or class level.",
                details={"type": f"{kind.__module__}.{kind.__qualname__}"},
            ) from error
        if isinstance(reduced, str):
            return _frame("global", _text(reduced))
        parts = [
            list(part) if index in (3, 4) and part is not None else part
            for index, part in enumerate(reduced[:5])
        ]
        return _frame("object", *map(self.describe, parts))


def _cell(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return "empty cell"


def _is_slot(value: Any) -> bool:
    return type(value).__name__ in ("member_descriptor", "getset_descriptor")


def _field(field: Any) -> list[Any]:
    """A dataclass's or pydantic field: its type, default and metadata, without the library's own bookkeeping."""
    names = (
        "type",
        "annotation",
        "default",
        "default_factory",
        "kw_only",
        "alias",
        "metadata",
        "description",
    )
    return [(name, value) for name in names if not _undefined(value := getattr(field, name, _MISSING))]


def _undefined(value: Any) -> bool:
    return value is _MISSING or type(value).__name__ in ("_MISSING_TYPE", "PydanticUndefinedType")


def _used_globals(function: FunctionType) -> dict[str, Any]:
    space = function.__globals__
    return {name: space[name] for name in sorted(global_names(function.__code__)) if name in space}
