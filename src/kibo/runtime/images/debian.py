"""The ``debian:<suite>`` base: a minimal Debian, made by mmdebstrap in a sandbox."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kibo.runtime.images.inside import Inside
from kibo.runtime.images.recipes import Recipe, compare

#: Where the sandbox shows the directory that becomes the layer.
TARGET: Final = "/run/kibo/target"
#: Traces of how this host reaches its mirrors, and of the bootstrap itself.
_LEFTOVERS: Final = ("etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf", "etc/machine-id")


def bootstrap(suite: str, sources: str, locked: dict[str, Any] | None) -> Recipe:
    """Makes a minimal system of one suite.

    Args:
        suite: The release's name, such as ``bookworm``.
        sources: The host's own package sources for that suite, or empty to use Debian's.
        locked: What the lock records; compared with what came out.
    """

    def run(inside: Inside) -> dict[str, Any]:
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
        command += ["--aptopt=/run/kibo/apt/kibo.conf", "--skip=cleanup/reproducible"]
        # The sandbox's own devices: mmdebstrap would make a terminal file system for a group id that a user with one
        # id has not got, and mount a /sys that no namespace of ours may mount.
        command += ["--skip=chroot/mount/dev", "--skip=chroot/mount/sys"]
        command += ['--extract-hook=mount --rbind /dev "$1/dev"', '--customize-hook=umount -R -l "$1/dev"']
        command += [suite, TARGET]
        if sources:
            path = "/run/kibo/base.sources" if "URIs:" in sources else "/run/kibo/base.list"
            with open(path, "w") as file:
                file.write(sources)
            command.append(path)
        variables = {"DEBIAN_FRONTEND": "noninteractive", "APT_CONFIG": ""}
        inside.run(command, variables=variables)
        for name in _LEFTOVERS:
            path = f"{TARGET}/{name}"
            if os.path.lexists(path):
                os.unlink(path)
        packages = _installed(Path(TARGET, "var/lib/dpkg/status"))
        if locked:
            compare("mmdebstrap", locked["packages"], packages)
        return {"packages": packages}

    return run


def host_sources(suite: str) -> str:
    """Returns the parts of the host's package sources that are for a Debian suite, as the host writes them.

    The host's mirrors are used where they have the suite; credentials in them are the caller's to take out.
    """
    if not os.path.exists("/etc/debian_version"):
        return ""
    suites = re.compile(rf"^{re.escape(suite)}(-updates|-security)?$")
    modern, classic = [], []
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if not path.is_file() or not os.access(path, os.R_OK):
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            modern += [part for part in _stanzas(text) if _names_debian(part, suites)]
        elif path.suffix == ".list":
            classic += [line for line in text.splitlines() if _is_line_for(line, suites)]
    if modern:
        return "\n\n".join(modern) + "\n"
    return "".join(f"{line}\n" for line in classic)


def _stanzas(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text):
        lines = [line for line in part.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            yield "\n".join(lines)


def _names_debian(stanza: str, suites: re.Pattern[str]) -> bool:
    fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", stanza, re.M))
    named = fields.get("Suites", "").split()
    return (
        "deb" in fields.get("Types", "").split() and bool(named) and all(suites.match(name) for name in named)
    )


def _is_line_for(line: str, suites: re.Pattern[str]) -> bool:
    words = re.sub(r"\[[^]]*\]", "", line).split()
    return len(words) > 3 and words[0] == "deb" and bool(suites.match(words[2])) and "main" in words[3:]


def _installed(status: Path) -> list[dict[str, str]]:
    """Reads names and versions from a package database."""
    found = []
    for stanza in status.read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", stanza, re.M))
        if fields:
            package = {"name": fields["Package"], "version": fields["Version"]}
            found.append(package | {"architecture": fields["Architecture"]})
    return sorted(found, key=lambda package: package["name"])
