"""Rules of egress, as values: which one decides, and which paths are no secret way around one."""

import pytest

from kibo import Allow, Box, Deny
from kibo.box.forwards import MAX_FORWARDS, forwards
from kibo.box.inheritance import egress_of
from kibo.box.plan import plan
from kibo.box.policy import EFFECTS, find_approval, find_effect, find_rule, plain_path
from kibo.effects.destinations import Refused, check_seen, decide, write
from kibo.effects.packed import PackedRule
from kibo.model.errors import CompositionConflict, InvalidDefinition

READ = Allow("api.example", methods=("GET", "HEAD"), paths=("/v1/*", "/health"))


def decided(*rules: Allow | Deny, method: str = "GET", path: str = "/v1/x") -> Allow | Deny | None:
    return find_rule(rules, "api.example", 443, [method], path)


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("GET", "/v1/x", True),
        ("HEAD", "/v1/x/y", True),
        ("GET", "/v1/", True),
        ("GET", "/health", True),
        ("GET", "/v1/%61%20b", True),
        ("POST", "/v1/x", False),
        ("get", "/v1/x", False),
        ("GET", "/v1", False),
        ("GET", "/V1/x", False),
        ("GET", "/healthy", False),
        ("GET", "/health/", False),
        ("GET", "/v2/x", False),
        ("GET", "/v1/../v2/x", False),
        ("GET", "/v1/%2e%2e/v2", False),
        ("GET", "/v1/.%2E/v2", False),
        ("GET", "/v1/%252e%252e/v2", False),
        ("GET", "/v1/..;/v2", False),
        ("GET", "/v1/..\\v2", False),
        ("GET", "/v1/%5c..%5cv2", False),
        ("GET", "/v1/..%2fv2", False),
        ("GET", "/v1/x#/../../v2", False),
        ("GET", "/v1//x", False),
        ("GET", "/v1/./x", False),
        ("GET", "/v1/%00", False),
        ("GET", "/v1/%ff", False),
        ("GET", "//v1/x", False),
        ("OPTIONS", "*", False),
    ],
)
def test_a_rule_covers_its_methods_and_paths_and_nothing_that_a_server_might_read_otherwise(
    method: str, path: str, may: bool
) -> None:
    assert (decided(READ, method=method, path=path) is READ) is may


@pytest.mark.parametrize(
    "path", ["/admin", "/admin/users", "/ADMIN/users", "/%61dmin/x", "/x/../admin", "/x//admin", "/x;/admin"]
)
def test_a_denial_counts_for_whatever_a_server_might_take_for_its_path(path: str) -> None:
    denial = Deny("api.example", paths=("/admin", "/admin/*"))
    assert decided(Allow("api.example"), denial, path=path) is denial
    assert decided(denial, Allow("api.example"), path="/shop") == Allow("api.example")


def test_a_denial_of_a_method_leaves_the_others() -> None:
    rules = Allow("api.example"), Deny("api.example", methods=("DELETE",))
    assert decided(*rules, method="DELETE") is rules[1]
    assert decided(*rules, method="GET") is rules[0]


def test_any_of_several_rules_for_one_host_may_cover_a_request() -> None:
    write = Allow("api.example", methods=("POST",), paths=("/v1/orders",))
    assert decided(READ, write, method="POST", path="/v1/orders") is write
    assert decided(READ, write, method="POST", path="/v1/x") is None
    assert find_rule([READ, write], "api.example", 443) is READ


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("/a*c", "/abc", True), ("/a*c", "/ac", True), ("/a*c", "/abcd", False), ("/*/x/*", "/a/x/b", True),
        ("/*/x/*", "/x/b", False), ("/ab*ba", "/aba", False), ("/*", "/any/where", True),
    ],
)  # fmt: skip
def test_a_star_is_any_characters(pattern: str, path: str, covered: bool) -> None:
    assert (decided(Allow("api.example", paths=(pattern,)), path=path) is not None) is covered


def test_what_a_framework_takes_for_the_method_must_be_allowed_too() -> None:
    assert find_rule([READ], "api.example", 443, ["GET", "DELETE"], "/v1/x") is None


