"""Workspaces that are git repositories, in whatever state: valid in a box, and on the host after an apply."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from kibo.branch.branch import Branch
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.frozen import Frozen
from value_boxes import Values
from workspace_trials import in_a_fork


def git(place: Path, *arguments: str, status: int = 0) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *own, *arguments], cwd=place, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


INSIDE = "git -c user.name=a -c user.email=a@b"


@pytest.fixture
def repo(work: Path) -> Path:
    git(work, "init", "-q", "-b", "main")
    (work / "file").write_text("1\n2\n3\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    return work


@pytest.fixture
def diverged(repo: Path) -> Path:
    git(repo, "checkout", "-qb", "other")
    (repo / "file").write_text("other\n2\n3\n")
    git(repo, "commit", "-qam", "other")
    git(repo, "checkout", "-q", "main")
    (repo / "file").write_text("main\n2\n3\n")
    git(repo, "commit", "-qam", "main")
    return repo


@pytest.mark.parametrize(
    ("verb", "finish", "subject"),
    [("merge", "commit -qm merged", "merged"), ("rebase", "-c core.editor=true rebase --continue", "main")],
)
def test_a_repository_in_the_middle_of_something_goes_on_in_a_box(
    main: Branch, diverged: Path, verb: str, finish: str, subject: str
) -> None:
    git(diverged, verb, "other", status=1)
    before = git(diverged, "status")
    box = main.spawn(Values(), workspace=diverged)
    assert box.exec("git status").stdout == before
    in_a_fork(main, box, "")
    done = box.exec(
        f"printf 'both\\n2\\n3\\n' > file && git add file && {INSIDE} {finish} && git status --porcelain"
    )
    assert (done.returncode, done.stdout[-18:]) == (0, '? "of the parent"\n'), done.stderr
    assert git(diverged, "status") == before
    main.apply()
    assert git(diverged, "log", "-1", "--format=%s").strip() == subject
    assert git(diverged, "status", "--porcelain") == '?? "of the parent"\n'
    assert "in progress" not in git(diverged, "status")
    git(diverged, "fsck", "--strict")


def test_a_repository_with_a_submodule_is_whole_in_a_box_and_after_an_apply(
    main: Branch, repo: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    git(tmp_path, "clone", "-q", str(repo), str(library))
    git(repo, "submodule", "--quiet", "add", str(library), "sub")
    git(repo, "commit", "-qm", "submodule")
    box = main.spawn(Values(), workspace=repo)
    assert box.exec("git status --porcelain; git -C sub status --porcelain").stdout == ""
    done = box.exec(
        f"cd sub && echo more >> file && {INSIDE} commit -qam in && cd .. && {INSIDE} commit -qam out"
    )
    assert done.returncode == 0, done.stderr
    main.apply()
    for place in (repo, repo / "sub"):
        assert git(place, "status", "--porcelain") == ""
        git(place, "fsck", "--strict")
    assert git(repo / "sub", "log", "-1", "--format=%s") == "in\n"


@pytest.mark.parametrize("kind", ["worktree", "submodule"])
def test_a_repository_that_lies_elsewhere_is_warned_of_and_its_index_stays_right(
    main: Branch, repo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    if kind == "worktree":
        place, repository = tmp_path / "linked", repo / ".git/worktrees/linked"
        git(repo, "worktree", "add", "-q", str(place))
    else:
        place, repository = repo / "sub", repo / ".git/modules/sub"
        git(repo, "submodule", "--quiet", "add", str(repo), "sub")
    with caplog.at_level(logging.WARNING):
        box = main.spawn(Values(), workspace=place)
    (told,) = [record.getMessage() for record in caplog.records]
    assert str(place) in told
    assert str(repository) in told
    inside = box.exec("git status")
    assert inside.returncode == 128
    assert "not a git repository" in inside.stderr
    box.exec("echo more >> file")
    main.apply()
    assert git(place, "status", "--porcelain") == " M file\n"
    git(place, "commit", "-qam", "applied")
    git(place, "fsck", "--strict")


def test_a_repository_without_anything_odd_is_not_warned_of(
    repo: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = freeze(repo, home, flush=False)
    assert (caplog.records, Frozen.load(home, first.id).skipped) == ([], ())
