"""What may come into a profile, what it may be called, and what two sides' changes come to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kibo.effects.sessions.content import Manifest, ProfileFile, check_path, digest_of, packed, unpacked
from kibo.effects.sessions.merging import Merged, merge
from kibo.effects.sessions.register import check_name
from kibo.model.errors import InvalidInput, PathRefused, StoreDamaged


class Side(dict[bytes, bytes]):
    """Files with their contents."""

    @property
    def manifest(self) -> Manifest:
        return {path: ProfileFile(digest_of(each), len(each), 0o600) for path, each in self.items()}


def merged(base: Side, ours: Side, theirs: Side) -> tuple[Merged, Side]:
    contents = {digest_of(each): each for side in (base, ours, theirs) for each in side.values()}
    done = merge(base.manifest, ours.manifest, theirs.manifest, lambda _, file: contents[file.digest])
    contents |= done.made
    return done, Side({path: contents[file.digest] for path, file in done.manifest.items()})


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\x1b[2J", "x" * 201, "\udcff", 7])
def test_names_that_a_terminal_or_a_store_could_not_show_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/etc/passwd",
        b"../a",
        b"a/../../b",
        b"a//b",
        b"./a",
        b"a/.",
        b"a\0",
        b"x" * 256,
        b"a/" * 2048 + b"a",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(path: bytes) -> None:
    with pytest.raises(PathRefused):
        check_path(path)


@pytest.mark.parametrize(
    "manifest",
    [
        {b"../a": ProfileFile("0" * 64, 1, 0o600)},
        {b"a": ProfileFile("../../../etc/passwd", 1, 0o600)},
        {b"a": ProfileFile("0" * 64, -1, 0o600)},
    ],
)
def test_a_list_of_files_that_the_store_gives_is_not_believed(manifest: Manifest) -> None:
    with pytest.raises(StoreDamaged):
        unpacked(packed(manifest))
    with pytest.raises(StoreDamaged):
        unpacked(b"\xc1")


SIDES = st.dictionaries(st.sampled_from([b"a", b"b", b"c/d", b"c/e", b"f"]), st.binary(max_size=2)).map(Side)


@given(SIDES, SIDES)
def test_where_one_side_has_changed_the_result_is_that_side(base: Side, other: Side) -> None:
    for ours, theirs in ((base, other), (other, base), (other, other)):
        done, files = merged(base, ours, theirs)
        assert files == other
        assert done.conflicts == ()


@given(SIDES, SIDES, SIDES)
def test_what_a_save_has_changed_is_there_and_what_it_has_not_is_as_it_was(
    base: Side, ours: Side, theirs: Side
) -> None:
    done, files = merged(base, ours, theirs)
    for path in {*base, *ours, *theirs}:
        changed = theirs.get(path) != base.get(path)
        assert files.get(path) == (theirs if changed else ours).get(path)
        both = changed and ours.get(path) not in (base.get(path), theirs.get(path))
        assert (path.decode() in done.conflicts) == both


def test_a_file_where_the_other_side_has_a_directory_leaves_a_tree() -> None:
    for ours, theirs in (({b"a": b"1"}, {b"a/b": b"2"}), ({b"a/b": b"1"}, {b"a": b"2"})):
        done, files = merged(Side(), Side(ours), Side(theirs))
        assert files == theirs
        assert done.conflicts


def cookie(name: str, value: str, domain: str = "shop.example") -> dict[str, str]:
    return {"name": name, "domain": domain, "path": "/", "value": value}


def origin(**items: str) -> dict[str, object]:
    named = [{"name": name, "value": value} for name, value in items.items()]
    return {"origin": "https://shop.example", "localStorage": named}


def state(cookies: list[dict[str, str]], origins: list[dict[str, object]]) -> Side:
    return Side({b"state.json": json.dumps({"cookies": cookies, "origins": origins}).encode()})


def test_cookies_and_storage_are_merged_entry_by_entry() -> None:
    base = state([cookie("a", "1"), cookie("b", "1"), cookie("gone", "1")], [origin(x="1", y="1")])
    ours = state([cookie("a", "2"), cookie("b", "1"), cookie("gone", "1")], [origin(x="2", y="1", z="1")])
    theirs = state([cookie("a", "1"), cookie("b", "3"), cookie("a", "4", "other")], [origin(x="3", y="1")])
    done, files = merged(base, ours, theirs)
    found = json.loads(files[b"state.json"])
    assert found["cookies"] == [cookie("a", "2"), cookie("b", "3"), cookie("a", "4", "other")]
    assert found["origins"] == [origin(x="3", y="1", z="1")]
    assert done.conflicts == ("state.json: localStorage https://shop.example x",)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b'{"cookies": 1, "origins": []}',
        b'{"cookies": [1], "origins": []}',
        b'{"cookies": [], "origins": [{}]}',
        b'{"cookies": [{"name": []}], "origins": []}',
        b'{"cookies": [{"name": "a"}, {"name": "a"}], "origins": []}',
        b'{"cookies": [], "origins": [], "more": 1}',
    ],
)
def test_what_only_looks_like_cookies_is_a_file_like_any_other(content: bytes) -> None:
    base, ours = state([], []), state([cookie("a", "1")], [])
    done, files = merged(base, ours, Side({b"state.json": content}))
    assert files == {b"state.json": content}
    assert done.conflicts == ("state.json",)


VALUES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"))


@given(VALUES, VALUES, VALUES)
def test_every_cookie_is_the_newest_save_s_where_that_changed_it(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    sides = [state([cookie(*each) for each in side.items()], []) for side in (base, ours, theirs)]
    _, files = merged(*sides)
    found = {each["name"]: each["value"] for each in json.loads(files[b"state.json"])["cookies"]}
    for name in "abcd":
        changed = theirs.get(name) != base.get(name)
        assert found.get(name) == (theirs if changed else ours).get(name)
