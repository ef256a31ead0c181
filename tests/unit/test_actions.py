"""What goes into an action and what comes out of it."""

import datetime
import enum
import math
import uuid
from collections import namedtuple
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from kibo import Box, action
from kibo.box.actions import ActionSpec
from kibo.box.inheritance import actions_of
from kibo.box.results import to_builtins
from kibo.box.schema import restore_arguments
from kibo.model.errors import InvalidArguments, InvalidDefinition, InvalidResult


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Line:
    what: str
    cents: int


class Order(pydantic.BaseModel):
    lines: list[Line]
    at: datetime.datetime
    note: str | None = pydantic.Field(default=None, alias="Note")


class Shop(Box):
    @action
    def plain(
        self, name: str, count: int = 1, *, price: float = 1.0, tags: list[str] | None = None
    ) -> str: ...

    @action
    def anything(self, value): ...

    @action
    def rich(self, size: Size, order: Order, day: datetime.date, where: Path) -> Order: ...

    @action
    def chosen(
        self, size: Literal["s", "l"], n: Annotated[int, pydantic.Field(ge=1)] = 1
    ) -> dict[str, int]: ...

    @action
    def steps(self) -> Generator[Line, None, int]:
        yield Line("a", 1)

    @action
    def ticks(self) -> Iterator[int]:
        yield 1

    @action
    def nothing(self) -> None: ...

    @action
    def pair(self) -> tuple[int, int]: ...


def spec(name: str, cls: type[Box] = Shop) -> ActionSpec:
    return ActionSpec(cls, actions_of(cls)[name], 0)


ORDER = Order(lines=[Line("latte", 350)], at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), Note="hot")


