"""Branches on the command line: trees that other processes made, and left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures
from kibo.branch.worlds import from_json
from kibo.model.errors import ArchiveInvalid
from kibo.runtime.trees.archive import export_deltas
from kibo.wiring.records import Records

pytestmark = pytest.mark.timeout(240)
TESTS = Path(__file__).parents[1]

PROGRAM = """
import json, os, signal, sys
import kibo
from standing_boxes import Desk

def tell(**facts):
    print(json.dumps(facts), flush=True)

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
#: A root with three forks, of which the first has changed everything, the second one file, and the third nothing.
FORKED = """
name, work = sys.argv[1:]
with kibo.branch("try " + name, name=name) as main:
    desk = main.spawn(Desk(), workspace=work)
    desk.put("one", 1)
    main.snapshot(name + "-first")
    a, b, c = main.fork(3, names=[name + each for each in "-a -b -c".split()])
    a[desk].put("two", 2)
    a[desk].arrange()
    b[desk].put("three", 3)
    a.snapshot(), b.snapshot(name + "-bee")
    tell(main=main.id, a=a.id, b=b.id, c=c.id)
"""


@dataclass
class Left:
    """A tree whose process was killed."""

    name: str
    work: Path
    main: str
    a: str
    b: str
    c: str


def program(cli: Cli, body: str, *arguments: str, status: int = 0) -> list[Any]:  # noqa: F811
    """Runs a user's program to its end, and returns what it told."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + body, *arguments],
        env=variables(cli),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def variables(cli: Cli) -> dict[str, str]:  # noqa: F811
    return cli.variables | {"PYTHONPATH": f"{cli.variables['PYTHONPATH']}:{TESTS}"}


def workspace(path: Path) -> Path:
    path.mkdir()
    (path / "hello.txt").write_text("hello\n")
    (path / "abc.txt").write_text("a\nb\nc\n")
    return path


@pytest.fixture
def left(cli: Cli, tmp_path: Path) -> Left:  # noqa: F811
    name = f"t{uuid.uuid4().hex[:8]}"
    work = workspace(tmp_path / "repo")
    (told,) = program(cli, FORKED + "    die()\n", name, str(work), status=-signal.SIGKILL)
    return Left(name, work, **told)


def rows(cli: Cli, *arguments: str) -> dict[str, Any]:  # noqa: F811
    return {row["id"]: row for row in cli.json("tree", *arguments)}


def standings(cli: Cli, tree: str) -> dict[str, Any]:  # noqa: F811
    return {each: (row["status"], row["head"]) for each, row in rows(cli, tree).items()}


def refused(cli: Cli, code: str, *arguments: str, status: int) -> dict[str, Any]:  # noqa: F811
    error: dict[str, Any] = cli.json(*arguments, status=status)["error"]
    assert error["code"] == code, error
    assert error["hint"], error
    return error


def listing(directory: Path) -> dict[str, Any]:
    """What is in a directory: mode and content of each path."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            found[str(path.relative_to(directory))] = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            found[str(path.relative_to(directory))] = (oct(info.st_mode & 0o7777), path.read_bytes())
        else:
            found[str(path.relative_to(directory))] = stat.S_IFMT(info.st_mode)
    return found


def test_tree_shows_what_another_process_left(cli: Cli, left: Left) -> None:  # noqa: F811
    shown = rows(cli)
    main, a = shown[left.main], shown[left.a]
    assert (main["name"], main["status"], main["goal"], main["depth"]) == (
        left.name,
        "open",
        f"try {left.name}",
        0,
    )
    assert (a["parent"], a["depth"], a["status"], a["process"]) == (left.main, 1, "open", None)
    assert list(main["labels"]) == [f"{left.name}-first"]
    assert list(shown[left.b]["labels"]) == [f"{left.name}-bee"]
    text = cli("tree", left.name).stdout.splitlines()
    assert text[0].split() == ["BRANCH", "ID", "STATUS", "AGE", "HEAD", "LABELS", "GOAL"]
    assert [line.split()[0] for line in text[1:]] == [left.name, *(f"{left.name}-{each}" for each in "abc")]
    assert text[2].startswith(f"  {left.name}-a")
    assert left.a[:11] in text[2]


