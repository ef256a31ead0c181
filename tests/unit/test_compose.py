"""Composition, conflicts and plans."""

import os
import sys
import types

import pytest

from coffee_boxes import Account, Browser, Coffee, OatCoffee
from kibo import Allow, Box, Deny, Env, Limits, Secret, Service, action, use
from kibo.box.identity import describe
from kibo.box.plan import plan
from kibo.model.errors import CompositionConflict, InvalidDefinition, UnmetNeed
from kibo.model.limits import MAX_PARTS


def box(**attributes) -> Box:
    """A box of a fresh class with these attributes."""
    return type("Made", (Box,), {"__module__": __name__, **attributes})()


def ping(reply):
    def ping(self) -> str:
        return reply

    return action(ping)


def test_a_sum_shows_its_needs_met_and_its_prefixes():
    whole = Browser() + Account(customer="ada") + Coffee()
    made = plan(whole)
    assert [part.name for part in made.parts] == ["Browser", "Account", "Coffee"]
    assert [dict(part.needs) for part in made.parts] == [{}, {"browser": 0}, {"browser": 0, "account": 1}]
    assert [part.has_launch for part in made.parts] == [True, False, False]
    assert [part.has_resume for part in made.parts] == [True, False, False]
    assert made.prefixes == (Browser().digest, (Browser() + Account(customer="ada")).digest, whole.digest)
    assert made.digest == whole.digest
    assert made.env.apt == ("chromium",)
    assert {name: spec.part for name, spec in made.actions.items()} == {"open": 0, "buy_coffee": 2}


def test_a_need_that_nothing_meets_says_what_would():
    with pytest.raises(UnmetNeed, match=r"Coffee\.account needs Account") as caught:
        plan(Browser() + Coffee())
    assert "Account(...) + Coffee()" in caught.value.hint


def test_a_need_met_only_to_the_right_says_to_put_it_first():
    with pytest.raises(UnmetNeed, match="Put Browser before Account"):
        plan(Account(customer="ada") + Browser())


def test_a_partial_sum_may_lack_what_a_later_left_side_brings():
    partial = Account(customer="ada") + Coffee()
    assert plan(Browser() + partial).parts[1].needs == {"browser": 0}


def test_a_subclass_meets_a_need_and_the_nearest_left_is_taken():
    class FastBrowser(Browser):
        fast: bool = True

        @action
        def open(self, url: str) -> str:
            """Open a page quickly."""

    made = plan((Browser() | FastBrowser()) + Account(customer="ada"))
    assert made.parts[2].needs == {"browser": 1}
    assert made.actions["open"].doc == "Open a page quickly."


def test_a_class_defined_again_the_same_way_meets_the_need():
    def define():
        class Tool(Box):
            """A tool."""

        return Tool

    first, second = define(), define()

    class User(Box):
        tool = use(first)

    assert plan(second() + User()).parts[1].needs == {"tool": 0}


def test_two_definitions_of_one_action_conflict_and_both_are_named():
    with pytest.raises(
        CompositionConflict, match=r"Coffee\(\) and OatCoffee\(\) define the action 'buy_coffee'"
    ):
        Coffee() + OatCoffee()


def test_one_class_with_other_parameters_is_another_definition_of_its_actions():
    class Till(Box):
        owner: str

        @action
        def total(self) -> int: ...

    with pytest.raises(CompositionConflict):
        Till(owner="a") + Till(owner="b")


@pytest.mark.parametrize(
    ("left", "right", "what"),
    [
        ({"env": Env(files={"/a": b"1"})}, {"env": Env(files={"/a": b"2"})}, "file '/a'"),
        ({"env": Env(variables={"A": "1"})}, {"env": Env(variables={"A": "2"})}, "variable 'A'"),
        (
            {"env": Env(services=[Service("db", "a")])},
            {"env": Env(services=[Service("db", "b")])},
            "service 'db'",
        ),
        ({"env": Env(base="debian:bookworm")}, {"env": Env(base="oci:x")}, "base"),
        (
            {"env": Env(pip=["Play_Wright==1"])},
            {"env": Env(pip=["play-wright==2"])},
            "Python package 'play-wright'",
        ),
        ({"env": Env(apt=["git=1"])}, {"env": Env(apt=["git=2"])}, "Debian package 'git'"),
        ({"env": Env(npm=["@a/b@1"])}, {"env": Env(npm=["@a/b@2"])}, "npm package '@a/b'"),
        ({"secrets": [Secret("T", hosts=["a"])]}, {"secrets": [Secret("T", hosts=["b"])]}, "secret 'T'"),
        ({"egress": [Allow("a")]}, {"egress": [Allow("a", to="1.2.3.4:5")]}, "route to 'a'"),
        ({"ping": ping("a")}, {"ping": ping("b")}, "action 'ping'"),
    ],
)
def test_what_two_sides_define_differently_conflicts_and_the_right_wins_with_a_bar(left, right, what):
    a, b = box(**left), box(**right)
    with pytest.raises(CompositionConflict, match=what):
        a + b
    assert plan(a | b).env == plan(Box() + b).env
    assert plan(a | b).secrets == plan(b).secrets
    assert plan(a | b).egress == plan(b).egress
    assert {name: spec.part for name, spec in plan(a | b).actions.items()} == dict.fromkeys(
        plan(b).actions, 1
    )
    assert (a | b) != (b | a)