def test_plain_arguments_pass_as_they_are():
    assert spec("plain").check_arguments(("latte",), {"tags": ["oat"]}) == (["latte"], {"tags": ["oat"]})
    assert spec("plain").plain
    assert spec("plain").check_arguments(("x",), {"price": 3}) == (["x"], {"price": 3.0})


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "needs 'name'"),
        ((3,), {}, "'name' must be str, got int"),
        (("a", "3"), {}, "'count' must be int, got str"),
        (("a", True), {}, "'count' must be int, got bool"),
        (("a", 1, 2.0), {}, "at most 2 by position, got 3"),
        (("a",), {"nmae": 1}, "no parameter 'nmae'"),
        (("a",), {"name": "b"}, "both by position and by name"),
        (("a",), {"tags": [1]}, "'tags' must be list"),
        (("a",), {"tags": "x"}, "'tags' must be"),
        (("a", 2**70), {}, "64 bits"),
        (("\ud800",), {}, "surrogates"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(args, kwargs, says):
    with pytest.raises(InvalidArguments, match=says) as caught:
        spec("plain").check_arguments(args, kwargs)
    assert caught.value.retry == "never"
    assert caught.value.hint.startswith("plain(name: str")
    assert caught.value.details["action"] == "plain"


def test_an_argument_without_a_type_may_be_whatever_a_message_holds():
    assert spec("anything").check_arguments(({"a": [1, None]},), {}) == ([{"a": [1, None]}], {})
    with pytest.raises(InvalidArguments, match="object"):
        spec("anything").check_arguments((object(),), {})


def test_rich_arguments_cross_as_builtins_and_are_restored_as_they_were():
    rich = spec("rich")
    assert not rich.plain
    sent = rich.check_arguments(
        (Size.LARGE, ORDER), {"day": datetime.date(2026, 1, 2), "where": Path("/tmp/x")}
    )
    assert sent[0][0] == "l"
    assert sent[0][1]["lines"] == [{"what": "latte", "cents": 350}]
    args, kwargs = restore_arguments(Shop, "rich", *sent)
    assert args == [Size.LARGE, ORDER]
    assert kwargs == {"day": datetime.date(2026, 1, 2), "where": Path("/tmp/x")}


def test_builtins_from_json_do_for_rich_arguments():
    order = {"lines": [{"what": "tea", "cents": 100}], "at": "2026-01-02T00:00:00Z", "Note": "cold"}
    sent, _ = spec("rich").check_arguments(("s", order, "2026-01-02", "x"), {})
    assert restore_arguments(Shop, "rich", sent, {})[0][1].note == "cold"


def test_a_wrong_rich_argument_says_where_it_is_wrong():
    with pytest.raises(InvalidArguments, match=r"lines\.0\.cents"):
        spec("rich").check_arguments(
            ("s", {"lines": [{"what": "t", "cents": "x"}], "at": 0}, "2026-01-02", "x"), {}
        )


def test_constraints_and_choices_hold_and_need_nothing_in_the_guest():
    assert spec("chosen").plain
    with pytest.raises(InvalidArguments, match="'size' must be Literal"):
        spec("chosen").check_arguments(("m",), {})
    with pytest.raises(InvalidArguments, match="greater than or equal to 1"):
        spec("chosen").check_arguments(("s", 0), {})


def test_results_are_validated_as_what_is_declared():
    assert spec("plain").check_result("x") == "x"
    assert spec("rich").check_result(to_builtins(ORDER)) == ORDER
    assert spec("pair").check_result([1, 2]) == (1, 2)
    assert spec("nothing").check_result(None) is None
    assert spec("anything").check_result({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain", 3),
        ("plain", None),
        ("nothing", 0),
        ("pair", [1]),
        ("chosen", {"a": "1"}),
        ("rich", "x"),
        ("rich", {}),
    ],
)
def test_a_result_of_another_type_is_refused(name, data):
    with pytest.raises(InvalidResult, match=name) as caught:
        spec(name).check_result(data)
    assert caught.value.retry == "unknown"


def test_a_generator_streams_items_and_ends_with_a_result():
    steps = spec("steps")
    assert steps.streaming
    assert steps.check_item({"what": "a", "cents": 1}) == Line("a", 1)
    assert steps.check_result(3) == 3
    with pytest.raises(InvalidResult, match="yielded"):
        steps.check_item({"what": "a"})
    assert spec("ticks").check_item(1) == 1
    assert spec("ticks").check_result(None) is None


def test_parameters_that_cannot_be_named_are_refused():
    class Loose(Box):
        @action
        def many(self, *names: str): ...

    with pytest.raises(InvalidDefinition, match=r"\*names.*cannot be given by name"):
        spec("many", Loose)


def test_an_iterator_as_a_result_is_refused_with_a_hint():
    class Lazy(Box):
        @action
        def lines(self) -> Iterator[str]:
            return iter(())

    with pytest.raises(InvalidDefinition, match="generator"):
        spec("lines", Lazy)


def test_a_type_that_cannot_travel_is_refused_when_the_box_is_planned():
    class Conn: ...

    class Db(Box):
        @action
        def use_conn(self, conn: Conn): ...

    with pytest.raises(InvalidDefinition, match="Conn cannot enter or leave"):
        spec("use_conn", Db)


def test_an_annotation_that_names_nothing_is_refused():
    class Forward(Box):
        @action
        def get(self) -> "Missing": ...  # noqa: F821

    with pytest.raises(InvalidDefinition, match="Missing"):
        spec("get", Forward)


class Flag(enum.IntFlag):
    A = 1


class Tagged(str):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "builtin"),
    [
        ((1, 2), [1, 2]),
        ({1: {2}}, {1: [2]}),
        (Size.SMALL, "s"),
        (Flag.A, 1),
        (Tagged("x"), "x"),
        (Point(1, 2), [1, 2]),
        (Line("a", 1), {"what": "a", "cents": 1}),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Path("/a"), "/a"),
        (datetime.timedelta(seconds=-1.5), "-PT1.500000S"),
        (datetime.time(1, 2), "01:02:00"),
        (bytearray(b"x"), b"x"),
        ({Size.SMALL: 1}, {"s": 1}),
        (pydantic.RootModel[list[int]]([1]), [1]),
    ],
)
def test_values_become_builtins(value, builtin):
    made = to_builtins(value)
    assert made == builtin
    assert type(made) is type(builtin)


@pytest.mark.parametrize(
    "value",
    [datetime.timedelta(days=-2, microseconds=7), Decimal("0.1"), datetime.time(3, 4, 5), {1, 2}, (1, "a")],
)
def test_a_declared_type_comes_back_as_it_was(value):
    kind: Any = {set: set[int], tuple: tuple[int, str]}.get(type(value), type(value))
    assert pydantic.TypeAdapter(kind).validate_python(to_builtins(value)) == value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", [object(), endless(), 2**64, -(2**63) - 1, "\udc80", {(1,): 1}, iter(()), 1j]
)
def test_what_no_message_can_hold_is_refused(value):
    with pytest.raises(InvalidResult):
        to_builtins(value)


def test_floats_pass_unchanged():
    assert math.isnan(to_builtins(math.nan))
    assert to_builtins(-0.0) == 0.0


def test_a_decorated_method_keeps_its_own_signature_and_types():
    import functools

    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Decorated(Box):
        @action
        @loud
        def count(self, what: "Size", n: int = 1) -> int: ...

    sent = spec("count", Decorated).check_arguments((Size.SMALL,), {"n": 2})
    assert sent == (["s"], {"n": 2})
