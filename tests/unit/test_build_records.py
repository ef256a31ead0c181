"""Locks, keys and what package managers say about what they resolved."""

import json

import pytest

from kibo.box.env import Env
from kibo.model.errors import InvalidDefinition, LockMismatch
from kibo.runtime.images.environment import _interpreter_steps
from kibo.runtime.images.inside import Refusal
from kibo.runtime.images.lock import Lock, LockedStep
from kibo.runtime.images.plan import plan_steps
from kibo.runtime.images.recipes import compare, parse_report, parse_uris, without_addresses
from kibo.runtime.images.registry import Registry, open_source


def keys(env: Env) -> list[str]:
    return [step.key for step in plan_steps(env)]


def test_apt_listing_gives_names_versions_and_hashes() -> None:
    listing = (
        f"'http://mirror.example/pool/h/hello_1%3a2.10-3_amd64.deb' hello_1%3a2.10-3_amd64.deb 53 SHA256:{'a' * 64}\n"
        "'http://mirror.example/pool/a/aa_1_all.deb' aa_1_all.deb 5 MD5Sum:00\n"
    )
    assert parse_uris(listing) == [
        {"name": "aa", "version": "1", "architecture": "all", "sha256": ""},
        {"name": "hello", "version": "1:2.10-3", "architecture": "amd64", "sha256": "a" * 64},
    ]


def test_pip_report_gives_names_versions_and_hashes() -> None:
    item = {
        "metadata": {"name": "six", "version": "1.17.0"},
        "download_info": {
            "url": "https://mirror.example/six.whl",
            "archive_info": {"hashes": {"sha256": "ab"}},
        },
    }
    assert parse_report({"install": [item]}) == {
        "packages": [{"name": "six", "version": "1.17.0", "sha256": "ab"}]
    }


def test_npm_lock_keeps_integrity_and_loses_addresses() -> None:
    lock = {
        "packages": {"node_modules/a": {"resolved": "https://mirror.example/a.tgz", "integrity": "sha512-x"}}
    }
    assert without_addresses(lock) == {"packages": {"node_modules/a": {"integrity": "sha512-x"}}}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([{"name": "a", "version": "2", "sha256": "x"}], "a 2"),
        ([{"name": "a", "version": "1", "sha256": "y"}], "a 1"),
        ([], "no such package"),
        ([{"name": "a", "version": "1", "sha256": "x"}, {"name": "b", "version": "1"}], "b 1"),
    ],
)
def test_any_difference_from_the_lock_is_refused_by_name(found: list[dict[str, str]], message: str) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        compare("apt", [{"name": "a", "version": "1", "sha256": "x"}], found)
    assert caught.value.code == "locked"


def test_a_lock_reads_back_as_it_was_written() -> None:
    lock = Lock((LockedStep("apt", {"packages": ["a"]}, {"packages": []}, ("b2:00",)),))
    assert Lock.from_text(lock.to_text()) == lock
    assert json.loads(lock.to_text())["version"] == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 99, "steps": []}', '{"version": 1, "steps": [{}]}']
)
def test_a_text_that_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(LockMismatch):
        Lock.from_text(text)


def test_equal_environments_have_equal_keys_and_any_change_gives_another() -> None:
    env = Env(apt=["hello"], pip=["six"], files={"/etc/a": b"a"}, run=["true"])
    assert keys(env) == keys(Env(apt=["hello"], pip=["six"], files={"/etc/a": b"a"}, run=["true"]))
    changed = [
        Env(apt=["hello", "jq"], pip=["six"], files={"/etc/a": b"a"}, run=["true"]),
        Env(apt=["hello"], pip=["six==1"], files={"/etc/a": b"a"}, run=["true"]),
        Env(apt=["hello"], pip=["six"], files={"/etc/a": b"b"}, run=["true"]),
        Env(apt=["hello"], pip=["six"], files={"/etc/a": b"a"}, run=["false"]),
        Env(apt=["hello"], pip=["six"], files={"/etc/a": b"a"}, run=["true"], variables={"A": "1"}),
    ]
    last = {keys(env)[-1], *(keys(other)[-1] for other in changed)}
    assert len(last) == len(changed) + 1


def test_an_earlier_step_keeps_its_key_when_a_later_one_changes() -> None:
    first, second = keys(Env(apt=["hello"], run=["true"])), keys(Env(apt=["hello"], run=["false"]))
    assert first[:-1] == second[:-1]


def test_every_chain_has_the_running_pythons_own_files_by_one_key() -> None:
    chains = [_interpreter_steps(), *(plan_steps(Env(base=base)) for base in ("host", "debian:bookworm"))]
    found = [[step.key for step in steps if step.kind == "interpreter"] for steps in chains]
    assert found[0]
    assert found == [found[0]] * len(chains)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidDefinition, match="no/such/file"):
        plan_steps(Env(files={"/etc/a": "no/such/file"}))


def test_references_name_host_repository_and_tag() -> None:
    source = open_source("localhost:5000/team/tool:1.2")
    assert isinstance(source, Registry)
    assert vars(source)["_root"] == "http://localhost:5000/v2/team/tool"
    assert vars(source)["_reference"] == "1.2"
    pinned = open_source(f"mirror.example/tool@sha256:{'0' * 64}")
    assert pinned.resolve() == f"sha256:{'0' * 64}"


@pytest.mark.parametrize("reference", ["", "UPPER/case", "host.example/", "a b", "x@sha256:12"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(InvalidDefinition):
        open_source(reference)
