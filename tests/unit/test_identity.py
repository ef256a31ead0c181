"""Descriptions of definitions, over everything that people put beside their classes."""

import functools
import os
import subprocess
import sys

import pytest

from kibo.box.identity import describe
from kibo.model.errors import InvalidDefinition

ODD = '''
import collections, dataclasses, datetime, decimal, enum, functools, logging, pathlib, re, typing
import pydantic
from kibo import Box, action, use
from kibo.box.identity import digest_bytes, describe

PATTERN = re.compile("a+", re.I)
LOG = logging.getLogger("shop")
PARTIAL = functools.partial(int, base=2)
PATH = pathlib.PurePosixPath("/etc")
WHEN = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
PRICE = decimal.Decimal("1.50")
COUNTS = collections.Counter("abca")
ORDERED = collections.OrderedDict(a=1)
NESTED = {"s": {"x", "y", ("t", frozenset({"u", "v"}))}, 3: [1.5, -0.0, 1j, b"x", ...]}

class Color(enum.Enum):
    RED = "r"
    BLUE = "b"

class Pair(typing.NamedTuple):
    a: int
    b: str = "x"

class Shape(typing.TypedDict):
    side: int

class Sized(typing.Protocol):
    def size(self) -> int: ...

@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    what: str
    tags: set = dataclasses.field(default_factory=lambda: {"a", "b"})

class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(min_length=1, description="who")
    others: "list[Model]" = []
    @pydantic.field_validator("name")
    @classmethod
    def check(cls, value): return value.strip()

class Plain:
    __slots__ = ("x",)
    def __init__(self): self.x = {"p", "q"}
    @property
    def twice(self): return self.x
    @staticmethod
    def fixed(): return 3
THING = Plain()

@functools.lru_cache
def cached(n): return even(n)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)

class Odd(Box):
    """Odd things."""
    table = {"z", "y", "x"}
    @action
    def use(self, model: Model, line: Line, color: Color = Color.RED) -> dict:
        with open(PATH) as f:
            try:
                pass
            except (ValueError, KeyError) as e:
                LOG.info(e)
        def inner(n):
            nonlocal color
            color = Color.BLUE
            return [Pair(1), THING, COUNTS, ORDERED, NESTED] if n in {"k", "l", "m"} else odd(n)
        match line:
            case Line(what=w): return {"w": w}
        return {x: inner(x) for x in (PATTERN, PARTIAL, WHEN, PRICE, cached, Shape, Sized)}
    def gen(self):
        yield from (super().launch for _ in self.table)

class Both(Odd):
    odd = use(Odd)
'''


@functools.cache
def described(seed: int, source: str = ODD) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source + "\nprint(digest_bytes(describe(Both, Both)))"],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_whatever_stands_beside_a_class_is_described_alike_in_every_process():
    assert len({described(seed) for seed in range(4)}) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('re.compile("a+", re.I)', 're.compile("a+")'),
        ('getLogger("shop")', 'getLogger("till")'),
        ("partial(int, base=2)", "partial(int, base=8)"),
        ('"/etc"', '"/usr"'),
        ("2026, 1, 2", "2026, 1, 3"),
        ('"1.50"', '"1.5"'),
        ('"abca"', '"abcb"'),
        ('RED = "r"', 'RED = "R"'),
        ('b: str = "x"', 'b: str = "y"'),
        ("side: int", "side: float"),
        ('lambda: {"a", "b"}', 'lambda: {"a", "c"}'),
        ("frozen=True, slots=True", "frozen=True, slots=True, order=True"),
        ("min_length=1", "min_length=2"),
        ("value.strip()", "value.lower()"),
        ('extra="forbid"', 'extra="allow"'),
        ("return 3", "return 4"),
        ('self.x = {"p", "q"}', 'self.x = {"p"}'),
        ("return n != 0 and", "return n != 1 and"),
        ("(ValueError, KeyError)", "(ValueError, TypeError)"),
        ("case Line(what=w)", "case Line(tags=w)"),
        ('{"z", "y", "x"}', '{"z", "y", "w"}'),
        ("color = Color.BLUE", "color = Color.RED"),
    ],
)
def test_a_change_beside_a_class_that_it_uses_changes_its_description(before, after):
    assert before in ODD
    assert described(1) != described(1, ODD.replace(before, after))


def test_zeros_numbers_and_truths_are_told_apart():
    values = [0, 0.0, -0.0, False, None, "0", b"0", 0j, (), [], {}, frozenset(), "", b""]
    assert len({describe(value) for value in values}) == len(values)


def test_lengths_keep_neighbours_apart():
    assert describe(["ab", "c"]) != describe(["a", "bc"])
    assert describe([["a"], "b"]) != describe([["a", "b"]])


def test_what_refers_to_itself_is_described_too():
    one: list = []
    one.append(one)
    assert describe(one)


def test_what_cannot_be_taken_apart_is_refused_because_two_of_them_may_differ():
    import threading

    with pytest.raises(InvalidDefinition, match="lock"):
        describe(threading.Lock())


def test_views_are_described_by_what_they_show():
    import types

    assert describe(memoryview(b"a")) != describe(memoryview(b"b"))
    assert describe({1: 2}.keys()) == describe({1: 3}.keys()) != describe({2: 2}.keys())
    assert describe(types.MappingProxyType({1: 2})) != describe(types.MappingProxyType({1: 3}))
