"""The host's package-manager settings as a build step may see them: mirrors, proxies, certificates; no credentials.

Settings are copied into the step's own directory and mounted read-only. Whatever names a user or a password is left
out of the copy: ``user:password@`` in an address, token lines of npm, apt's ``auth.conf``. Files that exist only to
hold credentials (``~/.netrc``, ``~/.pypirc``, ``~/.pip``) are never read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kibo.runtime.images.sandbox import Bind

#: Variables that say how to reach the network. Others of the host's environment do not reach a step.
_NETWORK_VARIABLES: Final = frozenset(
    {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir",
     "requests_ca_bundle", "curl_ca_bundle", "node_extra_ca_certs", "git_ssl_cainfo"}
)  # fmt: skip
#: pip's own variables that would send packages elsewhere, or ask a person.
_PIP_REFUSED: Final = frozenset(
    {"PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT", "PIP_SRC", "PIP_REQUIRE_VIRTUALENV", "PIP_CONFIG_FILE",
     "PIP_PYTHON", "PIP_CACHE_DIR", "PIP_LOG", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_KEYRING_PROVIDER",
     "PIP_CLIENT_CERT", "PIP_REPORT", "PIP_DRY_RUN", "PIP_REQUIRE_HASHES"}
)  # fmt: skip
#: The certificates that the host trusts, in one file.
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_NPM_KEYS: Final = re.compile(
    r"^(@[\w.-]+:registry|registry|proxy|https-proxy|noproxy|cafile|ca(\[\])?|strict-ssl|fetch-[\w-]+|maxsockets|"
    r"omit-lockfile-registry-resolved|replace-registry-host|fund|audit|update-notifier|nodedir)\s*=",
)
_CREDENTIALS: Final = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@\"']+@")
_LOCAL_PATH: Final = re.compile(r"(?:(?<=file://)|(?<![\w/.:-]))/[\w@%+.,~-][\w@%+.,~/-]*")


def without_credentials(text: str) -> str:
    """Takes ``user:password@`` out of every address in a text."""
    return _CREDENTIALS.sub(lambda match: match["scheme"], text)


@dataclass(slots=True)
class Settings:
    """What a step is given besides its root.

    Attributes:
        stage: A directory of the step's entry, where copies are made.
        variables: Environment variables.
        binds: Files and directories to show.
    """

    stage: Path
    variables: dict[str, str] = field(default_factory=dict)
    binds: list[Bind] = field(default_factory=list)

    def add_network(self) -> None:
        """Name resolution as on the host, proxies, and the certificates that the host trusts."""
        for name in ("resolv.conf", "hosts"):
            self.add_text(f"/etc/{name}", _read(Path("/etc") / name))
        for name, value in os.environ.items():
            if name.lower() in _NETWORK_VARIABLES or name == "PIP_CERT":
                self.variables[name] = (
                    self._show_certificates(value) if os.path.isabs(value) else (without_credentials(value))
                )
        if os.path.isfile(_BUNDLE):
            shown = self._show_certificates(_BUNDLE)
            # Node trusts a list of its own, unless a distribution has made it look at the system's.
            self.variables.setdefault("NODE_EXTRA_CA_CERTS", shown)

    def _show_certificates(self, path: str) -> str:
        """Shows trusted certificates where no package writes its own. Returns their place in the sandbox."""
        target = "/run/kibo/certs/" + path.strip("/").replace("/", "-")
        if os.path.exists(path) and all(bind.target != target for bind in self.binds):
            self.binds.append(Bind(Path(path), target))
        return target

    def add_text(self, target: str, text: str) -> None:
        """Shows a text as a file."""
        path = self.stage / f"{len(self.binds)}-{os.path.basename(target)}"
        path.write_text(text)
        path.chmod(0o644)
        self.binds.append(Bind(path, target))

    def add_path(self, path: str) -> None:
        """Shows a file or directory of the host at its own place. Missing, or already shown, is fine."""
        path = path.rstrip("/")
        if os.path.basename(path) == "simple":
            path = os.path.dirname(path)  # a local package index links to files that lie beside it
        shown = ["/usr", "/proc", "/dev", "/sys", "/run", "/etc/ssl", *(bind.target for bind in self.binds)]
        covered = any(path == target or path.startswith(target + "/") for target in shown)
        # A whole top-level directory is no setting, and would hide the base's own.
        if path.count("/") > 1 and os.path.exists(path) and not covered:
            self.binds.append(Bind(Path(path), path))

    def add_apt(self, *, whole: bool) -> None:
        """Shows apt's settings at ``/run/kibo/apt``.

        Args:
            whole: Whether the step's root is the host's own system, so that its sources and keys apply too; else only
                how to reach a network is taken.
        """
        stage = self.stage / "apt"
        stage.mkdir()
        lines = []
        if whole and os.path.isdir("/etc/apt"):
            _copy_settings(Path("/etc/apt"), stage)
            lines.append('Dir::Etc "/run/kibo/apt";')
        else:
            lines += _apt_network_lines()
        if os.path.isfile(_BUNDLE):
            lines.append(f'Acquire::https::CaInfo "{self._show_certificates(_BUNDLE)}";')
        # The sandbox has one network user; _apt's id need not exist, and its downloads lie in root's directory.
        lines.append('APT::Sandbox::User "root";')
        (stage / "kibo.conf").write_text("\n".join(lines) + "\n")
        self.binds.append(Bind(stage, "/run/kibo/apt"))
        self.variables["APT_CONFIG"] = "/run/kibo/apt/kibo.conf"

    def add_pip(self) -> None:
        """Copies pip's settings: its variables and configuration files, and the local paths that they name."""
        texts = []
        for name, value in os.environ.items():
            if name.startswith("PIP_") and name not in _PIP_REFUSED:
                self.variables[name] = without_credentials(value)
                texts.append(value)
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pip/pip.conf"
        parts = [_read(path) for path in (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), user)]
        merged = without_credentials(_merge_ini(parts))
        self.add_text("/run/kibo/pip.conf", merged)
        self.variables["PIP_CONFIG_FILE"] = "/run/kibo/pip.conf"
        for path in _LOCAL_PATH.findall("\n".join([*texts, merged])):
            self.add_path(path)

    def add_npm(self) -> None:
        """Copies npm's settings: addresses and certificates of its configuration files; tokens are left behind."""
        for name, value in os.environ.items():
            key = name.lower().removeprefix("npm_config_").replace("_", "-")
            if name.lower().startswith("npm_config_") and _NPM_KEYS.match(f"{key}="):
                self.variables[name] = without_credentials(value)
        lines = []
        for path in (Path("/etc/npmrc"), Path("/usr/etc/npmrc"), Path.home() / ".npmrc"):
            lines += [line for line in _read(path).splitlines() if _NPM_KEYS.match(line)]
        text = without_credentials("\n".join(lines) + "\n")
        self.add_text("/run/kibo/npmrc", text)
        self.variables["NPM_CONFIG_USERCONFIG"] = "/run/kibo/npmrc"
        for path in _LOCAL_PATH.findall(text):
            self.add_path(path)


