"""The layer that gives every box the warden's own Python: standard library, guest packages, Kibo's guest half.

A guest is forked from the warden, so its interpreter is already in memory; what it imports later must be the files
of exactly that interpreter, whatever the box's base is. They lie at ``/opt/kibo/python`` and ``/opt/kibo/site``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from kibo.runtime.images import libraries
from kibo.runtime.images.places import COMMANDS, PYTHON_HOME, SITE
from kibo.runtime.images.sources import distribution, guest_modules, guest_packages

#: What no box imports: test suites, the editor and its toolkit, the build's own static library, other packages.
_LEFT_OUT: Final = frozenset(
    {"test", "tests", "idlelib", "idle_test", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip",
     "site-packages", "dist-packages", "__phello__", "msilib"}
)  # fmt: skip
#: In shell, because a base may have no C library, or another: the loader is told which one to take.
_COMMAND: Final = """#!/bin/sh
exec {loader} --library-path {libraries} {program} -IS -c '
import sys
sys.path.append("{site}")
from kibo.kibo_box import main
sys.exit(main(sys.argv[1:]))' "$@"
"""
_RUNPATH: Final = f"{PYTHON_HOME}/lib".encode()


def write_base(target: Path) -> None:
    """Writes interpreter, standard library and guest packages below ``target``. About 50 MB.

    Raises:
        HostUnsupported: A package that the guest needs is not installed for this interpreter.
    """
    home = target / PYTHON_HOME.lstrip("/")
    stdlib = Path(sysconfig.get_path("stdlib"))
    library = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    _copy_tree(stdlib, library)
    platform = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    if not (library / "lib-dynload").is_dir():
        _copy_tree(platform, library / "lib-dynload")
    _write_programs(home)
    # Programs that are started in a box with this interpreter find what its guest finds.
    for packages in (
        library / "site-packages",
        home / "lib/python3/dist-packages",
    ):  # the second is Debian's name
        packages.mkdir(parents=True)
        (packages / "kibo.pth").write_text(f"/opt/kibo/pip\n{SITE}\n")
    site = target / SITE.lstrip("/")
    site.mkdir(parents=True)
    for name in guest_packages():
        _copy_distribution(distribution(name), site)
    program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    modules = [program, *(library / "lib-dynload").glob("*.so"), *site.rglob("*.so")]
    libraries.copy_needed(modules, target / libraries.NEEDED.lstrip("/"))
    libraries.copy_c_library(program, modules, target / libraries.C_LIBRARY.lstrip("/"))


def write_guest(base: Path, target: Path) -> None:
    """Writes the whole layer: the base's files as hard links, and Kibo's guest half beside them.

    Links keep a change of Kibo's own source from costing 50 MB; layers are immutable, so sharing is safe.
    """
    shutil.copytree(base, target, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
    for source, name in guest_modules():
        path = target / SITE.lstrip("/") / "kibo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o644)
    command = target / COMMANDS.lstrip("/") / "kibo-box"
    command.parent.mkdir()
    command.write_text(_command(target))
    command.chmod(0o755)


def _command(target: Path) -> str:
    """Returns the program by which a box calls out: run by the guest's interpreter, whatever the base has."""
    here = target / PYTHON_HOME.lstrip("/") / "bin"
    real = next((path.name for path in here.glob("python*.real")), "python3")
    text = _COMMAND.format(
        loader=libraries.LOADER,
        libraries=f"{libraries.C_LIBRARY}:{PYTHON_HOME}/lib",
        program=f"{PYTHON_HOME}/bin/{real}",
        site=SITE,
    )
    if (target / libraries.LOADER.lstrip("/")).exists():
        return text
    return text.replace(f"{libraries.LOADER} --library-path {libraries.C_LIBRARY}:{PYTHON_HOME}/lib ", "")


def _copy_tree(source: Path, target: Path) -> None:
    def leave_out(directory: str, names: list[str]) -> list[str]:
        return [
            name
            for name in names
            if name in _LEFT_OUT
            or name.startswith(("config-", "_tkinter.", "_test", "_xxtest", "xxlimited", "nis."))
            or name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a", ".exe"))
        ]

    shutil.copytree(source, target, ignore=leave_out, symlinks=False, ignore_dangling_symlinks=True)


def _write_programs(home: Path) -> None:
    """Copies the interpreter's program and its shared library, and makes the one find the other.

    The program names the host's directory of its library, which no box has. The name is overwritten in place when
    it is long enough; otherwise a small script sets the library path.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    bin_directory = home / "bin"
    bin_directory.mkdir(parents=True)
    program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    image = program.read_bytes()
    library = _shared_library()
    name = version
    if library is not None:
        (home / "lib").mkdir(exist_ok=True)
        shutil.copyfile(library, home / "lib" / library.name)
        (home / "lib" / library.name).chmod(0o755)
        patched = _replace_runpath(image, os.fspath(library.parent).encode())
        if patched is None:
            name = f"{version}.real"
            script = f'#!/bin/sh\nLD_LIBRARY_PATH={PYTHON_HOME}/lib exec {PYTHON_HOME}/bin/{name} "$@"\n'
            (bin_directory / version).write_text(script)
            (bin_directory / version).chmod(0o755)
        else:
            image = patched
    (bin_directory / name).write_bytes(image)
    (bin_directory / name).chmod(0o755)
    for link in ("python3", "python"):
        (bin_directory / link).symlink_to(version)


def _shared_library() -> Path | None:
    """Finds libpython where the interpreter is linked to it."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return None
    with open("/proc/self/maps") as maps:
        for line in maps:
            if re.search(r"/libpython\d[\d.]*\w*\.so[\d.]*$", line.rstrip()):
                return Path(line[line.index("/") :].rstrip())
    return None


def _replace_runpath(image: bytes, old: bytes) -> bytes | None:
    """Overwrites a run path in a program with the box's, padded with zeros. None when it does not fit."""
    start = image.find(old + b"\0")
    if start < 0 or len(old) < len(_RUNPATH):
        return None
    return image[:start] + _RUNPATH.ljust(len(old), b"\0") + image[start + len(old) :]


def _copy_distribution(package: Distribution, site: Path) -> None:
    for file in package.files or ():
        if ".." in file.parts or file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            continue  # programs, and notes of how the host's copy came to be there
        source = Path(str(package.locate_file(file)))
        if source.suffix == ".pyc" and not source.exists():
            continue
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, path)
        path.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