def test_a_refusal_names_the_rule_that_comes_near_and_the_one_to_add() -> None:
    with pytest.raises(Refused) as refused:
        decide([READ], "api.example", 443, ["POST"], "/v1/x")
    assert (
        'Allow("api.example", methods=("GET", "HEAD"), paths=("/v1/*", "/health")) lets this box reach'
        in str(refused.value)
    )
    assert 'add Allow("api.example:443", methods=("POST",), paths=("/v1/x",)) to the `egress`' in str(
        refused.value
    )
    with pytest.raises(Refused, match="more than one way"):
        decide([READ], "api.example", 443, ["GET"], "/v1/../x")
    with pytest.raises(
        Refused, match=r'Deny\("api.example", methods=\("GET",\)\) keeps this box from GET /x'
    ):
        decide([READ, Deny("api.example", methods=("GET",))], "api.example", 443, ["GET"], "/x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": "GET"}, {"methods": ("get",)}, {"methods": ("",)}, {"paths": "/x"}, {"paths": ("x",)},
        {"paths": ("/a/../b",)}, {"paths": ("/a?b",), "passthrough": True}, {"paths": ("/%61",)},
        {"methods": ("GET",), "passthrough": True}, {"effect": "harmless"}, {"effect": ""},
        {"approve": True, "passthrough": True}, {"approve": True, "effect": "read"}, {"approve": 1},
        {"approve": True, "methods": ("GET", "HEAD")}, {"approve_within_s": 60},
        {"approve": True, "approve_within_s": 0},
        {"approve": True, "approve_within_s": -1}, {"approve": True, "approve_within_s": float("nan")},
        {"approve": True, "approve_within_s": float("inf")}, {"approve": True, "approve_within_s": "1h"},
        {"approve": True, "approve_within_s": True}, {"approve": True, "approve_within_s": 30 * 86400 + 1},
    ],
)  # fmt: skip
def test_a_rule_that_says_nothing_that_can_be_held_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidDefinition) as error:
        Allow("api.example", **wrong)  # type: ignore[arg-type]
    assert error.value.hint


@pytest.mark.parametrize(
    ("methods", "upgrade", "effect"),
    [
        (["GET"], False, "read"), (["HEAD"], False, "read"), (["OPTIONS"], False, "read"),
        (["POST"], False, "irreversible"), (["DELETE"], False, "irreversible"), (["get"], False, "irreversible"),
        (["GET", "DELETE"], False, "irreversible"), (["GET"], True, "irreversible"),
    ],
)  # fmt: skip
def test_without_a_rule_that_says_so_safe_methods_read_and_all_else_is_irreversible(
    methods: list[str], upgrade: bool, effect: str
) -> None:
    rules = (Allow("api.example"),)
    assert find_effect(rules, "api.example", 443, methods, "/x", upgrade=upgrade) == effect


@pytest.mark.parametrize("order", [1, -1])
def test_of_rules_that_say_what_a_request_does_the_strictest_counts_in_any_order(order: int) -> None:
    rules = [
        Allow("api.example"),
        Allow("api.example", paths=("/search",), effect="read"),
        Allow("*.example", paths=("/search", "/cart"), effect="reversible"),
        Allow("other.example", effect="irreversible"),
    ][::order]
    assert find_effect(rules, "api.example", 443, ["POST"], "/search") == "reversible"
    assert find_effect(rules[:2] + rules[3:], "api.example", 443, ["POST"], "/pay") == "irreversible"
    assert find_effect(rules, "api.example", 443, ["GET"], "/cart", upgrade=True) == "reversible"


@pytest.mark.parametrize("order", [1, -1])
def test_a_rule_that_makes_a_request_stricter_counts_for_all_that_a_server_may_take_for_it(
    order: int,
) -> None:
    rules = [
        Allow("api.example"),
        Allow("api.example", paths=("/buy",), effect="irreversible"),
        Allow("api.example", methods=("POST",), paths=("/search",), effect="read"),
    ][::order]
    for path in ("/buy", "/BUY", "//buy", "/x/../buy", "/%62uy", "/x;y"):
        assert find_effect(rules, "api.example", 443, ["GET"], path) == "irreversible"
    assert find_effect(rules, "api.example", 443, ["GET"], "/buys") == "read"
    # What loosens counts for just what it covers.
    assert find_effect(rules, "api.example", 443, ["POST"], "/search") == "read"
    assert find_effect(rules, "api.example", 443, ["POST"], "/SEARCH") == "irreversible"
    assert find_effect(rules, "api.example", 443, ["POST", "DELETE"], "/search") == "irreversible"