def test_aborted_branches_are_counted_and_closed_trees_listed_on_demand(cli: Cli, left: Left) -> None:  # noqa: F811
    assert cli.json("abort", left.c) == {"aborted": [left.c], "process": None, "to_undo": []}
    assert "aborted before" in cli("abort", left.c).stdout
    shown = rows(cli)
    assert left.c not in shown
    assert shown[left.main]["aborted_children"] == 1
    assert "… and 1 aborted branch" in cli("tree").stdout
    assert rows(cli, "--all")[left.c]["status"] == "aborted"
    assert rows(cli, left.a)[left.c]["status"] == "aborted", "a tree that is named is shown whole"
    assert cli.json("abort", left.main)["aborted"][0] == left.main
    assert rows(cli)[left.main]["status"] == "aborted", "it ended within the last day"


def test_commit_says_what_was_sealed_and_what_became_stale(cli: Cli, left: Left) -> None:  # noqa: F811
    said = cli("commit", f"{left.name}-a").stdout
    assert "what it had sealed" in said
    assert "2 branches are stale now" in said
    shown = rows(cli)
    assert [shown[each]["status"] for each in (left.a, left.b, left.c)] == ["committed", "stale", "stale"]
    assert shown[left.main]["head"] == shown[left.a]["head"]
    refused(cli, "branch.closed", "commit", left.a, status=75)
    refused(cli, "state.wrong", "commit", left.main, status=75)
    error = refused(cli, "branch.stale", "commit", left.b, status=75)
    assert error["details"]["moved_by"] == left.a
    done = cli.json("commit", left.b, "--overwrite")
    assert not done["fast_forward"]
    assert done["before"] == shown[left.main]["head"], "what is left behind can be found"
    assert {row["path"] for row in cli.json("diff", done["before"], left.main)["files"]} >= {
        "/work/two",
        "/work/three",
    }


#: A root with two instances, in which both sides have changed the same and other things.
PARTED = """
name, work = sys.argv[1:]
with kibo.branch(name=name) as main:
    desk, spare = (main.spawn(Desk(), workspace=work, name=each) for each in ("desk", "spare"))
    a, b = main.fork(2, names=[name + each for each in "-a -b".split()])
    for side, text in ((a, "a\\nA\\nc\\n"), (b, "a\\nB\\nc\\n")):
        for each in (desk, spare):
            side[each].files.write("/work/abc.txt", text)
        side[desk].files.write("/work/bin.raw", b"\\0" + text.encode())
        side[desk].files.write("/work/" + side.name[-1], "alone")
        side.snapshot()
    tell(main=main.id, a=a.id, b=b.id)
    a.commit()
    die()
"""


