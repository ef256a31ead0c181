"""An ordinary user to whom the host grants a range of ids, as it does to everybody whom `adduser` makes."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ordinary_user
from warm import Warm

#: newuidmap wants a user with a name; games are not played here.
USER = pwd.getpwnam("games")
WHO = (USER.pw_uid, USER.pw_gid)
#: In no one's use, and without a name.
STRANGER = 64_325
FIRST = 2_000_000_000
#: What a box's ids matter to.
MODULES = [
    "test_spawn.py",
    "test_actions.py",
    "test_exec.py",
    "test_files.py",
    "test_states.py",
    "test_services.py",
]
FILES = ("/etc/subuid", "/etc/subgid")

pytestmark = [
    pytest.mark.timeout(ordinary_user.MODULE_S + 30),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root in order to become another user"),
    pytest.mark.skipif(
        not ordinary_user.same_version(), reason="the system's Python is of another version than the tests'"
    ),
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="make setup installs newuidmap"),
]

SPAWN = """
import os
from pathlib import Path
import kibo
from kibo.wiring import runtime
os.mkdir("notes")
with kibo.Box().spawn() as box:
    print(runtime().states().session.facts["ids"], box.exec("id -u").stdout.strip())
with kibo.branch() as main:
    box = main.spawn(kibo.Box(), workspace="notes")
    box.exec("echo mine > plan")
    main.apply()
print(os.stat("notes/plan").st_uid, os.listdir("notes"))
"""
BUILD = """
from pathlib import Path
from kibo import Box, Env, KiboError
from kibo.wiring import runtime
class Owned(Box):
    env = Env(files={"/work/a": b"a"}, run=["chown 5:5 /work/a; stat -c %u /work > /srv/id"])
with Owned().spawn() as box:
    print(box.exec("cat /srv/id; stat -c %u /work/a; touch own && stat -c %u own").stdout.split())
    layer = runtime().states().ensure(Owned()).built.layers[-1].path
    print(Path(layer, "work/a").stat().st_uid)
"""
ASK = """
import kibo, sys
try:
    with kibo.Box().spawn() as box:
        print(box.exec("id -u").stdout)
except kibo.KiboError as error:
    print(error.code, error.details.get("missing", ""))
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with ordinary_user.place_of(*WHO) as path:
        yield path


@pytest.fixture(scope="module")
def granted() -> Iterator[None]:
    """Grants the range, for as long as this module runs; the lines of others stay as they are."""
    for path in FILES:
        with open(path, "a") as file:
            file.write(f"{USER.pw_name}:{FIRST}:65536\n")
    yield
    for path in FILES:
        lines = Path(path).read_text().splitlines(keepends=True)
        Path(path).write_text(
            "".join(line for line in lines if not line.startswith(f"{USER.pw_name}:{FIRST}:"))
        )


def run(place: Path, program: str, **variables: str) -> list[str]:
    done = ordinary_user.run(place, *WHO, ["-c", program], **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_a_range_that_nobody_asked_for_is_not_used_and_branches_write_files_of_the_users(
    place: Path, granted: None
) -> None:
    assert run(place, SPAWN) == ["single 1000", f"{USER.pw_uid} ['plan']"]


def test_a_range_that_is_asked_for_gives_files_the_owners_that_packages_want(
    place: Path, granted: None
) -> None:
    told = run(place, BUILD, KIBO_IDS="range", KIBO_HOME=f"{place}/home/range")
    assert told == ["['1000', '5', '1000']", str(FIRST + 4)]


def test_a_state_directory_of_boxes_with_other_ids_is_refused(place: Path, granted: None) -> None:
    home = f"{place}/home/once"
    assert run(place, ASK, KIBO_HOME=home)[0] == "1000"
    assert run(place, ASK, KIBO_HOME=home, KIBO_IDS="range") == ["state.wrong "]
    assert run(place, ASK, KIBO_HOME=home)[0] == "1000"


def test_a_range_that_is_not_granted_is_an_error_and_no_smaller_one(place: Path) -> None:
    done = ordinary_user.run(
        place,
        STRANGER,
        STRANGER,
        ["-c", ASK],
        KIBO_IDS="range",
        KIBO_HOME=f"{place}/nowhere",
        HOME="/nowhere",
    )
    assert done.stdout.splitlines() == ["host.unsupported range of ids"]


def test_a_word_that_says_nothing_about_ids_is_an_error(place: Path) -> None:
    assert run(place, ASK, KIBO_IDS="rnge") == ["input.invalid "]


@pytest.fixture(scope="module")
def user(place: Path, granted: None) -> Iterator[Warm]:
    with ordinary_user.warm(place, *WHO) as process:
        yield process


@pytest.mark.parametrize("module", MODULES)
def test_all_works_in_a_range_as_it_does_with_one_id(user: Warm, place: Path, module: str) -> None:
    layers = {"KIBO_IDS": "range", "KIBO_HOME": f"{place}/home/range"}
    ordinary_user.run_tests(user, place, f"runtime/{module}", **layers)