@pytest.mark.parametrize("order", [1, -1])
def test_of_rules_one_that_asks_a_person_is_enough_and_the_shortest_wait_counts(order: int) -> None:
    rules = [
        Allow("api.example"),
        Allow("api.example", methods=("POST",), paths=("/pay",), approve=True),
        Allow("*.example", paths=("/pay", "/book/*"), approve=True, approve_within_s=60),
        Allow("other.example", approve=True, approve_within_s=1),
        Deny("api.example", paths=("/admin",)),
    ][::order]

    def within(method: str, path: str | None, port: int = 443) -> float | None:
        return find_approval(rules, "api.example", port, [method], path)

    assert within("POST", "/pay") == 60.0
    assert [within("POST", path) for path in ("/PAY", "//pay", "/a/../book/1", "/book/1")] == [60.0] * 4
    assert [within("POST", path) for path in ("/search", "/pays")] == [None] * 2
    assert within("POST", None) == 60.0
    assert within("POST", "/pay", 8080) is None
    assert within("GET", "/book/1") == 60.0  # what it is asked for is another matter: a read is not
    assert (
        find_approval(rules[:2] if order == 1 else rules[-2:], "api.example", 443, ["POST"], "/pay") == 3600.0
    )


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_rule_asks_about_no_other_rule_can_call_a_read(order: int) -> None:
    rules = [
        Allow("api.example", methods=("POST",), paths=("/pay",), effect="read"),
        Allow("api.example", methods=("POST", "GET"), approve=True),
    ][::order]
    assert find_effect(rules, "api.example", 443, ["POST"], "/pay") == "irreversible"
    assert find_effect(rules, "api.example", 443, ["GET"], "/pay") == "read"


def test_how_long_a_person_has_is_settled_and_part_of_the_definition() -> None:
    asks = Allow("api.example", approve=True)
    assert asks == Allow("api.example", approve=True, approve_within_s=3600)
    assert asks.replace() == asks
    rules = [Allow("api.example"), asks, Allow("api.example", approve=True, approve_within_s=60)]
    assert len({type("B", (Box,), {"egress": [rule]})().digest for rule in rules}) == 3
    assert write(asks) == 'Allow("api.example", approve=True)'
    packed = [PackedRule.pack(rule).unpack() for rule in rules]
    assert packed == rules


@pytest.mark.parametrize("how", ["passthrough", "tcp"])
def test_where_a_person_is_asked_no_rule_leaves_anything_unopened(how: str) -> None:
    with pytest.raises(InvalidDefinition, match="shown to nobody"):
        Allow("api.example:443", approve=True, **{how: True})  # type: ignore[arg-type]
    closed = Allow("api.example:443", **{how: True})  # type: ignore[arg-type]
    check_seen([Allow("other.example", approve=True)], closed, "api.example", 443)
    with pytest.raises(Refused, match=f"a person has to approve .* Leave out `{how}`"):
        check_seen([Allow("*.example", approve=True)], closed, "api.example", 443)


def test_what_a_rule_says_of_effects_is_part_of_the_definition() -> None:
    boxes = [type("B", (Box,), {"egress": [Allow("api.example", effect=each)]}) for each in (None, *EFFECTS)]
    assert len({box().digest for box in boxes}) == 1 + len(EFFECTS)


class Reader(Box):
    """Reads."""

    egress = [READ]


class Writer(Box):
    """Writes."""

    egress = [Allow("api.example", methods=("POST",)), Allow("api.example", methods=("PUT",))]


class Elsewhere(Box):
    """Writes to another place."""

    egress = [Allow("api.example", to="127.0.0.1:1")]


class Nearer(Writer):
    """Writes to a test server."""

    egress = [Allow("api.example", to="127.0.0.1:1")]