def test_a_branch_is_merged_where_its_process_has_ended(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    name, work = f"t{uuid.uuid4().hex[:8]}", workspace(tmp_path / "repo")
    (ids,) = program(cli, PARTED, name, str(work), status=-signal.SIGKILL)
    before = standings(cli, ids["main"])
    error = refused(cli, "branch.merge_conflict", "merge", ids["b"], status=75)
    found = {(each["instance"], each["path"]): each for each in error["details"]["paths"]}
    assert {place: each["kind"] for place, each in found.items()} == {
        ("desk", "/work/abc.txt"): "content",
        ("desk", "/work/bin.raw"): "added",
        ("spare", "/work/abc.txt"): "content",
    }
    text = found["desk", "/work/abc.txt"]
    assert text["clashes"] == [{"base": "b\n", "ours": "A\n", "theirs": "B\n"}]
    assert (text["ours"]["size"], found["desk", "/work/bin.raw"]["clashes"]) == (6, [])
    told = cli("merge", ids["b"], "--theirs", "/work/*.raw", status=75).stderr
    assert "conflict: spare:/work/abc.txt (content): ours file, 6 B" in told
    assert "  <<<<<<< ours\n  A\n  ||||||| base\n  b\n  =======\n  B\n  >>>>>>> theirs\n" in told
    assert "bin.raw" not in told, "that one is decided"
    assert standings(cli, ids["main"]) == before, "nothing is lost"
    both = ("--ours", "/work", "--theirs", "desk:/work/abc.txt")
    assert "both match" in refused(cli, "input.invalid", "merge", ids["b"], *both, status=65)["message"]
    refused(cli, "input.invalid", "merge", ids["b"], "--ours", "work", status=65)
    chosen = ("--ours", "desk:/work/abc.txt", "--theirs", "spare:/work", "--theirs", "/work/*.raw")
    done = cli.json("merge", f"{name}-b", *chosen)
    assert {(one["instance"], one["path"], one["choice"]) for one in done["resolved"]} == {
        ("desk", "/work/abc.txt", "ours"),
        ("desk", "/work/bin.raw", "theirs"),
        ("spare", "/work/abc.txt", "theirs"),
    }
    assert (done["branch"], done["parent"], done["fast_forward"]) == (ids["b"], ids["main"], False)
    cli("checkout", ids["main"], "--to", str(tmp_path / "out"))
    assert {path: entry[1] for path, entry in listing(tmp_path / "out" / "desk").items()} == {
        "a": b"alone",
        "b": b"alone",
        "abc.txt": b"a\nA\nc\n",
        "bin.raw": b"\0a\nB\nc\n",
        "hello.txt": b"hello\n",
    }
    assert (tmp_path / "out/spare/abc.txt").read_text() == "a\nB\nc\n"
    refused(cli, "branch.closed", "merge", ids["b"], status=75)
    refused(cli, "state.wrong", "merge", ids["main"], status=75)


def test_what_runs_in_a_living_process_is_committed_there(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    name, work = f"t{uuid.uuid4().hex[:8]}", workspace(tmp_path / "repo")
    body = FORKED + "    sys.stdin.readline()\n    a.commit()\n    tell(seen=desk.seen())\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM + body, name, str(work)], env=variables(cli), **pipes
    ) as running:
        try:
            ids = json.loads(running.stdout.readline())
            assert {rows(cli)[each]["process"] for each in ids.values()} == {running.pid}
            assert "open*" in cli("tree", ids["main"]).stdout
            for command in ("commit", "merge"):
                error = refused(cli, "state.wrong", command, ids["b"], status=75)
                assert error["details"]["process"] == running.pid
            assert cli.json("abort", ids["b"]) == {
                "aborted": [ids["b"]],
                "process": running.pid,
                "to_undo": [],
            }
            assert [row["path"] for row in cli.json("diff", f"{name}-c")["files"]] == ["/work/one"]
            out, _ = running.communicate("go on\n", timeout=60)
        finally:
            running.kill()
    assert json.loads(out)["seen"]["two"] == "2", "the program went on undisturbed"
    shown = rows(cli, ids["main"])
    assert {row["process"] for row in shown.values()} == {None}
    assert shown[ids["main"]]["status"] == "committed"


def test_diff_compares_with_the_start_or_with_another(cli: Cli, left: Left) -> None:  # noqa: F811
    changes = {row["path"]: row["kind"] for row in cli.json("diff", left.a)["files"]}
    assert changes.pop("/work/sub/odd \n name") == "added"
    assert changes == {
        **dict.fromkeys(("/work/link", "/work/one", "/work/pipe", "/work/raw", "/work/two"), "added"),
        **dict.fromkeys(("/work/sub/", "/work/sub/hard"), "added"),
        "/work/abc.txt": "changed",
        "/work/hello.txt": "removed",
    }
    between = {row["path"]: row["kind"] for row in cli.json("diff", f"{left.name}-first", left.b)["files"]}
    assert between == {"/work/three": "added"}
    assert cli("diff", left.b, f"{left.name}-first").stdout == f"D /work/three\nD label {left.name}-bee\n"
    assert cli("diff", left.c, f"{left.name}-first").stdout == ""


def test_a_patch_makes_of_the_workspace_what_the_branch_is(cli: Cli, left: Left, tmp_path: Path) -> None:  # noqa: F811
    text = subprocess.run(
        [sys.executable, "-m", "kibo.cli", "diff", "--patch", left.a],
        env=cli.variables,
        capture_output=True,
        check=True,
    ).stdout
    assert b"Binary files /dev/null and b/work/raw differ" in text
    # git keeps no bytes of binary files in such a patch: those come another way.
    pieces = [piece for piece in text.split(b"diff --git ")[1:] if b"Binary files" not in piece]
    subprocess.run(["git", "init", "-q", left.work], check=True)
    patch = b"".join(b"diff --git " + piece for piece in pieces)
    subprocess.run(["git", "apply", "-p2"], input=patch, cwd=left.work, check=True)
    shutil.rmtree(left.work / ".git")
    cli("checkout", left.a, "--to", str(tmp_path / "out"))
    contents = [
        {path: entry[-1] if isinstance(entry, tuple) else entry for path, entry in listing(each).items()}
        for each in (left.work, tmp_path / "out")
    ]
    for name in ("raw", "pipe", "sub/hard"):
        del contents[1][name]
    assert contents[0] == contents[1]
    assert left.work.joinpath("one").stat().st_mode & 0o100
    refused(cli, "input.invalid", "diff", "--patch", left.a, status=65)


def test_apply_brings_a_root_to_the_host_once(cli: Cli, left: Left) -> None:  # noqa: F811
    before = listing(left.work)
    cli("commit", left.a)
    plan = cli.json("apply", left.main, "--dry-run")["instances"]["Desk"]
    assert listing(left.work) == before
    assert (plan["host"], plan["drift"]) == (str(left.work), [])
    assert {"path": "hello.txt", "deed": "remove"} in plan["operations"]
    assert "D hello.txt" in cli("apply", left.main, "--dry-run").stdout
    (done,) = cli.json("apply", left.main)["instances"].values()
    assert done["removed"] == ["hello.txt"]
    assert left.work.joinpath("abc.txt").read_text() == "a\nB\nc"
    assert os.getxattr(left.work / "abc.txt", "user.note") == b"kept"
    assert f"{left.work} has it all" in cli("apply", left.main).stdout
    refused(cli, "state.wrong", "apply", left.b, status=75)


def test_apply_without_a_name_takes_the_only_tree_that_has_something(cli: Cli, left: Left) -> None:  # noqa: F811
    for row in rows(cli, "--all").values():
        if row["parent"] is None and row["id"] != left.main and row["status"] == "open":
            cli("abort", row["id"])
    cli("gc", "--closed", "0s")
    assert cli.json("apply", "--dry-run")["branch"] == left.main
    cli("abort", left.main)
    refused(cli, "input.invalid", "apply", status=65)
    checked_out = {cli.json("checkout", each)["id"] for each in (left.a, left.b)}
    error = refused(cli, "input.invalid", "apply", status=65)
    assert set(error["details"]["candidates"]) == checked_out


def test_drift_is_named_path_by_path_and_nothing_is_written(cli: Cli, left: Left) -> None:  # noqa: F811
    cli("commit", left.a)
    (left.work / "abc.txt").write_text("mine\n")
    (left.work / "two").write_text("mine too\n")
    before = listing(left.work)
    plan = cli.json("apply", left.main, "--dry-run")["instances"]["Desk"]
    one, two = left.work / "abc.txt", left.work / "two"
    wanted = [{"path": str(one), "how": "changed"}, {"path": str(two), "how": "appeared"}]
    assert plan["drift"] == wanted
    error = refused(cli, "workspace.drift", "apply", left.main, status=75)
    assert error["details"]["paths"] == wanted
    told = cli("apply", left.main, status=75).stderr
    assert f"drift: {one} (changed)\ndrift: {two} (appeared)\n" in told
    assert listing(left.work) == before


def test_checkout_goes_on_in_python_and_can_be_applied(cli: Cli, left: Left) -> None:  # noqa: F811
    branch, line = cli("checkout", left.b, "--name", "again").stdout.splitlines()
    assert line == f'kibo.checkout("{branch}", Desk())'
    assert rows(cli)[branch]["name"] == "again"
    body = f"with {line} as again:\n    again['Desk'].put('four', 4)\n"
    body += "    tell(id=again.id, seen=again['Desk'].seen())\n"
    (told,) = program(cli, body)
    assert told["seen"] == {
        "abc.txt": "a\nb\nc\n",
        "hello.txt": "hello\n",
        "one": "1",
        "three": "3",
        "four": "4",
    }
    assert rows(cli)[told["id"]]["status"] == "open", "its parent is open: it can still be committed"
    cli("commit", told["id"])
    cli("commit", branch)
    cli("commit", left.b)
    cli("apply", left.main)
    assert left.work.joinpath("four").read_text() == "4"


def test_files_of_a_snapshot_come_into_a_new_directory(cli: Cli, left: Left, tmp_path: Path) -> None:  # noqa: F811
    to = tmp_path / "out"
    assert cli.json("checkout", left.a, "--to", str(to)) == {"written": {"Desk": str(to)}, "dropped": []}
    assert os.readlink(to / "link") == "one"
    assert (to / "one").stat().st_mode & 0o7777 == 0o750
    assert os.getxattr(to / "abc.txt", "user.note") == b"kept"
    assert (to / "raw").samefile(to / "sub" / "hard")
    assert (to / "raw").stat().st_mode & 0o7777 == 0o755, "what a box made runs with nobody's rights here"
    assert stat.S_ISFIFO((to / "pipe").stat().st_mode)
    assert not (to / "hello.txt").exists()
    before = listing(to)
    refused(cli, "input.invalid", "checkout", left.b, "--to", str(to), status=65)
    assert listing(to) == before
    refused(cli, "files.missing", "checkout", left.b, "--to", str(tmp_path / "no" / "out"), status=66)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.py", "out", "repo"], (
        "nothing half done"
    )


