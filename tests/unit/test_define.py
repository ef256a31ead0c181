"""Defining boxes."""

from typing import ClassVar

import pytest

from coffee_boxes import Account, Browser, Coffee, OatCoffee
from kibo import Allow, Box, Deny, Env, Limits, Secret, action, on_event, use
from kibo.box.inheritance import actions_of, egress_of, environment_of, secrets_of
from kibo.box.marks import key_of
from kibo.box.plan import plan
from kibo.box.skills import guidance_of
from kibo.box.sums import digest_of
from kibo.model.errors import InvalidArguments, InvalidDefinition, WrongState


def test_the_designs_definitions_work_as_written():
    box = Browser() + Account(customer="ada") + Coffee()
    assert repr(box) == "Browser() + Account(customer='ada') + Coffee()"
    assert isinstance(box, Box)


def test_a_missing_parameter_is_named():
    with pytest.raises(InvalidDefinition, match="Account needs 'customer'"):
        Account()


def test_parameters_are_given_by_name():
    with pytest.raises(InvalidDefinition, match="by name"):
        Account("ada")


def test_an_unknown_parameter_is_named_with_the_known_ones():
    with pytest.raises(InvalidDefinition, match=r"no parameter 'costumer'\n  hint: It has customer"):
        Account(costumer="ada")


def test_a_parameter_of_the_wrong_type_is_refused_when_the_box_is_made():
    with pytest.raises(InvalidDefinition, match="'customer' must be str, got int") as caught:
        Account(customer=3)
    assert caught.value.details == {"parameter": "customer", "expected": "str", "got": "int"}


def test_parameters_may_have_any_type_that_validates_and_are_converted_to_it():
    class Sized(Box):
        sizes: list[int]
        where: "dict[str, float] | None" = None

    assert Sized(sizes=[1]).sizes == [1]
    with pytest.raises(InvalidDefinition, match="sizes"):
        Sized(sizes=["one"])
    with pytest.raises(InvalidDefinition, match="where"):
        Sized(sizes=[], where=3)


def test_changing_a_value_after_it_was_given_does_not_change_the_definition():
    class Sized(Box):
        sizes: list[int]

    given = [1]
    box = Sized(sizes=given)
    given.append(2)
    assert box == Sized(sizes=[1])


def test_class_variables_private_names_and_needs_are_no_parameters():
    class Odd(Box):
        shared: ClassVar[int] = 3
        _live: object
        browser: Browser = use(Browser)

    assert Odd().digest


def test_a_definition_is_immutable():
    box = Account(customer="ada")
    with pytest.raises(AttributeError, match="immutable"):
        box.customer = "bob"
    with pytest.raises(AttributeError, match="immutable"):
        del box.customer


def test_an_action_of_a_definition_says_to_spawn_first():
    with pytest.raises(WrongState, match=r"box\.spawn\(\)\.open"):
        Browser().open("http://shop.example")


def test_a_need_of_a_definition_says_where_it_exists():
    with pytest.raises(WrongState, match="instance"):
        Account(customer="ada").browser  # noqa: B018


def test_inside_a_box_the_same_class_is_the_live_object():
    browser, account = Browser.__new__(Browser), Account.__new__(Account)
    Box.__kibo_restore__(browser, {}, {})
    Box.__kibo_restore__(account, {"customer": "ada"}, {"browser": browser})
    account.session = "cookie"
    assert (account.customer, account.session) == ("ada", "cookie")
    assert account.browser is browser
    assert browser.open("u") is None


def test_live_objects_are_not_values():
    one, two = Browser.__new__(Browser), Browser.__new__(Browser)
    Box.__kibo_restore__(one, {}, {})
    Box.__kibo_restore__(two, {}, {})
    assert one != two
    assert one != Browser()
    assert len({one, two}) == 2


@pytest.mark.parametrize("name", ["exec", "spawn", "files", "_hidden", "größe", "a" * 65])
def test_an_action_cannot_have_a_name_that_callers_could_not_use(name):
    def method(self): ...

    method.__name__ = name
    with pytest.raises(InvalidDefinition, match="cannot be called"):
        action(method)


def test_an_asynchronous_action_is_refused_with_a_hint():
    with pytest.raises(InvalidDefinition, match="asynchronous"):

        @action
        async def open(self): ...


def test_an_unknown_effect_is_refused():
    with pytest.raises(InvalidDefinition, match="not an effect"):

        @action(effect="destructive")
        def wipe(self): ...


def test_a_box_has_no_constructor_of_its_own():
    with pytest.raises(InvalidDefinition, match="launch"):

        class Built(Box):
            def __init__(self): ...


def test_hiding_an_action_by_accident_is_refused():
    with pytest.raises(InvalidDefinition, match="hides an action of Coffee"):

        class Tea(Coffee):
            def buy_coffee(self, kind): ...


def test_use_takes_a_class_not_a_box():
    with pytest.raises(InvalidDefinition, match="not use"):
        use(Browser())


