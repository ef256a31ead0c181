"""A state directory and a database elsewhere find to each other entirely, whenever the process is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kibo.model.errors import InvalidInput, WrongState
from kibo.runtime.layers.home import prepare_home
from kibo.store import crash
from kibo.store.belonging import open_history
from kibo.wiring import settings

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = """
import sys
from pathlib import Path
from kibo.store.belonging import open_history
open_history(Path(sys.argv[1]), sys.argv[2]).close()
"""


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "one", tmp_path / "two"]
    for home in found:
        prepare_home(home)
    return found


def url(tmp_path: Path, name: str = "store") -> str:
    return f"sqlite:///{tmp_path}/{name}.db"


@pytest.mark.parametrize("point", ["belong.begun", "belong.claimed", "belong.noted"])
def test_killed_at_any_point_the_next_process_goes_on_and_no_other_directory_does(
    point: str, homes: list[Path], tmp_path: Path
) -> None:
    one, two = homes
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(one), url(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE), crash.VARIABLE: point},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if point == "belong.claimed":  # to another database, which has no row of this directory's
        open_history(one, url(tmp_path, "other")).close()
        with pytest.raises(WrongState):
            open_history(one, url(tmp_path))
        return
    open_history(one, url(tmp_path)).close()
    open_history(one, url(tmp_path)).close()
    with pytest.raises(WrongState, match="of another state directory"):
        open_history(two, url(tmp_path))
    with pytest.raises(WrongState, match="in another database"):
        open_history(one, url(tmp_path, "other"))


def test_of_directories_that_want_one_database_at_once_one_gets_it(homes: list[Path], tmp_path: Path) -> None:
    open_history(homes[0], f"sqlite:///{homes[0]}/history.db").close()  # tables are made once
    Path(homes[0] / "history.db").rename(tmp_path / "store.db")
    refused: list[Path] = []

    def claim(home: Path) -> None:
        try:
            open_history(home, url(tmp_path)).close()
        except WrongState:
            refused.append(home)

    threads = [threading.Thread(target=claim, args=(home,)) for home in homes for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert len(set(refused)) == 1


def test_a_history_that_began_in_its_directory_stays_there(homes: list[Path], tmp_path: Path) -> None:
    open_history(homes[0], settings.read(homes[0]).store).close()
    with pytest.raises(WrongState, match=r"in its own history\.db"):
        open_history(homes[0], url(tmp_path))
    assert not (tmp_path / "store.db").exists()


def test_settings_say_which_database_and_what_they_cannot_mean_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.STORE, raising=False)
    file = tmp_path / settings.FILE
    assert settings.read(tmp_path) == settings.Settings(f"sqlite:///{tmp_path}/history.db", "")
    file.write_text('[store]\nurl = "sqlite:///a.db"\n')
    assert settings.read(tmp_path) == settings.Settings("sqlite:///a.db", str(file))
    monkeypatch.setenv(settings.STORE, "sqlite:///b.db")
    assert settings.read(tmp_path) == settings.Settings("sqlite:///b.db", settings.STORE)
    monkeypatch.delenv(settings.STORE)
    for bad in (
        "[store]\nurl = 1",
        '[store]\nURL = "x:pa55@y"',
        'store = "x:pa55@y"',
        "[other]",
        "\0",
        "a:pa55",
        "[secrets]\nTOKEN = 1",
        'secrets = "pa55"',
    ):
        file.write_text(bad)
        with pytest.raises(InvalidInput) as refused:
            settings.read(tmp_path)
        assert str(file) in refused.value.message
        assert "pa55" not in str(refused.value)


def test_settings_say_where_values_of_secrets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.STORE, "sqlite:///b.db")
    (tmp_path / settings.FILE).write_text('[secrets]\nTOKEN = "vault:secret/shop#token"\n')
    assert settings.read(tmp_path).secrets == {"TOKEN": "vault:secret/shop#token"}
    (tmp_path / settings.FILE).write_text('[secrets]\nTOKEN = "shop"\n')
    with pytest.raises(InvalidInput, match="'shop' does not say where the value of a secret is"):
        settings.read(tmp_path)
