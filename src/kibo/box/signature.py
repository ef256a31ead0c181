"""The signature of an action, read once: its parameters, what it yields and what it returns, as types."""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kibo.box.annotations import resolve
from kibo.box.define import Action, Box
from kibo.model.errors import InvalidDefinition

#: No annotation: anything that a message can hold.
ANYTHING: Any = Any

_SCALARS = frozenset((str, int, float, bool, bytes, NoneType))
_STREAMS = (Generator, Iterator, Iterable)
_ITERATORS = (Generator, Iterator, AsyncIterator, AsyncIterable)


class Slot:
    """One value of a known type that goes into a box or comes out of it.

    Attributes:
        name: The parameter's name, or what the value is (``result``, ``item``).
        type: Its resolved annotation; ANYTHING where there is none.
        plain: Whether its builtin form is the value itself.
        accepts: Types whose values need no further look.
        required: Whether a call must give it.
        default: Its default, where it is not required.
        keyword_only: Whether a call must give it by name.
    """

    __slots__ = ("accepts", "adapter", "default", "keyword_only", "name", "plain", "required", "type")

    def __init__(
        self,
        name: str,
        annotation: Any,
        *,
        default: Any = inspect.Parameter.empty,
        keyword_only: bool = False,
    ) -> None:
        self.name = name
        self.type = annotation
        self.plain = is_plain(annotation)
        self.accepts = _accepted(annotation)
        self.required = default is inspect.Parameter.empty
        self.default = default
        self.keyword_only = keyword_only
        self.adapter: Any = None  # pydantic's, made on first use by `kibo.box.schema`


class Signature:
    """What an action takes and gives."""

    __slots__ = ("item", "parameters", "result")

    def __init__(self, parameters: tuple[Slot, ...], item: Slot | None, result: Slot) -> None:
        self.parameters = parameters
        self.item = item
        self.result = result


def read_signature(cls: type[Box], action: Action) -> Signature:
    """Reads the signature of an action of `cls`.

    Raises:
        InvalidDefinition: A parameter cannot be given by name, a type cannot be found, or a result is an iterator that
            the action does not itself generate.
    """
    function: Any = action.function
    where = f"{cls.__name__}.{action.__name__}"
    hints = action.hints if action.hints is not None else resolve(function, cls=cls)
    action.hints = hints
    slots: list[Slot] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidDefinition(
                f"{where}: the parameter {parameter} cannot be given by name",
                hint="Callers and models name every argument: use a list or a dict parameter.",
                details={"action": action.__name__, "parameter": parameter.name},
            )
        slots.append(
            Slot(
                parameter.name,
                hints.get(parameter.name, ANYTHING),
                default=parameter.default,
                keyword_only=parameter.kind == parameter.KEYWORD_ONLY,
            )
        )
    returned = hints.get("return", ANYTHING)
    if action.streaming:
        item, result = _streamed(returned)
        return Signature(tuple(slots), Slot("item", item), Slot("result", result))
    if (get_origin(returned) or returned) in _ITERATORS:
        raise InvalidDefinition(
            f"{where} is declared to return an iterator, which stays in the box",
            hint="Make it a generator (`yield`) to stream, or return a list.",
            details={"action": action.__name__},
        )
    return Signature(tuple(slots), None, Slot("result", returned))


def _streamed(annotation: Any) -> tuple[Any, Any]:
    """What a generator yields and returns by its annotation."""
    if get_origin(annotation) not in _STREAMS:
        return ANYTHING, ANYTHING
    arguments = get_args(annotation)
    if get_origin(annotation) is Generator:
        return arguments[0], arguments[2] if len(arguments) > 2 else NoneType
    return arguments[0], NoneType


def is_plain(annotation: Any) -> bool:
    """Says whether values of the type travel as they are: scalars, and lists and dicts of them."""
    if annotation in (ANYTHING, object, None, list, dict) or _is_scalar(annotation):
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_plain(arguments[0])
    if origin is Literal:
        return all(type(value) in _SCALARS for value in arguments)
    return origin in (list, dict, Union, UnionType) and all(map(is_plain, arguments))


def _is_scalar(annotation: Any) -> bool:
    return isinstance(annotation, type) and annotation in _SCALARS


def _accepted(annotation: Any) -> frozenset[type]:
    if annotation in (None, list, dict) or _is_scalar(annotation):
        return frozenset((NoneType if annotation is None else annotation,))
    if get_origin(annotation) in (Union, UnionType):
        return frozenset().union(*map(_accepted, get_args(annotation)))
    return frozenset()


def shown(annotation: Any) -> str:
    """Returns a type as its author would write it."""
    if annotation in (None, NoneType):
        return "None"
    return (
        annotation.__qualname__
        if isinstance(annotation, type) and not get_args(annotation)
        else (str(annotation).replace("typing.", "").replace("NoneType", "None"))
    )