def test_a_snapshot_goes_to_another_machine_as_one_file(cli: Cli, left: Left, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "a.kibo"
    sent = cli.json("snapshot", "export", left.a, str(file))
    assert sent["bytes"] == file.stat().st_size
    refused(cli, "input.invalid", "snapshot", "export", left.b, str(file), status=65)
    with tempfile.TemporaryDirectory(prefix="kibo-cli-") as other:
        there = Cli(Path(other), tmp_path, cli.warm)
        got = there.json("snapshot", "import", str(file), "--name", "moved")
        assert got["digest"] == sent["digest"]
        assert rows(there)[got["id"]]["goal"] == f"try {left.name}"
        body = f"with {got['python']} as main:\n    tell(two=main['Desk'].get('two'))\n"
        (told,) = program(there, body)
        assert told == {"two": None}, "fresh guests: what was in memory stayed"
        there("checkout", "moved", "--to", str(tmp_path / "there"))
        cli("checkout", left.a, "--to", str(tmp_path / "here"))
        assert listing(tmp_path / "there") == listing(tmp_path / "here")
        assert "no instance" in there("apply", got["id"]).stdout


def test_any_snapshot_can_be_found_and_named(cli: Cli, left: Left) -> None:  # noqa: F811
    line = cli.json("snapshot", "list", left.b)
    assert line[0]["labels"] == [f"{left.name}-bee"]
    assert [f"{left.name}-first"] in [each["labels"] for each in line]
    assert line[0]["instances"] == ["Desk"]
    assert line[-1]["kind"] == "root"
    assert cli.json("snapshot", "list", left.b, "--limit", "1") == line[:1]
    older = line[1]["id"]
    assert cli.json("snapshot", "label", older, "kept")["snapshot"] == older
    assert "kept" in cli("snapshot", "list", "kept").stdout
    assert cli.json("snapshot", "list", "kept")[0]["id"] == older
    cli("snapshot", "label", left.main, "kept", "--remove")
    refused(cli, "snapshot.unknown", "snapshot", "list", "kept", status=66)
    refused(cli, "input.invalid", "snapshot", "label", older, "", status=65)


def test_of_old_snapshots_the_files_can_go(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    body = """
with kibo.branch(name=sys.argv[1]) as main:
    desk = main.spawn(Desk())
    for number in range(6):
        desk.put("n", number)
        main.snapshot("second" if number == 1 else "")
"""
    name = f"t{uuid.uuid4().hex[:8]}"
    program(cli, body, name)
    before = cli.json("snapshot", "list", name)
    assert {each["state"] for each in before} == {"whole"}
    cli.json("gc", "--snapshots", "2", "--dry-run")
    assert cli.json("snapshot", "list", name) == before
    cli("gc", "--snapshots", "2")
    after = cli.json("snapshot", "list", name)
    assert [each["id"] for each in after] == [each["id"] for each in before]
    assert [each["state"] for each in after[:2]] == ["whole", "whole"]
    assert {each["state"] for each in after[2:] if not each["labels"]} == {"thinned"}
    assert [each["state"] for each in after if each["labels"]] == ["whole"]


def test_a_damaged_file_is_refused_whole(cli: Cli, left: Left, tmp_path: Path) -> None:  # noqa: F811
    file, bad = tmp_path / "a.kibo", tmp_path / "bad.kibo"
    cli("snapshot", "export", left.a, str(file))
    whole = file.read_bytes()
    deltas, trees = sorted(os.listdir(cli.home / "deltas")), rows(cli, "--all").keys()
    middle = bytearray(whole)
    middle[-40] ^= 0x10
    for damaged in (whole[: len(whole) // 2], bytes(middle), whole[:-100], b"kibo" + whole[4:], b""):
        bad.write_bytes(damaged)
        refused_archive(cli, bad)
    refused(cli, "files.missing", "snapshot", "import", str(tmp_path / "none"), status=66)
    assert sorted(os.listdir(cli.home / "deltas")) == deltas
    assert rows(cli, "--all").keys() == trees


def refused_archive(cli: Cli, file: Path) -> None:  # noqa: F811
    error = cli.json("snapshot", "import", str(file), status=65)["error"]
    assert error["code"] == "archive.invalid", error


@pytest.fixture
def records() -> Iterator[Records]:
    with tempfile.TemporaryDirectory(prefix="kibo-cli-") as other:
        found = Records(Path(other))
        yield found
        found.store.close()  # alone: there is a world here that nothing but a refusal can be made of


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ["../../../../etc"]},
        {"layers": [5]},
        {"deltas": ["delta_0123"]},
        {"deltas": 7},
        {"box": "../box"},
        {"turns": -1},
        {"label": "a\nb"},
    ],
)
def test_an_archive_whose_world_leads_out_of_it_is_refused(
    records: Records, tmp_path: Path, change: dict[str, Any]
) -> None:
    each = {"box": "b2:00", "label": "Desk", "layers": [], "deltas": [], "turns": 0, "frozen": ""}
    first = records.history.create("evil", world={"instances": {"Desk": each | change}})
    lines = [json.dumps({"kibo_parcel": 1, "goal": ""}), *records.history.export(first.head)]
    file = tmp_path / "evil.kibo"
    with file.open("wb") as out:
        export_deltas([], out, history="".join(f"{line}\n" for line in lines).encode())
    known = len(records.history.roots())
    with pytest.raises(ArchiveInvalid, match="world"):
        records.standing().receive(file)
    assert len(records.history.roots()) == known


def test_references_that_name_nothing_or_several_things(cli: Cli, left: Left) -> None:  # noqa: F811
    for command in (("commit", "nowhere"), ("abort", "br_ffffff"), ("apply", "nowhere"), ("tree", "nowhere")):
        refused(cli, "branch.unknown", *command, status=66)
    for command in (
        ("diff", "nowhere"),
        ("diff", left.a, "nowhere"),
        ("checkout", "snap_ffffff"),
        ("snapshot", "export", "nowhere", "file"),
    ):
        refused(cli, "snapshot.unknown", *command, status=66)
    refused(cli, "instance.unknown", "diff", "inst_ffffff", status=66)
    first = cli.json("checkout", left.b, "--name", f"{left.name}-twice")["id"]
    # A name that is also the beginning of an id is a name.
    digits = left.a.removeprefix("br_")[:6]
    second = cli.json("checkout", left.c, "--name", digits)["id"]
    assert cli.json("abort", digits)["aborted"] == [second]
    third = cli.json("checkout", left.c, "--name", f"{left.name}-twice")["id"]
    error = refused(cli, "branch.unknown", "abort", f"{left.name}-twice", status=66)
    assert sorted(error["details"]["candidates"]) == sorted([first, third])
    assert first in error["hint"]
    error = refused(cli, "snapshot.unknown", "diff", f"{left.name}-twice", status=66)
    assert first in error["hint"]
    assert cli.json("abort", third[:14])["aborted"] == [third]
    refused(cli, "usage", "snapshot", "export", left.a, status=64)


def test_closed_branches_can_be_read_and_not_changed(cli: Cli, left: Left) -> None:  # noqa: F811
    cli("abort", left.main)
    for command in (("commit", left.a), ("apply", left.main)):
        refused(cli, "branch.closed", *command, status=75)
    assert cli.json("diff", left.b)
    again = cli.json("checkout", left.a)
    assert again["parent"] is None, "nothing above it is open"
    cli("apply", again["id"])
    assert left.work.joinpath("abc.txt").read_text() == "a\nB\nc"


def test_gc_lets_ended_branches_and_their_files_go(cli: Cli, left: Left) -> None:  # noqa: F811
    head = rows(cli, left.a)[left.a]["head"]
    records = Records(cli.home)
    world = from_json(records.history.get_snapshot(head).world)["Desk"]
    kept: set[str] = set()
    for each in (left.b, left.main):
        kept.update(from_json(records.history.find_snapshot(each).world)["Desk"].deltas)
    records.close()
    cli("abort", left.a)
    assert left.a not in cli.json("gc")["branches"], "seven days by default"
    own = set(world.deltas) - kept
    assert own
    planned = cli.json("gc", "--closed", "0s", "--dry-run")
    assert left.a in planned["branches"]
    assert own <= set(planned["deltas"])
    assert all((cli.home / "deltas" / name).is_dir() for name in own)
    done = cli.json("gc", "--closed", "0s")
    assert (done["branches"], done["deltas"]) == (planned["branches"], planned["deltas"])
    assert not any((cli.home / "deltas" / name).exists() for name in own)
    assert all((cli.home / "deltas" / name).is_dir() for name in kept)
    refused(cli, "branch.unknown", "abort", left.a, status=66)
    refused(cli, "snapshot.unknown", "diff", head, status=66)
    assert cli.json("diff", left.b)


def test_a_snapshot_whose_layers_are_gone_says_so(cli: Cli, left: Left) -> None:  # noqa: F811
    layers = {path.name for path in (cli.home / "layers").iterdir()}
    cli("gc", "--unused", "0s")
    named = {path.name for path in (cli.home / "layers").iterdir()}
    assert named <= layers
    assert cli.json("diff", left.a), "what branches lie over is kept"
    cli("gc", "--all")
    error = refused(cli, "state.wrong", "diff", left.a, status=75)
    assert set(error["details"]["missing"]) <= named
    refused(cli, "state.wrong", "checkout", left.a, status=75)
    # Built again, they are the same.
    program(cli, "Desk().spawn().destroy()\n")
    assert cli.json("diff", left.a)
    shutil.rmtree(cli.home / "deltas" / from_head(cli, left.a)[-1])
    error = refused(cli, "state.wrong", "diff", left.a, status=75)
    assert "is not there" in error["message"]


def from_head(cli: Cli, branch: str) -> tuple[str, ...]:  # noqa: F811
    records = Records(cli.home)
    try:
        return from_json(records.history.find_snapshot(branch).world)["Desk"].deltas
    finally:
        records.close()
