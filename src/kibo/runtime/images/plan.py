"""Turns an Env into its chain of build steps. Reads facts of the host, builds nothing."""

from __future__ import annotations

import base64
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from kibo.box.env import Env
from kibo.runtime.images import copying, host_tree
from kibo.runtime.images.sources import base_signature
from kibo.runtime.images.steps import Chain, Step

#: Steps whose result is worth recording in a lock. The others are made from this machine and this Kibo.
LOCKED_KINDS = frozenset({"apt", "pip", "npm", "files", "run", "debian", "oci"})


def plan_steps(env: Env) -> tuple[Step, ...]:
    """Lists the steps of an environment, in build order: base, apt, pip, npm, files, run.

    Raises:
        InvalidDefinition: A file that the Env names cannot be read.
        HostUnsupported: The host cannot be the base.
    """
    chain = Chain(host_usr=env.base == "host")
    add_interpreter(chain)
    _add_base(chain, env.base)
    system = _system_state() if chain.host_usr else ""
    if env.apt:
        packages = sorted(env.apt)
        chain.add("apt", f"apt: {' '.join(env.apt)}", {"packages": packages}, facts=system)
    if env.pip:
        _add_pip(chain, env)
    if env.npm:
        chain.add("npm", f"npm: {' '.join(env.npm)}", {"packages": sorted(env.npm)}, facts=system)
    if env.files:
        _add_files(chain, env.files)
    for line in env.run:
        spec = {"command": line, "variables": dict(sorted(env.variables.items()))}
        chain.add("run", f"run: {line}", spec, facts=system)
    return tuple(chain.steps)


def add_interpreter(chain: Chain) -> Step:
    """Adds the running Python's own files. They see nothing of the host's /usr, so that all chains have one key."""
    facts = base_signature()
    return chain.add("interpreter", "python: standard library", {}, facts=facts, part=False, host_usr=False)


def _add_base(chain: Chain, base: str) -> None:
    if base == "host":
        chain.add("host", "base: host", {}, facts=_host_signature(), host_usr=False)
        return
    kind, _, reference = base.partition(":")
    host = _add_host_tool(chain)
    machine = os.uname().machine
    if kind == "debian":
        below = [host.key]
        if not os.path.exists("/usr/bin/mmdebstrap"):
            # Nothing is installed on the host: the tool gets a layer of its own.
            packages = {"packages": ["mmdebstrap"]}
            tool = chain.add("apt", "tools: mmdebstrap", packages, facts=_system_state(), below=(host.key,),
                             part=False, host_usr=True)  # fmt: skip
            below.append(tool.key)
        suite = {"suite": reference}
        chain.add(
            "debian",
            f"base: {base}",
            suite,
            facts=machine,
            below=tuple(below),
            stands_alone=True,
            host_usr=True,
        )
    else:
        image = {"reference": reference}
        facts = [machine, _layout_state(reference)]
        chain.add("oci", f"base: {base}", image, facts=facts, below=(host.key,), stands_alone=True)
    chain.add("boxroot", "base: users, mount points, libraries", {}, facts=base_signature())


def _add_host_tool(chain: Chain) -> Step:
    """Adds the host's own system as a place to run tools in, which is no part of the environment."""
    return chain.add("host", "tools: host", {}, facts=_host_signature(), below=(), part=False, host_usr=False)


def _layout_state(reference: str) -> str:
    """Names what a layout on disk holds now. A registry is asked once: a tag there is taken to stay what it was."""
    if not reference.startswith("dir:"):
        return ""
    index = Path(reference.removeprefix("dir:").partition(":")[0], "index.json")
    return index.read_text() if index.is_file() else ""


def _add_pip(chain: Chain, env: Env) -> None:
    """Adds the pip step. The guest's interpreter is the host's, so on a foreign base it runs on the host's system."""
    spec = {"requirements": sorted(env.pip)}
    label = f"pip: {' '.join(env.pip)}"
    facts = base_signature()
    if chain.host_usr:
        chain.add("pip", label, spec, facts=facts, stands_alone=True)
        return
    host = next(step for step in chain.steps if step.kind == "host")
    chain.add("pip", label, spec, facts=facts, below=(host.key,), stands_alone=True, host_usr=True)


def _add_files(chain: Chain, files: Any) -> None:
    descriptions: list[dict[str, Any]] = []
    payload: list[dict[str, str]] = []
    for destination, source in sorted(files.items()):
        descriptions.append(copying.describe_source(destination, source))
        if isinstance(source, bytes):
            payload.append({"to": destination, "content": base64.b64encode(source).decode()})
        else:
            payload.append({"to": destination, "path": str(Path(source).expanduser().absolute())})
    label = f"files: {' '.join(sorted(files))}"
    chain.add("files", label, {"files": descriptions}, stands_alone=True, payload={"files": payload})


@lru_cache(maxsize=1)
def _host_signature() -> str:
    return host_tree.signature()


def _system_state() -> str:
    """Names the state of the host's packages by the status of its package database. One or two stats."""
    for path in ("/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite"):
        try:
            info = os.stat(path)
        except FileNotFoundError:
            continue
        return f"{path} {info.st_size} {info.st_mtime_ns}"
    return os.uname().release