def _read(path: Path) -> str:
    """Reads a settings file; one that is missing, or not for this user's eyes, says nothing."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return ""


def _merge_ini(texts: list[str]) -> str:
    """Merges configuration files as pip does, the later one winning a key."""
    import configparser

    merged = configparser.RawConfigParser()
    for text in texts:
        merged.read_string(text)
    lines = []
    for section in merged.sections():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}".replace("\n", "\n  ") for key, value in merged.items(section)]
    return "\n".join(lines) + "\n"


def _copy_settings(source: Path, target: Path) -> None:
    for directory, directories, files in os.walk(source):
        directories[:] = [name for name in directories if name != "auth.conf.d"]
        place = target / Path(directory).relative_to(source)
        place.mkdir(exist_ok=True)
        for name in files:
            path = Path(directory) / name
            if name == "auth.conf" or not os.access(path, os.R_OK):
                continue
            data = path.read_bytes()
            if name.endswith((".gpg", ".asc")):
                shutil.copyfile(path, place / name)
            else:
                (place / name).write_text(without_credentials(data.decode("utf-8", "surrogateescape")),
                                          errors="surrogateescape")  # fmt: skip
            (place / name).chmod(0o644)


def _apt_network_lines() -> list[str]:
    """Asks the host's apt how it reaches its mirrors."""
    program = shutil.which("apt-config")
    if program is None:
        return []
    dump = subprocess.run([program, "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(
        r"^Acquire::(https?|ftp|tor|Retries|Check-Valid-Until|Check-Date|Queue|ForceIPv)", re.I
    )
    return [without_credentials(line) for line in dump.splitlines() if wanted.match(line)]