def test_a_sum_may_do_what_any_part_may_and_where_a_name_leads_must_agree() -> None:
    both = plan(Reader() + Writer()).egress
    assert both == (*Reader.egress, *Writer.egress)
    assert set(plan(Writer() + Reader()).egress) == set(both)
    with pytest.raises(CompositionConflict, match="route to"):
        plan(Reader() + Elsewhere())
    assert plan(Reader() | Elsewhere()).egress == tuple(Elsewhere.egress)


def test_a_nearer_class_says_all_of_one_target() -> None:
    assert egress_of(Nearer) == tuple(Nearer.egress)
    assert egress_of(Writer) == tuple(Writer.egress)


def test_a_rule_is_part_of_the_digest() -> None:
    class Other(Box):
        """Reads."""

        egress = [READ.replace(paths=("/v1/*",))]

    class Same(Box):
        """Reads."""

        egress = [READ.replace()]

    assert len({each.digest for each in (Other(), Same())}) == 2
    assert plain_path("/v1/x") == "/v1/x"


# -- any protocol


def test_any_protocol_needs_a_port_and_has_neither_methods_nor_paths_nor_another_way_to_stay_closed() -> None:
    for wrong in (
        {"target": "db.example"},
        {"target": "db.example:1", "methods": ("GET",)},
        {"target": "db.example:1", "paths": ("/x",)},
        {"target": "db.example:1", "passthrough": True},
    ):
        with pytest.raises(InvalidDefinition):
            Allow(**wrong, tcp=True)  # type: ignore[arg-type]
    assert Allow("db.example:1", tcp=True) != Allow("db.example:1")


@pytest.mark.parametrize("closed", [{"tcp": True}, {"passthrough": True}])
def test_a_denial_of_some_of_a_host_counts_for_all_that_nobody_looks_into(closed: dict[str, bool]) -> None:
    allow, denial = Allow("api.example:443", **closed), Deny("api.example", methods=("DELETE",))
    assert find_rule([allow, denial], "api.example", 443) is denial
    assert find_rule([allow, Deny("api.example:80", paths=("/x",))], "api.example", 443) is allow
    # A request that can be read is told apart.
    assert find_rule([allow, denial], "api.example", 443, ["GET"], "/") is allow
    assert find_rule([Allow("api.example"), denial], "api.example", 443) == Allow("api.example")


def test_parts_of_a_sum_that_differ_on_whether_a_host_speaks_http_conflict() -> None:
    class Web(Box):
        """HTTP."""

        egress = [Allow("db.example:8123")]

    class Raw(Box):
        """Anything."""

        egress = [Allow("db.example:8123", tcp=True)]

    with pytest.raises(CompositionConflict):
        plan(Web() + Raw())
    assert [f.host for f in plan(Web() | Raw()).forwards] == ["db.example"]
    assert plan(Raw() | Web()).forwards == ()
    assert Raw().digest != Web().digest


def test_each_host_that_any_protocol_is_spoken_to_has_a_place_of_the_loopback_where_it_has_a_name() -> None:
    found = forwards(
        [
            Allow("DB.example:5432", tcp=True),
            Allow("db.example:5433", tcp=True),
            Allow("db.example:5432", tcp=True, effect="read"),
            Allow("db.example:8080"),
            Allow("10.0.0.1:5432", tcp=True),
            Allow("[::1]:5432", tcp=True),
            Allow("*.example:5432", tcp=True),
            Allow("denied.example:5432", tcp=True),
            Deny("denied.example"),
            Allow("web.example:9000"),
            Allow("web.example:9000", tcp=True),
            Allow("mail\rexample:25", tcp=True),
            Allow("host.kibo:6379", tcp=True),
        ]
    )
    assert found == (
        ("127.77.0.1", "db.example", 5432),
        ("127.77.0.1", "db.example", 5433),
        ("127.77.0.2", "host.kibo", 6379),
    )


def test_a_box_listens_for_so_many_hosts_and_no_more() -> None:
    rules = [Allow(f"db{number}.example:5432", tcp=True) for number in range(MAX_FORWARDS)]
    assert len({forward.address for forward in forwards(rules)}) == MAX_FORWARDS
    with pytest.raises(InvalidDefinition, match="may name 32 hosts"):
        forwards([*rules, Allow("one.example:1", tcp=True)])