def test_what_both_say_alike_does_not_conflict():
    shared = Env(apt=["git=1"], files={"/a": b"1"}, variables={"A": "1"}, services=[Service("db", "a")])
    made = plan(box(env=shared, x=1) + box(env=shared, x=2))
    assert made.env == shared


def test_a_settled_conflict_stays_settled_in_larger_sums():
    a, b, c = box(ping=ping("a")), box(ping=ping("b")), box(env=Env(apt=["git"]))
    assert plan((a | b) + c).actions["ping"].part == 1
    assert plan(c + (a | b)).actions["ping"].part == 2
    assert (a | b) + (a | b) == (a | b)
    with pytest.raises(CompositionConflict):
        (a | b) + (b | a)
    assert plan((a | b) | a).actions["ping"].part == 0


def test_a_relative_path_of_the_host_starts_beside_the_definition_and_is_no_part_of_the_digest():
    here = os.path.dirname(os.path.abspath(__file__))
    made = box(env=Env(files={"/etc/app": "app.toml", "/etc/b": "/abs"}))
    assert dict(plan(made).env.files) == {"/etc/app": os.path.join(here, "app.toml"), "/etc/b": "/abs"}
    assert here.encode() not in describe(type(made))


def test_equal_definitions_in_two_directories_find_each_its_own_files(tmp_path):
    found = []
    for directory in ("one", "two"):
        module = types.ModuleType(f"beside_{directory}")
        module.__file__ = str(tmp_path / directory / "boxes.py")
        sys.modules[module.__name__] = module
        try:
            made = box(__module__=module.__name__, env=Env(files={"/etc/app": "app.toml"}))
            found.append((made.digest, plan(made).env.files["/etc/app"]))
        finally:
            del sys.modules[module.__name__]
    (digest, one), (same, two) = found
    assert digest == same
    assert (one, two) == (str(tmp_path / "one/app.toml"), str(tmp_path / "two/app.toml"))


def test_a_host_base_goes_along_with_another():
    made = plan(box(env=Env(base="debian:bookworm")) + Browser())
    assert made.env.base == "debian:bookworm"


def test_limits_are_the_larger_and_rules_add_up():
    made = plan(
        box(env=Env(limits=Limits(memory_bytes=5)), egress=[Allow("a")])
        + box(env=Env(limits=Limits(memory_bytes=9, pids=2)), egress=[Deny("a"), Allow("b")])
    )
    assert made.limits == Limits(memory_bytes=9, pids=2)
    assert made.egress == (Allow("a"), Deny("a"), Allow("b"))


@pytest.mark.parametrize("wrong", [{"env": 3}, {"secrets": ["TOKEN"]}, {"egress": "shop.example"}])
def test_a_class_attribute_of_the_wrong_kind_is_named(wrong):
    with pytest.raises(InvalidDefinition, match=rf"Made\.{next(iter(wrong))} must be"):
        plan(box(**wrong))


def test_the_empty_box_has_a_plan_too():
    made = plan(Box())
    assert made.parts == ()
    assert made.prefixes == ()
    assert made.digest == Box().digest


def test_adding_what_is_no_box_is_a_type_error():
    with pytest.raises(TypeError):
        Browser() + 3


def test_a_sum_has_a_bounded_number_of_parts():
    class Numbered(Box):
        n: int

    whole = Box()
    with pytest.raises(InvalidDefinition, match=f"at most {MAX_PARTS} "):
        for n in range(200):
            whole = whole + Numbered(n=n)


def test_the_same_digest_gives_the_same_plan():
    assert plan(Browser() + Account(customer="ada")) is plan(Browser() + Account(customer="ada"))
