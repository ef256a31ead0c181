"""The steps that run programs: what each runs inside its sandbox, and what it reports for the lock."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

from kibo.runtime.images.inside import Inside, Refusal
from kibo.runtime.images.places import NPM_HOME, PIP_HOME, PYTHON

Recipe = Callable[[Inside], dict[str, Any]]

_APT_OPTIONS: Final = (
    "-y", "-q", "--no-install-recommends",
    "-o", "Dpkg::Use-Pty=0",
    # A step that does not finish leaves nothing, so nothing in it needs to survive power loss on its own.
    "-o", "Dpkg::Options::=--force-unsafe-io",
    "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
    "-o", "Acquire::Retries=3", "-o", "Acquire::ForceHash=sha256",
)  # fmt: skip
_APT_URI: Final = re.compile(
    r"^'[^']*' (?P<file>\S+) (?P<size>\d+) (?:SHA256:(?P<sha256>[0-9a-f]{64}))?", re.M
)
_POLICY: Final = "/usr/sbin/policy-rc.d"


def apt(packages: list[str], locked: dict[str, Any] | None) -> Recipe:
    """Installs Debian packages. Recommended packages are not among them; services are not started.

    With a lock exactly the recorded versions are asked for, and every archive's hash is compared before anything is
    fetched; apt itself then checks each archive against the hash in the signed index.
    """
    names = packages
    if locked:
        names = [f"{package['name']}={package['version']}" for package in locked["packages"]]

    def run(inside: Inside) -> dict[str, Any]:

        variables = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
        for path in ("/var/lib/apt/lists/partial", "/var/cache/apt/archives/partial", "/var/log/apt"):
            os.makedirs(path, exist_ok=True)
        inside.run(["apt-get", "update", "-q", "-o", "Acquire::Retries=3"], variables=variables)
        listing = inside.run(
            ["apt-get", "install", "--print-uris", "-qq", *_APT_OPTIONS, *names],
            variables=variables,
            capture=True,
        )
        resolved = {"packages": parse_uris(listing.decode())}
        if locked:
            compare("apt", locked["packages"], resolved["packages"])
        had_policy = os.path.lexists(_POLICY)
        if not had_policy:
            # Without it, packages would start their services in the sandbox, invoke-rc.d(8).
            with open(_POLICY, "w") as file:
                file.write("#!/bin/sh\nexit 101\n")
            os.chmod(_POLICY, 0o755)
        inside.run(["apt-get", "install", *_APT_OPTIONS, *names], variables=variables)
        if not had_policy:
            os.unlink(_POLICY)
        inside.run(["apt-get", "clean"], variables=variables)
        return resolved

    return run


def parse_uris(listing: str) -> list[dict[str, str]]:
    """Reads what ``apt-get --print-uris`` says: packages, versions and hashes, sorted by name."""
    found = []
    for match in _APT_URI.finditer(listing):
        name, version, architecture = urllib.parse.unquote(match["file"]).removesuffix(".deb").rsplit("_", 2)
        package = {"name": name, "version": version, "architecture": architecture}
        found.append(package | {"sha256": match["sha256"] or ""})
    return sorted(found, key=lambda package: package["name"])


def compare(what: str, wanted: list[dict[str, str]], found: list[dict[str, str]]) -> None:
    """Holds what a step is about to install against the lock.

    Raises:
        Refusal: They differ; the message names the first difference.
    """
    recorded = {package["name"]: package for package in wanted}
    present = {package["name"]: package for package in found}
    for name in sorted(recorded.keys() | present.keys()):
        if recorded.get(name) != present.get(name):
            raise Refusal(
                "locked",
                f"{what} would install {_describe(present.get(name))}, and the lock has "
                f"{_describe(recorded.get(name))}",
                {"package": name, "locked": recorded.get(name), "found": present.get(name)},
            )


def _describe(package: dict[str, str] | None) -> str:
    if package is None:
        return "no such package"
    return f"{package['name']} {package['version']}"


def pip(requirements: list[str], pip_path: str, locked: dict[str, Any] | None) -> Recipe:
    """Installs Python packages for the guest's interpreter into their own directory.

    Args:
        requirements: As pip takes them.
        pip_path: Where the sandbox has pip: a directory or a wheel that Python can run.
        locked: Exact versions and hashes to install, and nothing else.
    """

    def run(inside: Inside) -> dict[str, Any]:

        report = "/run/kibo/report.json"
        command = [
            PYTHON,
            pip_path,
            "install",
            "--target",
            PIP_HOME,
            "--no-warn-script-location",
            "--report",
            report,
        ]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        if locked:
            lines = [
                f"{package['name']}=={package['version']} --hash=sha256:{package['sha256']}"
                for package in locked["packages"]
            ]
            with open("/run/kibo/requirements.txt", "w") as file:
                file.write("\n".join(lines) + "\n")
            command += ["--no-deps", "--require-hashes", "-r", "/run/kibo/requirements.txt"]
        else:
            command += requirements
        inside.run([*command, "--no-compile"], variables={"PIP_ROOT_USER_ACTION": "ignore"})
        # pip itself would compile in a temporary place and leave that name in each file. Packages contain templates
        # and sources for other versions that do not compile; pip passes over them too.
        compile_all = [PYTHON, "-m", "compileall", "-q", "-q", PIP_HOME]
        inside.run(compile_all, variables={"PYTHONHASHSEED": "0"}, accept=(0, 1))
        for name in os.listdir(PIP_HOME):
            if name.endswith(".dist-info"):
                _forget_the_asking(f"{PIP_HOME}/{name}")
        with open(report) as file:
            return {
                "python": f"{sys.version_info.major}.{sys.version_info.minor}",
                **parse_report(json.load(file)),
            }

    return run


def _forget_the_asking(place: str) -> None:
    """Removes pip's notes of how it was asked for a package, which differ where a lock names all of them.

    That it was named itself, and is no dependency, is one (PEP 376); a local path of the build's own is another.
    """
    notes = [name for name in ("REQUESTED", "direct_url.json") if os.path.exists(f"{place}/{name}")]
    for name in notes:
        os.unlink(f"{place}/{name}")
    if notes and os.path.exists(f"{place}/RECORD"):
        told = tuple(f"{os.path.basename(place)}/{name}," for name in notes)
        with open(f"{place}/RECORD", newline="") as file:
            lines = [line for line in file if not line.startswith(told)]
        with open(f"{place}/RECORD", "w", newline="") as file:
            file.writelines(lines)


def parse_report(report: dict[str, Any]) -> dict[str, Any]:
    """Reads pip's installation report: names, versions and hashes, sorted by name."""
    packages = []
    for item in report["install"]:
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        packages.append(
            {
                "name": item["metadata"]["name"],
                "version": item["metadata"]["version"],
                "sha256": hashes.get("sha256", ""),
            }
        )
    return {"packages": sorted(packages, key=lambda package: package["name"].lower())}