def test_a_subclass_inherits_skill_environment_and_policy():
    class Base(Box):
        """Base guidance."""

        env = Env(apt=["a"], variables={"X": "1", "Y": "1"}, limits=Limits(memory_bytes=200, pids=5))
        egress = [Allow("one.example")]
        secrets = [Secret("TOKEN", hosts=["one.example"])]

    class Derived(Base):
        env = Env(apt=["b"], variables={"X": "2"}, limits=Limits(memory_bytes=100))
        egress = [Deny("two.example")]

    env = environment_of(Derived)
    assert env.apt == ("a", "b")
    assert env.variables == {"X": "2", "Y": "1"}
    assert env.limits == Limits(memory_bytes=100, pids=5)
    assert egress_of(Derived) == (Allow("one.example"), Deny("two.example"))
    assert secrets_of(Derived) == (Secret("TOKEN", hosts=["one.example"]),)
    assert guidance_of(Derived) == "Base guidance."
    assert list(actions_of(OatCoffee)) == ["buy_coffee"]


def test_an_event_handler_carries_its_event():
    class Listener(Box):
        @on_event("paid")
        def note(self, event): ...

    assert Listener.note.__kibo_event__ == "paid"


def test_an_event_handler_keeps_being_a_method():
    class Listener(Box):
        @on_event("paid")
        def note(self, event):
            return event

    listener = Listener.__new__(Listener)
    Box.__kibo_restore__(listener, {}, {})
    assert listener.note(3) == 3


@pytest.mark.parametrize("join", [lambda a, b: a + b, lambda a, b: a | b])
def test_a_class_in_place_of_a_box_is_told_of_the_parentheses(join):
    class Plain(Box):
        pass

    with pytest.raises(InvalidDefinition, match="class") as caught:
        join(Plain(), Plain)
    assert "Plain()" in caught.value.hint
    with pytest.raises(InvalidDefinition, match="class"):
        digest_of(Plain)


@pytest.mark.parametrize("seconds", ["3", 0, -1, True])
def test_a_time_limit_that_is_no_time_is_refused(seconds):
    with pytest.raises(InvalidDefinition, match="timeout_s"):

        class Late(Box):
            @action(timeout_s=seconds)
            def go(self) -> None:
                """Go."""


def hold(self, room: str, nights: int = 1) -> str: ...


def release(self, room: str, result: str = "") -> None: ...


def find(self, room: str) -> bool | None: ...


def made(**marks):
    """A class whose `hold` is marked so."""
    body = {
        "hold": action(**{"effect": "reversible", **marks})(hold),
        "release": action(release),
        "find": action(effect="read")(find),
    }
    return type("Hotel", (Box,), body)


@pytest.mark.parametrize(
    "marks",
    [
        {"compensate": "release"},
        {"compensate": release},
        {"key": "{room}"},
        {"key": "{room:>5}/{nights}", "verify": "find", "effect": "irreversible"},
        {"key": lambda nights: f"{nights} nights", "verify": find},
        {"compensate": "release", "verify": "find"},
    ],
)
def test_an_action_may_say_how_it_is_undone_verified_and_told_apart(marks):
    assert made(**marks)().digest != made()().digest
    spec = plan(made(**marks)()).actions["hold"]
    assert spec.recorded
    assert (spec.compensator is not None) == ("compensate" in marks)


def test_what_an_action_says_of_its_effect_is_no_tool():
    plain, marked = made(), made(compensate="release", key="{room}", verify="find")
    assert plain().tools() == marked().tools()


@pytest.mark.parametrize(
    ("marks", "problem"),
    [
        ({"compensate": "free"}, "which is no action"),
        ({"compensate": "hold"}, "undo itself"),
        ({"compensate": 3}, "no action"),
        ({"compensate": "release", "effect": "irreversible"}, "is irreversible and has compensate"),
        ({"verify": "release", "key": "{room}"}, "does not only read"),
        ({"verify": "find"}, "is not recorded"),
        ({"key": "{room}", "effect": "none"}, "has the effect 'none'"),
        ({"key": "{room}", "effect": "read"}, "has the effect 'read'"),
        ({"key": "{floor}"}, "'floor', which are no parameters"),
        ({"key": "{room.__class__}"}, "are no parameters"),
        ({"key": "{}"}, "are no parameters"),
        ({"key": "{room"}, "is no format"),
        ({"key": lambda floor: floor}, "are no parameters"),
        ({"key": 3}, "has key=3"),
    ],
)
def test_what_an_action_says_of_its_effect_is_checked_when_its_class_is_made(marks, problem):
    with pytest.raises(InvalidDefinition, match=problem) as caught:
        made(**marks)
    assert caught.value.hint


def test_what_undoes_an_action_must_be_given_all_that_it_needs_also_in_a_subclass():
    hotel = made(compensate="release")

    with pytest.raises(InvalidDefinition, match="does not have what release"):

        class Motel(hotel):
            @action
            def release(self, room: str, key: str) -> None: ...

    with pytest.raises(InvalidDefinition, match="which streams"):

        class Inn(hotel):
            @action
            def release(self, room: str):
                yield room

    with pytest.raises(InvalidDefinition, match="streams, and what is recorded"):

        class Hostel(Box):
            @action(effect="reversible", compensate="release")
            def hold(self, room: str):
                yield room

            @action
            def release(self, room: str) -> None: ...


def test_a_key_that_cannot_be_made_is_an_error_before_anything_happens():
    for key in ("{room:d}", lambda room: 1 / 0, lambda room: room * 0, lambda room: room * 2000):
        with pytest.raises(InvalidArguments, match="key"):
            key_of("hold", key, {"room": "a"})
    assert key_of("hold", "{room}-{nights}", {"room": "a", "nights": 2}) == "a-2"
