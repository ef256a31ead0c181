"""Frozen records of named fields.

What a frozen dataclass gives, without importing `dataclasses`: that module imports `inspect`, which costs a box two
megabytes that it never uses, and these records are imported in every box.
"""

from typing import Any, ClassVar, Self, dataclass_transform

from kibo.model.errors import InvalidDefinition


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Record:
    """A base for immutable values that compare by their fields.

    A subclass annotates its fields in order, with class attributes as defaults. `__init__` takes them by position or
    by name, then calls `_settle`, where a subclass turns what is convenient to write into what is stored.

    Raises:
        InvalidDefinition: A field is missing, unknown, or given twice.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = [n for n, kind in annotations_of(cls).items() if n[0] != "_" and not is_class_variable(kind)]
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self._fields
        if len(args) > len(fields):
            raise self._refused(f"takes at most {len(fields)} values, got {len(args)}")
        values = self.__dict__
        values.update(zip(fields, args, strict=False))
        for name, value in kwargs.items():
            if name not in fields:
                raise self._refused(f"has no {name!r}", name)
            if name in values:
                raise self._refused(f"got {name!r} twice")
            values[name] = value
        for name in fields:
            if name not in values:
                try:
                    values[name] = getattr(type(self), name)
                except AttributeError:
                    raise self._refused(f"needs {name!r}") from None
        self._settle()

    def _refused(self, problem: str, unknown: str = "") -> InvalidDefinition:
        hint = f"It takes {', '.join(self._fields)}."
        if unknown:
            from difflib import get_close_matches  # here: no box needs it

            close = get_close_matches(unknown, self._fields, n=1)
            hint = f"Did you mean {close[0]!r}? {hint}" if close else hint
        return InvalidDefinition(f"{type(self).__name__} {problem}", hint=hint)

    def _settle(self) -> None:
        """Checks the fields and stores them in their settled form, with `_store`."""

    def _store(self, name: str, value: object) -> None:
        self.__dict__[name] = value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make another with replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def replace(self, **changes: Any) -> Self:
        """Returns a record with `changes`, and the rest as here."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name, in order; nested records stay records."""
        return {name: self.__dict__[name] for name in self._fields}

    def _key(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self._fields)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = [
            f"{name}={value!r}"
            for name, value in self.as_dict().items()
            if name not in type(self).__dict__ or value != type(self).__dict__[name]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def annotations_of(owner: type) -> dict[str, Any]:
    """Returns what the body of `owner` itself annotates, in order, evaluating nothing that is still a string."""
    own = owner.__dict__.get("__annotations__")
    if own is None and "__annotate_func__" in owner.__dict__:  # Python 3.14 computes annotations on demand
        annotationlib = __import__("annotationlib")
        own = annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)
    return own or {}


def is_class_variable(annotation: Any) -> bool:
    """Says whether an annotation, perhaps still a string, is a ClassVar."""
    return "ClassVar" in str(annotation)
