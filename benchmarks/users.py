"""Runs the benchmarks as the user who asked and, where that is root, as an ordinary user as well."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: The user nobody, who owns nothing and may do nothing special.
ORDINARY: Final = 65_534
CHECKOUT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Runner:
    """One user with an interpreter and places of their own.

    Attributes:
        user: ``"root"`` or ``"ordinary user"``.
    """

    user: str
    python: str
    environment: dict[str, str]
    switch: dict[str, Any]

    def start(self, benches: list[str], share: float) -> Iterator[dict[str, Any]]:
        """Runs benchmarks as this user. Yields what they tell, as it comes.

        Raises:
            subprocess.CalledProcessError: They did not come to their end.
        """
        command = [self.python, "-m", "benchmarks.worker", str(share), *benches]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=CHECKOUT, **self.switch
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)


@contextmanager
def runners(wanted: str) -> Iterator[list[Runner]]:
    """Prepares the users: ``"root"``, ``"ordinary"`` or ``"both"``. What they leave behind is removed."""
    with tempfile.TemporaryDirectory(prefix="kibo-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        found = []
        if os.geteuid() == 0 and wanted in ("both", "root"):
            found.append(_same(place / "root", "root"))
        if os.geteuid() == 0 and wanted in ("both", "ordinary"):
            found.append(_ordinary(place / "ordinary"))
        if os.geteuid() != 0 and wanted in ("both", "ordinary"):
            found.append(_same(place / "ordinary", "ordinary user"))
        yield found


def _environment(place: Path, packages: list[Path]) -> dict[str, str]:
    for part in ("home", "state", "tmp"):
        (place / part).mkdir(parents=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(place / "home"),
        "KIBO_HOME": str(place / "state"),
        "TMPDIR": str(place / "tmp"),
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _same(place: Path, user: str) -> Runner:
    return Runner(user, sys.executable, _environment(place, [CHECKOUT / "src"]), {})


def _ordinary(place: Path) -> Runner:
    """Gives nobody an interpreter of our version, and the packages; copies of what only root may look at."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = next(
        (path for path in (Path(sys.base_prefix), Path("/usr")) if _open_to_all(path / "bin" / version)), None
    )
    if python is None:
        raise SystemExit(
            f"an ordinary user needs a {version} that everybody may run, such as the distribution's"
        )
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    place.mkdir()
    paths = [CHECKOUT / "src", packages, CHECKOUT]
    if not all(_open_to_all(path) for path in paths):
        shutil.copytree(CHECKOUT / "src", place / "src")
        shutil.copytree(CHECKOUT / "benchmarks", place / "packages" / "benchmarks")
        shutil.copytree(packages, place / "packages", dirs_exist_ok=True)
        paths = [place / "src", place / "packages"]
    environment = _environment(place, paths)
    for path in (place, *(place / part for part in ("home", "state", "tmp"))):
        os.chown(path, ORDINARY, ORDINARY)
    return Runner(
        "ordinary user",
        str(python / "bin" / version),
        environment,
        {"user": ORDINARY, "group": ORDINARY, "extra_groups": []},
    )


def _open_to_all(path: Path) -> bool:
    return path.exists() and all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))
