"""Compiled code in a form that depends on what it does alone.

Raw bytecode will not do: it numbers its constants and names, it holds offsets, and it differs with what else was
compiled beside it. CPython calls `json.dumps(x)` in one way where `import json` stands in the same file and in
another where it stood in an earlier notebook cell (`codegen_call`'s check for imported names in Python/compile.c).
"""

import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

#: Bookkeeping of the interpreter: caches, padding, and the NULL that some ways of calling push.
_LEFT_OUT = frozenset(("CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME", "NOT_TAKEN"))
#: One operation by two names.
_SAME = {"LOAD_METHOD": "LOAD_ATTR"}

_GLOBAL_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
_names: WeakKeyDictionary[CodeType, frozenset[str]] = WeakKeyDictionary()

_BY_VALUE = frozenset((*dis.hasconst, *dis.hasname, *dis.haslocal, *dis.hasfree))
_JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))


class Normal(NamedTuple):
    """A code object, normalised.

    Attributes:
        operations: Each operation and its argument: a constant, a name, the index of an operation to jump to, or a
            number.
        handlers: What is protected by which handler: first, end, handler (indexes of operations), depth.
        shape: Names of locals and cells, counts of arguments, flags.
    """

    operations: list[tuple[str, Any]]
    handlers: list[tuple[int, int, int, int]]
    shape: tuple[Any, ...]


def normalise(code: CodeType) -> Normal:
    """Returns the normal form of `code`; code objects nested in it are among the constants, as they are."""
    instructions = list(dis.get_instructions(code))
    index_at: dict[int, int] = {}
    kept: list[dis.Instruction] = []
    for instruction in instructions:
        # A jump to something left out is a jump to what follows it.
        index_at[instruction.offset] = len(kept)
        if instruction.opname not in _LEFT_OUT:
            kept.append(instruction)
    end = len(kept)
    operations = [(_SAME.get(i.opname, i.opname), _argument(i, index_at)) for i in kept]
    handlers = [
        (index_at.get(first, end), index_at.get(last, end), index_at.get(handler, end), depth)
        for first, last, handler, depth in _exception_table(getattr(code, "co_exceptiontable", b""))
    ]
    names = (code.co_name, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return Normal(operations, handlers, (names, counts))


def _argument(instruction: dis.Instruction, index_at: dict[int, int]) -> Any:
    if instruction.opcode in _JUMPS:
        return index_at.get(instruction.argval, len(index_at))
    return instruction.argval if instruction.opcode in _BY_VALUE else instruction.arg


def global_names(code: CodeType) -> frozenset[str]:
    """Returns the global names that the code, and code nested in it, loads. Remembered as long as the code lives."""
    known = _names.get(code)
    if known is None:
        loads = [i.argval for i in dis.get_instructions(code) if i.opname in _GLOBAL_LOADS]
        nested = [global_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
        known = _names[code] = frozenset(loads).union(*nested)
    return known


def _exception_table(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yields start, end and handler as offsets, and depth with its low bit.

    The format is that of Objects/exception_handling_notes.txt in CPython.
    """
    values = _varints(table)
    for start in values:
        length, handler, depth = next(values), next(values), next(values)
        yield start * 2, (start + length) * 2, handler * 2, depth


def _varints(table: bytes) -> Iterator[int]:
    value = 0
    for byte in table:  # six bits each, the highest first; bit 6 says that more follow, bit 7 starts an entry
        value = value << 6 | byte & 63
        if not byte & 64:
            yield value
            value = 0
