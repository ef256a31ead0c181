"""Environments, limits, services and policy, as data."""

import pickle

import pytest

from kibo import Allow, Deny, Env, Limits, Secret, Service
from kibo.box.policy import find_rule, split_target
from kibo.model.errors import InvalidDefinition


def test_lists_become_tuples_and_equal_environments_are_equal():
    one = Env(apt=["chromium"], variables={"A": "1"}, files={"/etc/a": b"x"})
    assert one.apt == ("chromium",)
    assert one == Env(apt=("chromium",), variables={"A": "1"}, files={"/etc/a": b"x"})
    assert hash(one) == hash(Env(apt=("chromium",), variables={"A": "1"}, files={"/etc/a": b"x"}))
    assert one != Env(apt=["firefox"])


def test_environments_are_immutable_also_in_depth():
    env = Env(variables={"A": "1"})
    with pytest.raises(AttributeError):
        env.apt = ("x",)
    with pytest.raises(TypeError):
        env.variables["A"] = "2"
    with pytest.raises(TypeError):
        env.variables.update(A="2")


def test_environments_survive_pickling():
    env = Env(
        services=[Service("db", "postgres", ready="tcp:5432")], variables={"A": "1"}, limits=Limits(pids=3)
    )
    assert pickle.loads(pickle.dumps(env)) == env


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": "alpine"},
        {"base": "oci:"},
        {"apt": "chromium"},
        {"pip": [""]},
        {"files": {"etc/a": b""}},
        {"files": {"/etc/../a": b""}},
        {"files": {"/etc/": b""}},
        {"files": {"/a": 3}},
        {"variables": {"A=B": "1"}},
        {"variables": {"A": 1}},
        {"services": [Service("a", "x"), Service("a", "y")]},
        {"user": "admin"},
        {"limits": 3},
    ],
)
def test_a_malformed_environment_is_refused_where_it_is_written(wrong):
    with pytest.raises(InvalidDefinition):
        Env(**wrong)


@pytest.mark.parametrize("wrong", [{"memory_bytes": 0}, {"pids": 1.5}, {"cpus": True}, {"wall_s": -1}])
def test_a_limit_must_be_a_number_above_zero(wrong):
    with pytest.raises(InvalidDefinition, match="above 0"):
        Limits(**wrong)


def test_limits_merge_to_the_larger_and_silence_goes_along():
    merged = Limits(memory_bytes=10, pids=3).merged(Limits(memory_bytes=20, cpus=0.5))
    assert merged == Limits(memory_bytes=20, pids=3, cpus=0.5)


@pytest.mark.parametrize("ready", ["tcp:0", "tcp:x", "http:80", "cmd:", "tcp:70000"])
def test_a_service_is_ready_by_port_or_by_command(ready):
    with pytest.raises(InvalidDefinition, match="ready"):
        Service("db", "postgres", ready=ready)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Env(apt=None), "apt=["),
        (lambda: Env(pip=5), "pip=["),
        (lambda: Env(run="make"), "run=["),
        (lambda: Env(npm={"a": 1}), "npm=["),
        (lambda: Env(variables=["A=1"]), "variables={"),
        (lambda: Env(variables={"A": 1}), "variables={"),
        (lambda: Env(files=["/a"]), "files={"),
        (lambda: Env(files={"/a": 1}), "files={"),
        (lambda: Env(services=Service(name="db", command="run")), "services=["),
        (lambda: Env(services=[{"name": "db"}]), "services=["),
        (lambda: Env(limits={"pids": 3}), "limits=Limits("),
        (lambda: Env(user="me"), "root"),
        (lambda: Env(atp=["curl"]), "'apt'"),
        (lambda: Limits(memory_bytes="2GB"), "2 << 30"),
        (lambda: Service(name="db"), "command"),
        (lambda: Service(name=5, command="run"), "letters"),
        (lambda: Service(name="db", command=""), "command="),
        (lambda: Service(name="db", command="run", start_timeout_s="soon"), "seconds"),
        (lambda: Service(name="db", command="run", restart="yes"), "on-failure"),
        (Allow, "target"),
        (lambda: Secret(5, hosts=["a.example"]), "SHOP_PASSWORD"),
    ],
)
def test_what_is_written_wrongly_is_refused_with_how_to_write_it(make, remedy):
    with pytest.raises(InvalidDefinition) as caught:
        make()
    assert remedy in caught.value.hint


def test_a_records_unknown_field_is_named():
    with pytest.raises(InvalidDefinition, match="Did you mean 'memory_bytes'"):
        Limits(memory=3)


@pytest.mark.parametrize("wrong", ["", "http://x", "x/y", "x:", "x:0", "x:99999", "a b", "[::1"])
def test_a_rules_target_is_a_host_and_perhaps_a_port(wrong):
    with pytest.raises(InvalidDefinition):
        Allow(wrong)


def test_targets_split_into_host_and_port():
    assert split_target("Shop.Example.:8443") == ("shop.example", 8443)
    assert split_target("[::1]:80") == ("::1", 80)
    assert split_target("::1") == ("::1", None)


def test_deny_wins_over_allow_in_any_order():
    rules = [Deny("shop.example"), Allow("shop.example:443"), Allow("*.example")]
    for order in (rules, rules[::-1]):
        assert isinstance(find_rule(order, "shop.example", 443), Deny)
        assert find_rule(order, "cafe.example", 443) == Allow("*.example")


def test_nothing_is_allowed_that_no_rule_names():
    assert find_rule([], "shop.example", 443) is None
    assert find_rule([Allow("shop.example")], "shop.example", 22) is None
    assert find_rule([Allow("shop.example")], "evil-shop.example", 443) is None
    assert find_rule([Allow("*.example")], "example", 443) is None
    assert find_rule([Allow("host.kibo:8080")], "host.kibo", 8081) is None


def test_a_secret_needs_a_name_and_hosts():
    with pytest.raises(InvalidDefinition, match="hosts"):
        Secret("TOKEN")
    with pytest.raises(InvalidDefinition, match="name"):
        Secret("not a name", hosts=["a"])