def npm(packages: list[str], locked: dict[str, Any] | None) -> Recipe:
    """Installs npm packages into their own directory, with npm's own lock where there is one."""

    def run(inside: Inside) -> dict[str, Any]:

        os.makedirs(NPM_HOME)
        variables = {
            "HOME": "/root",
            "NPM_CONFIG_CACHE": "/run/kibo/npm-cache",
            "NPM_CONFIG_UPDATE_NOTIFIER": "false",
        }
        common = ["--no-fund", "--no-audit", "--omit-lockfile-registry-resolved"]
        if locked:
            for name, content in (("package.json", locked["package"]), ("package-lock.json", locked["lock"])):
                with open(f"{NPM_HOME}/{name}", "w") as file:
                    json.dump(content, file, indent=2, sort_keys=True)
            inside.run(["npm", "ci", *common], variables=variables, cwd=NPM_HOME)
        else:
            with open(f"{NPM_HOME}/package.json", "w") as file:
                json.dump({"name": "box", "private": True}, file)
            inside.run(["npm", "install", *common, *packages], variables=variables, cwd=NPM_HOME)
        os.symlink("node_modules/.bin", f"{NPM_HOME}/bin")
        resolved = {}
        for key, name in (("package", "package.json"), ("lock", "package-lock.json")):
            with open(f"{NPM_HOME}/{name}") as file:
                resolved[key] = without_addresses(json.load(file))
            # Both builds must leave the same bytes, whichever of npm's commands wrote the file.
            with open(f"{NPM_HOME}/{name}", "w") as file:
                json.dump(resolved[key], file, indent=2, sort_keys=True)
        return resolved

    return run


def without_addresses(value: Any) -> Any:
    """Takes npm's ``resolved`` addresses out of a lock; names, versions and integrity hashes stay."""
    if isinstance(value, dict):
        return {
            key: without_addresses(item)
            for key, item in value.items()
            if not (key == "resolved" and isinstance(item, str) and "://" in item)
        }
    return [without_addresses(item) for item in value] if isinstance(value, list) else value


def command(line: str, variables: dict[str, str]) -> Recipe:
    """Runs one shell command line, as root, from the root directory."""

    def run(inside: Inside) -> dict[str, Any]:
        print(f"$ {line}", flush=True)
        inside.run(["sh", "-ec", line], variables=variables)
        return {}

    return run
